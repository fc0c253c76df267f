"""Signed heads: what each party refuses, and what travels with the frames."""

from __future__ import annotations

import stat
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from secure_fed_diffusion.dp.ledger import Ledger
from secure_fed_diffusion.entropy import system
from secure_fed_diffusion.errors import FrameError, LedgerError, RunError
from secure_fed_diffusion.federation.folder import Folder, open_identities
from secure_fed_diffusion.federation.heads import (
    HEAD_BYTES,
    WITNESSES,
    HeadBook,
    SignedHead,
    Witness,
    attach,
    detach,
    read_heads,
    read_roster,
    write_roster,
)
from secure_fed_diffusion.federation.messages import Announcement, Opening, announcements, openings
from secure_fed_diffusion.federation.rounds import run_rounds
from secure_fed_diffusion.secagg.signing import Roster, SigningKey
from tests.dp.plans import terms
from tests.federation.small import Federation, federation, settings_for

KEYS = {client_id: SigningKey(sha256(b"key %d" % client_id).digest()) for client_id in range(6)}
ROSTER = Roster({client_id: key.public for client_id, key in KEYS.items()})


def digest(line: int, fork: str = "") -> str:
    return sha256(f"{line}{fork}".encode()).hexdigest()


def signed(client_id: int, line: int, fork: str = "", run_id: str = "run") -> SignedHead:
    return SignedHead.sign(
        KEYS[client_id], run_id=run_id, client_id=client_id, line=line, head=digest(line, fork)
    )


class Lines:
    """A ledger of `n` lines; `fork` tells two histories apart."""

    def __init__(self, n: int, fork: str = "") -> None:
        self.lines, self.fork = n, fork

    def digest_at(self, line: int) -> str | None:
        return digest(line, self.fork) if 1 <= line <= self.lines else None


def witness(client_id: int, ledger: Lines, path: Path | None = None) -> Witness:
    return Witness(client_id, "run", KEYS[client_id], ledger, HeadBook("run", ROSTER, path))


@pytest.mark.parametrize(
    "forged",
    [
        replace(signed(1, 5), client_id=2),
        replace(signed(1, 5), client_id=99),
        replace(signed(1, 5), line=6),
        replace(signed(1, 5), head=bytes(32)),
        replace(signed(1, 5), signature=bytes(64)),
        signed(1, 5, run_id="another run"),
    ],
)
def test_a_head_that_its_client_did_not_sign_so_is_refused(forged: SignedHead) -> None:
    book = HeadBook("run", ROSTER)
    book.learn(signed(1, 4))
    with pytest.raises(LedgerError, match="not signed by client"):
        book.learn(forged)
    assert book.latest == {1: signed(1, 4)}


def test_a_head_that_goes_backwards_is_refused() -> None:
    book = HeadBook("run", ROSTER)
    for line in (3, 7, 7):
        book.learn(signed(1, line))
    book.learn(signed(2, 4))  # another client's ledger is another ledger
    with pytest.raises(LedgerError, match=r"client 1 .* line 5.* line 7.* backwards"):
        book.learn(signed(1, 5))


def test_two_heads_of_one_line_are_refused() -> None:
    book = HeadBook("run", ROSTER)
    book.learn(signed(1, 7))
    with pytest.raises(LedgerError, match="client 1 signed two different heads of line 7"):
        book.learn(signed(1, 7, "fork"))


@pytest.mark.parametrize("keep_all", [False, True])
def test_what_was_seen_is_remembered_by_the_next_process(keep_all: bool, tmp_path: Path) -> None:
    path = tmp_path / "heads.jsonl"
    book = HeadBook("run", ROSTER, path, keep_all=keep_all)
    for line in (3, 7):
        book.learn(signed(1, line))
    book.learn(signed(2, 4))
    book.save()
    with path.open("ab") as file:
        file.write(b'{"client_id": 1, "li')  # a kill came here
    again = HeadBook("run", ROSTER, path, keep_all=keep_all)
    assert again.latest == {1: signed(1, 7), 2: signed(2, 4)}
    with pytest.raises(LedgerError, match="backwards"):
        again.learn(signed(1, 6))
    again.learn(signed(1, 8))
    again.save()
    expected = [signed(1, 3), signed(1, 7), signed(2, 4), signed(1, 8)] if keep_all else None
    assert read_heads(path) == (expected or [signed(1, 8), signed(2, 4)])


def test_a_torn_last_line_is_cut_off_in_place_and_the_others_never_leave_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "heads.jsonl"
    book = HeadBook("run", ROSTER, path, keep_all=True)
    book.learn(signed(1, 3))
    book.save()
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"client_id": 2, "li')

    def never(*_: object) -> None:
        raise AssertionError("written anew: a kill here would lose every head")

    monkeypatch.setattr(Path, "write_bytes", never)
    assert HeadBook("run", ROSTER, path, keep_all=True).latest == {1: signed(1, 3)}
    assert path.read_bytes() == whole


