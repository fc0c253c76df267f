from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from secure_fed_diffusion.dp import Ledger, View, chain, epsilon, ledger, verify
from secure_fed_diffusion.errors import (
    BudgetExceededError,
    ConfigError,
    LedgerError,
    PrivacyError,
    RunError,
)
from tests.dp.plans import MODEL, shares, terms

SUM, SUM_1 = View(name="sum"), View(name="sum", colluders=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


def fill(path: Path, rounds: int = 3, clients: int = 2, **changes: object) -> str:
    """Write a ledger of prototypes in round 0 and gradients afterwards; return its head."""
    with Ledger.create(path, terms(**changes)) as book:
        for client in range(clients):
            book.charge(client, round=0, attempt=0, mechanism="prototypes")
        for number in range(1, rounds + 1):
            for client in range(clients):
                book.charge(client, round=number, attempt=0, mechanism="gradient", steps=2)
        return book.head


def rewrite(path: Path, lines: list[bytes]) -> None:
    path.write_bytes(b"".join(line + b"\n" for line in lines))


def read(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()


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


def test_the_report_recomputes_each_round_and_each_client(path: Path) -> None:
    fill(path)
    report = verify(path)
    assert set(report.rounds) == {0, 1, 2, 3}
    assert set(report.clients) == {0, 1}
    assert set(report.rounds[2]) == {"sum_c0", "sum_c1", "released_model"}
    spent = {terms().mechanisms["gradient"]: 4, terms().mechanisms["prototypes"]: 1}
    for accountant in ("pld", "rdp"):
        expected = epsilon(spent, delta=1e-5, view=SUM, accountant=accountant)  # type: ignore[arg-type]
        assert report.rounds[2]["sum_c0"][accountant] == expected
        series = [report.rounds[number]["sum_c1"][accountant] for number in range(4)]
        assert series == sorted(series)
        assert report.clients[0]["sum_c1"][accountant] == series[-1]
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["lines"] == 9


def test_a_retry_after_later_rounds_is_charged_to_its_round(path: Path) -> None:
    fill(path)
    with Ledger.open(path) as book:
        for number in (2, 3):
            book.charge(0, round=number, attempt=1, mechanism="gradient")
    report = verify(path)
    for number, gradients in ((1, 2), (2, 7), (3, 8)):
        spent = {terms().mechanisms["gradient"]: gradients, terms().mechanisms["prototypes"]: 1}
        assert report.rounds[number]["sum_c1"]["pld"] == epsilon(spent, delta=1e-5, view=SUM_1)


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
    monkeypatch.setattr(ledger.os, "write", lambda fd, data: (calls.append("write"), write(fd, data))[1])
    monkeypatch.setattr(ledger.os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd))[1])
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

        patch.setattr(ledger.os, "fsync", full)
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


@pytest.mark.parametrize("line", range(1, 10))
def test_an_altered_line_is_named(path: Path, line: int) -> None:
    fill(path)
    lines = read(path)
    digit = lines[line - 1].index(b'"sequence":') - 3
    changed = bytearray(lines[line - 1])
    changed[digit] ^= 1
    rewrite(path, [*lines[: line - 1], bytes(changed), *lines[line:]])
    for question in (verify, Ledger.open):
        with pytest.raises(LedgerError) as caught:
            question(path)
        assert caught.value.line == line


@pytest.mark.parametrize("line", range(1, 9))
def test_a_dropped_line_is_named(path: Path, line: int) -> None:
    fill(path)
    lines = read(path)
    rewrite(path, lines[: line - 1] + lines[line:])
    with pytest.raises(LedgerError) as caught:
        verify(path)
    assert caught.value.line == line


@pytest.mark.parametrize("line", range(1, 9))
def test_two_exchanged_lines_are_named(path: Path, line: int) -> None:
    fill(path)
    lines = read(path)
    lines[line - 1], lines[line] = lines[line], lines[line - 1]
    rewrite(path, lines)
    with pytest.raises(LedgerError) as caught:
        verify(path)
    assert caught.value.line == line


@pytest.mark.parametrize("line", range(1, 10))
def test_a_repeated_line_is_named(path: Path, line: int) -> None:
    fill(path)
    lines = read(path)
    rewrite(path, [*lines[:line], *lines[line - 1 :]])
    with pytest.raises(LedgerError) as caught:
        verify(path)
    assert caught.value.line == line + 1


