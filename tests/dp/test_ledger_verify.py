"""What the auditor recomputes from a ledger's file, and the first bad line that is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from secure_fed_diffusion.dp import Ledger, View, chain, epsilon, verify
from secure_fed_diffusion.errors import LedgerError
from tests.dp.ledgers import fill, forge, read, rewrite
from tests.dp.plans import terms

SUM, SUM_1 = View(name="sum"), View(name="sum", colluders=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


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