@pytest.mark.parametrize("text", ["[]", "{}", '{"client_id": 1, "line": 2, "head": "00", "signature": ""}'])
def test_a_file_of_heads_that_holds_something_else_is_an_error_that_names_the_line(
    text: str, tmp_path: Path
) -> None:
    path = tmp_path / "heads.jsonl"
    book = HeadBook("run", ROSTER, path, keep_all=True)
    book.learn(signed(1, 3))
    book.save()
    path.write_text(path.read_text() + text + "\n")
    with pytest.raises(LedgerError, match=r"heads\.jsonl, line 2: no signed head"):
        HeadBook("run", ROSTER, path)


def test_a_client_whose_ledger_was_rolled_back_hears_it_from_the_server() -> None:
    honest = witness(1, Lines(5))
    honest.hear([signed(1, 5), signed(1, 3)])
    with pytest.raises(LedgerError, match=r"client 1 signed a head of line 6 .* of 5 lines: it was rolled"):
        honest.hear([signed(1, 6)])
    with pytest.raises(LedgerError, match="rolled back"):
        witness(1, Lines(5, "fork")).hear([signed(1, 4)])
    with pytest.raises(LedgerError, match="not signed by client 1"):
        honest.hear([replace(signed(2, 4), client_id=1)])


def test_a_client_holds_its_peers_to_what_it_saw_before(tmp_path: Path) -> None:
    path = tmp_path / "peers.jsonl"
    witness(1, Lines(5), path).hear([signed(1, 5), signed(2, 7), signed(3, 6)])
    for shown, reason in (
        (signed(2, 6), "backwards"),
        (signed(2, 7, "fork"), "two different heads"),
        (replace(signed(3, 8), client_id=2), "not signed"),
    ):
        with pytest.raises(LedgerError, match=reason):
            witness(1, Lines(5), path).hear([shown])
    assert read_heads(path) == [signed(2, 7), signed(3, 6)]


def test_a_client_signs_the_last_line_of_its_ledger() -> None:
    assert witness(1, Lines(5)).testify() == signed(1, 5)


def test_heads_travel_with_the_model_and_with_the_contribution() -> None:
    weights = np.arange(4, dtype=np.float32)
    sent = Announcement(3, 1, weights, (signed(1, 5), signed(2, 6)))
    read = Announcement.decode(sent.encode(), 4)
    assert read.heads == sent.heads
    np.testing.assert_array_equal(read.weights, weights)
    assert len(sent.encode()) - len(Announcement(3, 1, weights).encode()) == 2 * HEAD_BYTES == 208
    assert detach(attach(signed(1, 5), b"frame"), 1) == (signed(1, 5), b"frame")
    assert attach(None, b"frame") == b"frame"


def test_each_client_is_shown_its_own_head_and_those_of_a_fixed_number_of_peers() -> None:
    keys = {client_id: SigningKey(client_id.to_bytes(32, "little")) for client_id in range(1, 101)}
    roster = Roster({client_id: key.public for client_id, key in keys.items()})
    book = HeadBook("run", roster)
    for client_id, key in keys.items():
        book.learn(SignedHead.sign(key, run_id="run", client_id=client_id, line=4, head="ab" * 32))
    shown = {client_id: [head.client_id for head in book.shown_to(client_id)] for client_id in keys}
    assert all(own in seen and len(set(seen)) == WITNESSES + 1 for own, seen in shown.items())
    witnesses = Counter(peer for own, seen in shown.items() for peer in seen if peer != own)
    assert set(witnesses.values()) == {WITNESSES}
    # another key of anybody's, and everybody has other peers: nobody picks whom it stands beside
    other = Roster({**roster.publics, 100: SigningKey(bytes([9] * 32)).public})
    assert HeadBook("run", other)._ring != book._ring
    frames = announcements(Announcement(3, 1, np.zeros(4, np.float32)), (1, 2), book.shown_to)
    assert {head.client_id for head in Announcement.decode(frames[2], 4).heads} == set(shown[2])
    opened = openings(3, Announcement(3, 1, np.zeros(4, np.float32)), {2: b"sum"}, book.shown_to)
    read = Opening.decode(opened[2], 4)
    assert {head.client_id for head in read.announcement.heads} == set(shown[2])
    assert read.frame == b"sum"


def test_in_a_small_run_everybody_is_a_witness_of_everybody() -> None:
    book = HeadBook("run", ROSTER)
    assert book.shown_to(1) == ()
    for client_id in KEYS:
        book.learn(signed(client_id, 4))
    assert all({head.client_id for head in book.shown_to(client_id)} == set(KEYS) for client_id in KEYS)


