"""The coordinator's book: written before frames leave, an attempt opened once, held against clients' own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from secure_fed_diffusion.dp.ledger import Ledger, verify
from secure_fed_diffusion.errors import BudgetExceededError, ConfigError, LedgerError, RunError
from secure_fed_diffusion.federation.book import Book, BookedServer
from secure_fed_diffusion.federation.heads import HeadBook, SignedHead, write_roster
from secure_fed_diffusion.federation.records import read_records
from secure_fed_diffusion.federation.testimony import require_whole
from tests.dp.ledgers import forge
from tests.dp.plans import terms
from tests.federation.small import federation, settings_for
from tests.federation.test_heads import KEYS, ROSTER

CLIENTS = (0, 1)


def book_in(folder: Path) -> tuple[Ledger, Book]:
    plan = federation(settings_for("distributed")).plan
    ledger = Ledger.create(folder / "ledger.jsonl", plan.terms("run", "config", by_server=True))
    return ledger, Book(ledger, folder / "attempts.txt")


def test_an_attempt_is_opened_once_whatever_becomes_of_it(tmp_path: Path) -> None:
    ledger, book = book_in(tmp_path)
    assert book.attempts(1) == 0
    book.open(1, 0)
    assert book.attempts(1) == 1
    with pytest.raises(RunError, match="attempt 0 at round 1 was opened before"):
        book.open(1, 0)
    ledger.close()
    again = Book(Ledger.open(tmp_path / "ledger.jsonl"), tmp_path / "attempts.txt")
    assert (again.attempts(1), again.attempts(2)) == (1, 0)


def test_an_attempt_that_ended_before_anybody_was_asked_is_no_repeat_that_was_paid_for(
    tmp_path: Path,
) -> None:
    ledger, book = book_in(tmp_path)
    plan = federation(settings_for("distributed")).plan
    for attempt in (0, 1, 2):
        book.open(1, attempt)
    assert book.paid(1) == 0
    for client_id in (0, 1):
        book.ask(plan, client_id, 1, 2)
    ledger.close()
    again = Book(Ledger.open(tmp_path / "ledger.jsonl"), tmp_path / "attempts.txt")
    assert (again.attempts(1), again.paid(1), again.paid(2)) == (3, 1, 0)


@pytest.mark.parametrize("torn", ["1 ", "1 0", "12"])
def test_a_torn_last_line_opened_nothing_and_does_no_harm(torn: str, tmp_path: Path) -> None:
    ledger, book = book_in(tmp_path)
    book.open(1, 0)
    with (tmp_path / "attempts.txt").open("a") as file:
        file.write(torn)
    again = Book(ledger, tmp_path / "attempts.txt")
    assert again.attempts(1) == 1
    again.open(1, 1)
    third = Book(ledger, tmp_path / "attempts.txt")
    assert (third.attempts(1), third.attempts(2), third.attempts(12)) == (2, 0, 0)


def test_a_list_of_attempts_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "attempts.txt").write_text("one two\n")
    with pytest.raises(RunError, match="holds no list of attempts"):
        book_in(tmp_path)


def test_who_is_asked_is_charged_before_its_frame_is_handed_over(tmp_path: Path) -> None:
    whole = federation(settings_for("distributed"))
    ledger, book = book_in(tmp_path)
    server = BookedServer(
        "run",
        whole.plan,
        whole.server.model,
        whole.server._objective,
        book=book,
        roster=whole.clients[0]._roster,
    )
    frames = server.open(1, book.attempts(1))
    assert (ledger.lines, book.attempts(1)) == (1, 1)  # nobody was asked for data yet
    while server.phase != "masked_input":
        frames = server.take(whole.engine.exchange(frames, round=1, phase=server.phase).frames)
    assert ledger.lines == 1 + len(frames)
    cohort = whole.plan.rounds[0].cohort
    assert all(ledger.spent(client_id) for client_id in cohort)


def test_a_client_whose_budget_is_spent_in_the_book_is_not_asked(tmp_path: Path) -> None:
    whole = federation(settings_for("distributed"))
    _, book = book_in(tmp_path)
    honest, poor = book.ask, whole.plan.rounds[0].cohort[2]

    def ask(plan: object, client_id: int, number: int, attempt: int) -> None:
        if client_id == poor:
            raise BudgetExceededError("nothing is left")
        honest(plan, client_id, number, attempt)  # type: ignore[arg-type]

    book.ask = ask  # type: ignore[method-assign]
    server = BookedServer(
        "run",
        whole.plan,
        whole.server.model,
        whole.server._objective,
        book=book,
        roster=whole.clients[0]._roster,
    )
    frames = server.open(1, 0)
    while server.phase != "masked_input":
        frames = server.take(whole.engine.exchange(frames, round=1, phase=server.phase).frames)
    assert sorted(frames) == [c for c in whole.plan.rounds[0].cohort if c != poor]
    assert server.refused == {poor: "nothing is left"}


def test_a_book_has_no_owner() -> None:
    with pytest.raises(ConfigError, match="by_server"):
        replace(terms(), by_server=True, owner=1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two rounds of two clients: a book, their own ledgers, and every head that they signed."""
    write_roster(tmp_path / "roster.json", ROSTER)
    heads = HeadBook("run", ROSTER, tmp_path / "heads.jsonl", keep_all=True)
    with Ledger.create(tmp_path / "ledger.jsonl", replace(terms(), by_server=True)) as book:
        for number in range(2):
            for client_id in CLIENTS:
                book.charge(client_id, round=number, attempt=0, mechanism="gradient")
    for client_id in CLIENTS:
        path = own(tmp_path, client_id)
        path.parent.mkdir(parents=True)
        with Ledger.create(path, replace(terms(), owner=client_id)) as ledger:
            for number in range(2):
                ledger.charge(client_id, round=number, attempt=0, mechanism="gradient")
                key = KEYS[client_id]
                heads.learn(
                    SignedHead.sign(
                        key, run_id="run", client_id=client_id, line=ledger.lines, head=ledger.head
                    )
                )
    heads.save()
    return tmp_path


