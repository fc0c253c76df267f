from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from secure_fed_diffusion.dp import Ledger, View, epsilon, verify
from secure_fed_diffusion.errors import (
    BudgetExceededError,
    ConfigError,
    LedgerError,
    PrivacyError,
    RunError,
)
from tests.dp.ledgers import fill, read
from tests.dp.plans import MODEL, shares, terms

SUM, SUM_1 = View(name="sum"), View(name="sum", colluders=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


def test_terms_survive_the_disk(path: Path) -> None:
    fill(path)
    with Ledger.open(path) as book:
        assert book.terms == terms()
        assert verify(path).terms == terms()


def test_what_was_spent_is_what_was_charged(path: Path) -> None:
    head = fill(path)
    with Ledger.open(path) as book:
        assert book.head == head
        gradient, prototypes = terms().mechanisms["gradient"], terms().mechanisms["prototypes"]
        assert dict(book.spent(1)) == {gradient: 6, prototypes: 1}
        assert dict(book.spent(9)) == {}
        expected = epsilon({gradient: 6, prototypes: 1}, delta=1e-5, view=SUM_1)
        assert book.epsilon(SUM_1, client_id=1) == expected
        assert book.epsilon(SUM_1) == expected
        assert book.epsilon(SUM_1, client_id=9) == 0.0
        book.charge(1, round=4, attempt=0, mechanism="gradient")
        assert book.epsilon(SUM_1) == book.epsilon(SUM_1, client_id=1) > expected


def test_attempts_already_charged_are_counted_so_that_a_resumed_run_takes_the_next(path: Path) -> None:
    fill(path)
    with Ledger.open(path) as book:
        assert [book.attempts(number) for number in (0, 3, 4)] == [1, 1, 0]
        book.charge(0, round=3, attempt=1, mechanism="gradient")
        assert book.attempts(3) == 2


def test_the_budget_refuses_before_anything_is_written(path: Path) -> None:
    budget = epsilon({terms().mechanisms["gradient"]: 3}, delta=1e-5, view=SUM_1)
    with Ledger.create(path, terms(budget_epsilon=budget)) as book:
        for number in range(3):
            book.charge(4, round=number, attempt=0, mechanism="gradient")
        before, head = path.read_bytes(), book.head
        with pytest.raises(BudgetExceededError, match=rf"client 4.*would reach ε = .*budget is {budget:g}"):
            book.charge(4, round=3, attempt=0, mechanism="gradient")
        assert (path.read_bytes(), book.head) == (before, head)
        book.charge(5, round=3, attempt=0, mechanism="gradient")  # another client's budget is its own
    assert verify(path).clients[4]["sum_c1"]["pld"] == budget


def test_the_plan_reserves_steps(path: Path) -> None:
    with Ledger.create(path, terms(max_charges={"gradient": 2})) as book:
        book.charge(0, round=0, attempt=0, mechanism="gradient", steps=2)
        book.charge(0, round=0, attempt=0, mechanism="prototypes")
        with pytest.raises(BudgetExceededError, match="reserves 2"):
            book.charge(0, round=1, attempt=0, mechanism="gradient")


def test_the_same_charge_twice_is_refused_also_after_a_resume(path: Path) -> None:
    fill(path)
    with Ledger.open(path) as book:
        before = path.read_bytes()
        with pytest.raises(PrivacyError, match="charged before"):
            book.charge(0, round=2, attempt=0, mechanism="gradient")
        assert path.read_bytes() == before
        book.charge(0, round=2, attempt=0, mechanism="prototypes")  # another release in the same round


@pytest.mark.parametrize(
    "changes",
    [
        {"mechanism": "gradients"},
        {"steps": 0},
        {"round": -1},
        {"attempt": -1},
        {"client_id": -1},
        {"client_id": "0"},
        {"steps": True},
    ],
)
def test_a_charge_that_makes_no_sense_is_refused(path: Path, changes: dict[str, object]) -> None:
    fields = {"client_id": 0, "round": 0, "attempt": 0, "mechanism": "gradient", "steps": 1, **changes}
    with Ledger.create(path, terms()) as book:
        before = path.read_bytes()
        with pytest.raises(PrivacyError):
            book.charge(**fields)  # type: ignore[arg-type]
        assert path.read_bytes() == before


def test_a_charge_is_synced_before_it_returns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    write, fsync = os.write, os.fsync
    monkeypatch.setattr(os, "write", lambda fd, data: (calls.append("write"), write(fd, data))[1])
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd))[1])
    with Ledger.create(path, terms()) as book:
        assert calls == ["write", "fsync", "fsync"]  # the folder too: the file's name is on disk
        calls.clear()
        book.charge(0, round=0, attempt=0, mechanism="gradient")
        assert calls == ["write", "fsync"]
        assert verify(path).lines == 2