def test_frames_with_half_a_head_or_anothers_are_refused() -> None:
    frame = Announcement(3, 1, np.zeros(4, dtype=np.float32), (signed(1, 5),)).encode()
    for wrong in (frame[:-1], frame + b"\0", frame[:-HEAD_BYTES], frame + bytes(HEAD_BYTES)):
        with pytest.raises(FrameError):
            Announcement.decode(wrong, 4)
    with pytest.raises(FrameError, match="client 2 shows client 1's head"):
        detach(attach(signed(1, 5), b"frame"), 2)
    with pytest.raises(FrameError):
        detach(b"frame", 1)


def with_heads(folder: Path, *overrides: str) -> tuple[Federation, Ledger, HeadBook]:
    """A small federation with a real ledger and heads."""
    it = federation(settings_for("distributed", *overrides))
    ledger = Ledger.create(folder / "ledger.jsonl", it.plan.terms("run", ""))
    heads = HeadBook("run", ROSTER)
    it.server._heads = heads
    for client_id, client in it.clients.items():
        client._purse = ledger
        client._witness = Witness(client_id, "run", KEYS[client_id], ledger, HeadBook("run", ROSTER))
    return it, ledger, heads


@pytest.mark.parametrize("rounds_per_setup", [1, 5])
def test_the_head_in_a_frame_covers_the_charge_of_that_frame(rounds_per_setup: int, tmp_path: Path) -> None:
    it, ledger, heads = with_heads(tmp_path, f"secagg.rounds_per_setup={rounds_per_setup}")
    rounds = run_rounds(it.plan, it.server, it.engine, ledger, first=1, note=print)
    outcome = next(rounds)
    assert outcome.survivors == it.plan.rounds[0].cohort
    lines = {client_id: head.line for client_id, head in heads.latest.items()}
    assert lines == {client_id: 2 + place for place, client_id in enumerate(it.plan.rounds[0].cohort)}
    for head in heads.latest.values():
        assert head.head.hex() == ledger.digest_at(head.line)
    it.server.apply(outcome.total)
    next(rounds)  # the announcement carried them, and every client knew its own again
    listener = it.clients[it.plan.rounds[1].cohort[0]]
    assert set(listener._witness._peers.latest) == set(it.plan.rounds[0].cohort)  # its own word among them


@pytest.mark.parametrize("deed", ["unsigned", "of another", "backwards", "missing"])
def test_a_client_that_shows_a_bad_head_is_left_out_and_the_others_go_on(deed: str, tmp_path: Path) -> None:
    it, ledger, heads = with_heads(tmp_path)
    culprit = it.plan.rounds[0].cohort[1]
    other = it.plan.rounds[0].cohort[0]
    heads.learn(SignedHead.sign(KEYS[culprit], run_id="run", client_id=culprit, line=1, head=ledger.head))
    bad = {
        "unsigned": replace(signed(culprit, 9), signature=bytes(64)),
        "of another": signed(other, 9),
        "backwards": replace(signed(culprit, 9), line=0),
        "missing": None,
    }[deed]
    it.clients[culprit]._witness.testify = lambda: bad  # type: ignore[method-assign]
    outcome = next(run_rounds(it.plan, it.server, it.engine, ledger, first=1, note=print))
    assert outcome.survivors == tuple(c for c in it.plan.rounds[0].cohort if c != culprit)
    assert outcome.dropped == {culprit: "masked_input"}


def test_a_server_that_shows_a_head_from_the_past_gets_no_contribution(tmp_path: Path) -> None:
    it, ledger, _ = with_heads(tmp_path)
    client = it.clients[it.plan.rounds[0].cohort[0]]
    client._witness.hear([signed(5, 9)])
    weights = np.zeros(it.plan.dimension, dtype=np.float32)
    with pytest.raises(LedgerError, match="backwards"):
        client.handle(Announcement(1, 0, weights, (signed(5, 8),)).encode())
    assert ledger.lines == 1


def test_signing_keys_are_made_once_and_readable_by_their_owner_alone(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    with Ledger.create(folder.ledger, terms()) as ledger:
        made = open_identities(folder, ledger, 3, entropy=system)
        path = folder.client(1) / "signing.key"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        again = open_identities(folder, ledger, 3, entropy=system)
        assert again.roster == made.roster == read_roster(folder.roster)
        assert "signing" not in repr(made)
        ledger.charge(0, round=1, attempt=0, mechanism="gradient")
        folder.roster.unlink()
        with pytest.raises(RunError, match=r"has charges and no roster\.json"):
            open_identities(folder, ledger, 3, entropy=system)


def test_keys_that_are_not_the_rosters_are_refused_and_the_ledger_is_let_go(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    ledger = Ledger.create(folder.ledger, terms())
    open_identities(folder, ledger, 3, entropy=system)
    write_roster(folder.roster, Roster({client_id: KEYS[client_id].public for client_id in range(3)}))
    with pytest.raises(RunError, match=r"are not those of roster\.json"):
        open_identities(folder, ledger, 3, entropy=system)
    Ledger.open(folder.ledger).close()