def own(folder: Path, client_id: int) -> Path:
    return folder / "clients" / f"{client_id:04d}" / "ledger.jsonl"


def test_an_audit_holds_the_clients_own_ledgers_against_the_book(folder: Path) -> None:
    records = read_records(folder)
    assert records.testimony.own_ledgers == 2
    assert records.testimony.signed == {0: 3, 1: 3}
    assert records.testimony.last is None
    assert "2 clients' own ledgers lie beside it" in records.statement
    assert records.to_dict()["signed"]["last_signed_line"] is None


def test_without_the_clients_ledgers_the_audit_says_that_they_are_not_here(folder: Path) -> None:
    for client_id in CLIENTS:
        own(folder, client_id).unlink()
    records = read_records(folder)
    assert records.testimony.own_ledgers == 0
    assert "own ledgers are not here; 4 signed heads of them are" in records.statement


def test_a_client_s_ledger_that_lost_a_signed_line_is_found(folder: Path) -> None:
    path = own(folder, 1)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(
        LedgerError, match=r"clients/0001/ledger\.jsonl, line 3: it is missing: client 1 signed"
    ):
        read_records(folder)


def test_a_client_s_ledger_that_was_rewritten_is_found(folder: Path) -> None:
    forge(own(folder, 0), 2, round=7)
    verify(own(folder, 0))
    with pytest.raises(
        LedgerError, match=r"clients/0000/ledger\.jsonl, line 2: client 0 signed another head"
    ):
        read_records(folder)


def test_a_book_that_lost_its_tail_is_found_by_a_client_s_charge(folder: Path) -> None:
    path = folder / "ledger.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    with pytest.raises(
        LedgerError, match=r"clients/0001/ledger\.jsonl, line 3: the coordinator's book has no"
    ):
        read_records(folder)


@pytest.mark.parametrize("beside", [True, False])
def test_a_book_that_lost_a_finished_round_is_not_gone_on_with(folder: Path, beside: bool) -> None:
    path = folder / "ledger.jsonl"
    if not beside:
        for client_id in CLIENTS:
            own(folder, client_id).unlink()
    with Ledger.open(path) as ledger:
        require_whole(folder, ledger, 1)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    with (
        Ledger.open(path) as ledger,
        pytest.raises(
            LedgerError, match="the coordinator's book has no" if beside else "holds the sum of round 1"
        ),
    ):
        require_whole(folder, ledger, 1)


def test_an_own_ledger_that_a_kill_left_without_a_line_was_never_begun(folder: Path) -> None:
    path = own(folder, 7)
    path.parent.mkdir()
    path.touch()
    with Ledger.open(folder / "ledger.jsonl") as ledger:
        require_whole(folder, ledger, 1)
        own(folder, 1).write_bytes(b"")  # that of a client which signed heads was there
        with pytest.raises(LedgerError, match=r"clients/0001/ledger\.jsonl, line 1: the terms are missing"):
            require_whole(folder, ledger, 1)


def test_a_ledger_of_another_run_beside_a_book_is_found(folder: Path) -> None:
    path = own(folder, 1)
    path.unlink()
    Ledger.create(path, replace(terms(), owner=1, run_id="another")).close()
    with pytest.raises(LedgerError, match="another run's"):
        read_records(folder)