def test_a_write_that_failed_closes_the_ledger_for_good(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = Ledger.create(path, terms())
    with monkeypatch.context() as patch:

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            book.charge(0, round=0, attempt=0, mechanism="gradient")
    with pytest.raises(RunError, match="failed"):
        book.charge(1, round=0, attempt=0, mechanism="gradient")
    book.close()
    with Ledger.open(path) as again:  # the line had been written: it counts
        assert again.attempts(0) == 1


def test_a_closed_ledger_charges_nothing(path: Path) -> None:
    book = Ledger.create(path, terms())
    book.close()
    book.close()
    with pytest.raises(RunError, match="closed"):
        book.charge(0, round=0, attempt=0, mechanism="gradient")


def test_a_second_writer_is_refused(path: Path) -> None:
    with Ledger.create(path, terms()):
        for again in (lambda: Ledger.open(path), lambda: Ledger.create(path, terms())):
            with pytest.raises(RunError, match="another process"):
                again()
    Ledger.open(path).close()


def test_a_ledger_is_begun_once(path: Path) -> None:
    fill(path)
    with pytest.raises(RunError, match="exists"):
        Ledger.create(path, terms())
    assert verify(path).lines == 9


def test_a_missing_ledger_is_no_empty_ledger(path: Path) -> None:
    for question in (Ledger.open, verify):
        with pytest.raises(RunError, match="no ledger"):
            question(path)
    assert not path.exists()


@pytest.mark.parametrize("kept_bytes", [1, 40, -1])
def test_a_torn_last_line_is_cut_away(path: Path, kept_bytes: int) -> None:
    fill(path)
    lines = read(path)
    whole = b"".join(line + b"\n" for line in lines[:-1])
    path.write_bytes(whole + lines[-1][:kept_bytes])
    assert verify(path).torn_bytes == len(lines[-1][:kept_bytes])
    with Ledger.open(path) as book:
        assert path.read_bytes() == whole
        book.charge(1, round=3, attempt=0, mechanism="gradient", steps=2)
    assert read(path) == lines


@pytest.mark.parametrize("content", [b"", b'{"kind":"ter'])
def test_a_ledger_whose_terms_were_torn_is_begun_again(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    for question in (verify, Ledger.open):
        with pytest.raises(LedgerError, match="terms are missing"):
            question(path)
    assert fill(path)
    assert verify(path).lines == 9


def test_without_a_budget_nothing_is_refused_and_infinity_is_null(path: Path) -> None:
    bare = terms(
        budget_epsilon=None,
        mechanisms={"gradient": shares(0.0, kind="none"), "prototypes": shares(0.0, kind="none")},
    )
    with Ledger.create(path, bare) as book:
        book.charge(0, round=0, attempt=0, mechanism="gradient")
        assert book.epsilon(MODEL) == math.inf
    assert json.loads(read(path)[1])["epsilon"] is None
    report = verify(path)
    assert report.rounds[0]["released_model"]["rdp"] == math.inf
    assert report.to_dict()["rounds"]["0"]["released_model"] == {"pld": None, "rdp": None}


def test_a_budget_over_a_mechanism_that_protects_nobody_refuses_the_first_charge(path: Path) -> None:
    bare = terms(mechanisms={"gradient": shares(0.0)})
    with Ledger.create(path, bare) as book, pytest.raises(BudgetExceededError, match="ε = inf"):
        book.charge(0, round=0, attempt=0, mechanism="gradient")


@pytest.mark.parametrize(
    "changes",
    [
        {"accountant": "gdp"},
        {"budget_epsilon": 0.0},
        {"mechanisms": {}},
        {"views": ()},
        {"max_charges": {"nothing": 1}},
    ],
)
def test_terms_that_promise_nothing_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        terms(**changes)


def test_a_killed_writer_leaves_a_ledger_that_covers_what_it_acknowledged(path: Path) -> None:
    code = (
        "import sys\n"
        "from secure_fed_diffusion.dp import Ledger\n"
        "from tests.dp.plans import terms\n"
        "book = Ledger.create(sys.argv[1], terms(budget_epsilon=None))\n"
        "for number in range(10**6):\n"
        "    book.charge(number % 50, round=number // 50, attempt=0, mechanism='gradient')\n"
        "    print(number, flush=True)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    acknowledged = -1
    for line in writer.stdout:
        acknowledged = int(line)
        if acknowledged >= 37:
            break
    os.kill(writer.pid, signal.SIGKILL)
    acknowledged = max([acknowledged, *(int(line) for line in writer.stdout if line.endswith("\n"))])
    writer.wait()
    with Ledger.open(path) as book:
        charged = sum(sum(book.spent(client).values()) for client in range(50))
        assert charged >= acknowledged + 1
    assert verify(path).lines == charged + 1
