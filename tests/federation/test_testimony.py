"""What `sfd audit` concludes from signed heads, and the first bad line that it names."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from secure_fed_diffusion.dp import chain
from secure_fed_diffusion.dp.ledger import Ledger, verify
from secure_fed_diffusion.errors import LedgerError, PrivacyError, RunError
from secure_fed_diffusion.federation.heads import HeadBook, SignedHead, write_roster
from secure_fed_diffusion.federation.records import read_records
from secure_fed_diffusion.secagg.signing import Roster
from tests.dp.ledgers import forge, read, rewrite
from tests.dp.plans import terms
from tests.federation.test_heads import KEYS, ROSTER

CLIENTS = (0, 1, 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three rounds of three clients in one ledger, every charge signed; 10 lines."""
    write_roster(tmp_path / "roster.json", ROSTER)
    heads = HeadBook("run", ROSTER, tmp_path / "heads.jsonl", keep_all=True)
    with Ledger.create(tmp_path / "ledger.jsonl", terms()) as ledger:
        for number in range(3):
            for client_id in CLIENTS:
                ledger.charge(client_id, round=number, attempt=0, mechanism="gradient")
                heads.learn(sign(client_id, ledger.lines, ledger.head))
        heads.save()
    return tmp_path


def sign(client_id: int, line: int, head: str) -> SignedHead:
    return SignedHead.sign(KEYS[client_id], run_id="run", client_id=client_id, line=line, head=head)


def ledger_of(folder: Path) -> Path:
    return folder / "ledger.jsonl"


def test_the_record_is_bound_up_to_the_last_line_that_a_client_signed(folder: Path) -> None:
    records = read_records(folder)
    assert records.testimony.signed == {0: 8, 1: 9, 2: 10}
    assert records.testimony.n_heads == 9
    assert records.statement.endswith(
        "truncation is not excluded beyond line 10, the last head signed, by client 2."
    )
    report = records.to_dict()
    assert report["signed"]["last_signed_line"] == 10
    assert report["signed"]["roster_root"] == ROSTER.root.hex()


def test_a_configuration_that_was_edited_after_the_run_began_is_found(tmp_path: Path) -> None:
    begun, edited = b"# the run's\n[privacy]\n", b"[privacy]\nepsilon = 1.0\n"
    with Ledger.create(ledger_of(tmp_path), terms(config_digest=sha256(begun).hexdigest())):
        pass
    (tmp_path / "config.toml").write_bytes(begun)
    read_records(tmp_path)
    (tmp_path / "config.toml").write_bytes(edited)
    with pytest.raises(RunError, match=r"config\.toml is not the configuration that this run was begun with"):
        read_records(tmp_path)
    (tmp_path / "agreement.json").touch()  # an institution's names its own files; the agreement is signed
    read_records(tmp_path)


def test_a_charge_that_was_never_sent_is_signed_by_nobody_and_the_audit_says_so(folder: Path) -> None:
    with Ledger.open(ledger_of(folder)) as ledger:
        ledger.charge(0, round=3, attempt=0, mechanism="gradient")
        head = ledger.head
    assert (
        "up to the last one (11); truncation is not excluded beyond line 10" in read_records(folder).statement
    )
    rewrite(ledger_of(folder), read(ledger_of(folder))[:-1])  # and indeed nobody notices its cut
    read_records(folder)
    with pytest.raises(LedgerError, match="anchor"):
        read_records(folder, head=head)


@pytest.mark.parametrize("kept", [1, 5, 9])
def test_a_cut_tail_is_found_without_an_anchor(kept: int, folder: Path) -> None:
    rewrite(ledger_of(folder), read(ledger_of(folder))[:kept])
    verify(ledger_of(folder))  # the chain alone does not show it
    with pytest.raises(LedgerError, match="the tail was cut") as caught:
        read_records(folder)
    assert caught.value.line == kept + 1


@pytest.mark.parametrize("line", [2, 6, 10])
def test_a_rewrite_is_found_even_where_every_digest_was_mended(line: int, folder: Path) -> None:
    forge(ledger_of(folder), line, attempt=1)
    verify(ledger_of(folder))
    with pytest.raises(LedgerError, match="signed another head: this line, or one before it") as caught:
        read_records(folder)
    assert caught.value.line == line


def test_other_terms_under_the_same_charges_are_found(folder: Path) -> None:
    forge(ledger_of(folder), 1, budget_epsilon=20.0)
    verify(ledger_of(folder))
    with pytest.raises(LedgerError) as caught:
        read_records(folder)
    assert caught.value.line == 2  # nobody signs the terms alone: the first charge binds them