@pytest.mark.parametrize("noise", [b"", b"{}", b"[]", b"null", b"\xff\xfe", b'{"sequence":4}', b" "])
def test_a_line_that_is_none_is_named(path: Path, noise: bytes) -> None:
    fill(path)
    lines = read(path)
    rewrite(path, [*lines[:4], noise, *lines[4:]])
    with pytest.raises(LedgerError) as caught:
        verify(path)
    assert caught.value.line == 5


def test_a_line_of_another_ledger_is_named(path: Path, tmp_path: Path) -> None:
    fill(path)
    other = tmp_path / "other.jsonl"
    fill(other, run_id="another run")
    lines = read(path)
    rewrite(path, [*lines[:5], read(other)[5], *lines[6:]])
    with pytest.raises(LedgerError, match="follow") as caught:
        verify(path)
    assert caught.value.line == 6


def test_a_line_that_skips_a_number_is_named(path: Path) -> None:
    fill(path)
    entries, _ = chain.decode(path.read_bytes())
    line, _ = chain.encode(entries[-1].fields, sequence=9, previous=entries[-2].digest)
    rewrite(path, [*read(path)[:-1], line[:-1]])
    with pytest.raises(LedgerError, match="expected line number 8") as caught:
        verify(path)
    assert caught.value.line == 9


def test_a_line_in_another_form_of_the_same_meaning_is_named(path: Path) -> None:
    fill(path)
    lines = read(path)
    rewrite(path, [*lines[:3], lines[3].replace(b'":', b'": ', 1), *lines[4:]])
    with pytest.raises(LedgerError) as caught:
        verify(path)
    assert caught.value.line == 4


def forge(path: Path, line: int, **changes: object) -> None:
    """Change one line and mend the whole chain after it, as somebody does who knows the format."""
    entries, _ = chain.decode(path.read_bytes())
    data, previous = b"", chain.FIRST
    for number, entry in enumerate(entries):
        fields = {**entry.fields, **(changes if entry.line == line else {})}
        written, previous = chain.encode(fields, sequence=number, previous=previous)
        data += written
    path.write_bytes(data)


@pytest.mark.parametrize(
    "changes",
    [
        {"epsilon": 0.001},
        {"epsilon": None},
        {"epsilon": "nan"},
        {"steps": 1},
        {"steps": 0},
        {"mechanism": "nothing"},
        {"round": 1},
        {"kind": "terms"},
        {"remark": "x"},
    ],
)
def test_arithmetic_that_does_not_hold_is_named_even_in_a_mended_chain(
    path: Path, changes: dict[str, object]
) -> None:
    fill(path)
    forge(path, 6, **changes)
    with pytest.raises(LedgerError) as caught:
        verify(path)
    assert caught.value.line == 6


@pytest.mark.parametrize(
    "changes",
    [{"budget_epsilon": 0.1}, {"delta": 1e-7}, {"max_charges": {"gradient": 1}}],
)
def test_terms_that_the_charges_break_are_noticed(path: Path, changes: dict[str, object]) -> None:
    fill(path)
    forge(path, 1, **changes)
    with pytest.raises(LedgerError):
        verify(path)


@pytest.mark.parametrize(
    "changes", [{"guard": "sum"}, {"views": []}, {"note": 1, "more": 2}, {"mechanisms": 3}]
)
def test_terms_that_are_none_are_noticed(path: Path, changes: dict[str, object]) -> None:
    fill(path)
    forge(path, 1, **changes)
    for question in (verify, Ledger.open):
        with pytest.raises(LedgerError) as caught:
            question(path)
        assert caught.value.line == 1


def test_a_cut_tail_is_noticed_with_an_anchor_and_admitted_without(path: Path) -> None:
    head = fill(path)
    assert verify(path, head=head).truncation_excluded
    assert "excluded by the anchor" in verify(path, head=head).statement
    rewrite(path, read(path)[:-2])
    report = verify(path)
    assert not report.truncation_excluded
    assert "truncation is not excluded" in report.statement
    with pytest.raises(LedgerError, match="anchor"):
        verify(path, head=head)


def test_an_old_anchor_excludes_no_later_cut(path: Path) -> None:
    head = fill(path)
    with Ledger.open(path) as book:
        book.charge(0, round=4, attempt=0, mechanism="gradient")
    assert not verify(path, head=head).truncation_excluded


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