def test_what_the_server_forgot_its_clients_remember(folder: Path) -> None:
    whole = verify(ledger_of(folder)).digests
    peers = folder / "clients" / "0001" / "peers.jsonl"
    peers.parent.mkdir(parents=True)
    book = HeadBook("run", ROSTER, peers)
    book.learn(sign(2, 7, whole[6]))
    book.save()
    rewrite(ledger_of(folder), read(ledger_of(folder))[:4])
    (folder / "heads.jsonl").write_text("")
    with pytest.raises(LedgerError, match="client 2 signed line 7, the tail was cut") as caught:
        read_records(folder)
    assert caught.value.line == 5


def test_a_line_of_heads_that_is_none_is_named_with_its_file(folder: Path) -> None:
    heads = folder / "heads.jsonl"
    heads.write_text(heads.read_text() + "{}\n")
    number = heads.read_text().count("\n")
    with pytest.raises(LedgerError, match="no signed head") as caught:
        read_records(folder)
    assert str(caught.value).startswith(f"{heads}, line {number}: ")


def test_without_any_head_nothing_is_claimed(folder: Path) -> None:
    (folder / "heads.jsonl").unlink()
    rewrite(ledger_of(folder), read(ledger_of(folder))[:4])
    assert read_records(folder).statement.endswith(
        "truncation is not excluded: no client signed a head of it."
    )


def test_two_histories_of_one_client_are_found_in_two_witnesses_files(folder: Path) -> None:
    peers = folder / "clients" / "0001" / "peers.jsonl"
    peers.parent.mkdir(parents=True)
    book = HeadBook("run", ROSTER, peers)
    book.learn(sign(2, 10, "ab" * 32))
    book.save()
    with pytest.raises(LedgerError, match=r"client 2 signed (another head|two different heads)") as caught:
        read_records(folder)
    assert caught.value.line == 10


def test_a_roster_that_signed_none_of_it_is_found(folder: Path) -> None:
    strangers = {client_id: KEYS[5 - client_id].public for client_id in range(6)}
    write_roster(folder / "roster.json", Roster(strangers))
    with pytest.raises(LedgerError, match="did not sign") as caught:
        read_records(folder)
    assert str(caught.value).startswith(f"{folder / 'heads.jsonl'}, line 1: client ")
    (folder / "roster.json").write_text("{}")
    with pytest.raises(Exception, match="roster"):
        read_records(folder)
    (folder / "roster.json").unlink()
    with pytest.raises(LedgerError, match=r"no roster\.json"):
        read_records(folder)


def test_an_anchor_says_more_than_heads_do(folder: Path) -> None:
    head = verify(ledger_of(folder)).head
    assert "truncation is excluded by the anchor" in read_records(folder, head=head).statement


def test_keys_that_lie_beside_what_they_signed_are_admitted(folder: Path) -> None:
    key = folder / "clients" / "0000" / "signing.key"
    key.parent.mkdir(parents=True)
    key.write_text("")
    assert "against whoever can read it the signatures show nothing" in read_records(folder).statement


def test_a_clients_own_ledger_is_held_to_that_clients_heads_alone(tmp_path: Path) -> None:
    write_roster(tmp_path / "roster.json", ROSTER)
    heads = HeadBook("run", ROSTER, tmp_path / "heads.jsonl", keep_all=True)
    with Ledger.create(ledger_of(tmp_path), terms(owner=1)) as ledger:
        for number in range(3):
            ledger.charge(1, round=number, attempt=0, mechanism="gradient")
            heads.learn(sign(1, ledger.lines, ledger.head))
            heads.learn(sign(2, ledger.lines + 5, "ab" * 32))  # of client 2's ledger, which lies elsewhere
        with pytest.raises(PrivacyError, match="this ledger is client 1's own"):
            ledger.charge(2, round=0, attempt=0, mechanism="gradient")
    heads.save()
    records = read_records(tmp_path)
    assert records.own.terms.owner == 1
    assert records.testimony.signed == {1: 4}
    rewrite(ledger_of(tmp_path), read(ledger_of(tmp_path))[:-1])
    with pytest.raises(LedgerError, match="client 1 signed line 4, the tail was cut"):
        read_records(tmp_path)


def test_a_ledger_of_a_whole_run_does_not_name_an_owner(folder: Path) -> None:
    entries, _ = chain.decode(ledger_of(folder).read_bytes())
    assert "owner" not in entries[0].fields
