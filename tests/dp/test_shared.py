"""The ledger that several runs on one data set share."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from secure_fed_diffusion.dp import Mechanism, View, chain, epsilon
from secure_fed_diffusion.dp.shared import SharedLedger, verify_shared
from secure_fed_diffusion.dp.spending import seen_by
from secure_fed_diffusion.errors import (
    BudgetExceededError,
    ConfigError,
    LedgerError,
    PrivacyError,
    RunError,
)
from tests.dp.ledgers import forge, read, rewrite
from tests.dp.plans import MODEL, gaussian, shares
from tests.dp.shared_runs import SUM_1, dataset, filtered, run, spent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spent.jsonl"


def test_a_run_that_would_overspend_is_refused_and_nothing_is_written(path: Path) -> None:
    book = SharedLedger(path, dataset(budget_epsilon=spent(100) * 1.001))
    book.reserve(run("a", 60))
    before = path.read_bytes()
    for refuse in (book.price, book.reserve):
        with pytest.raises(BudgetExceededError) as caught:
            refuse(run("b", 41))
        text = str(caught.value)
        assert "'digits' would reach" in text
        assert f"1 earlier runs hold ε = {spent(60):.4f}" in text
        assert "1 of them not ended" in text
    assert path.read_bytes() == before
    book.reserve(run("b", 40))


def test_a_first_run_that_is_too_dear_leaves_no_file(path: Path) -> None:
    book = SharedLedger(path, dataset(budget_epsilon=0.01))
    with pytest.raises(BudgetExceededError, match="0 earlier runs hold ε = 0"):
        book.price(run("a"))
    assert not path.exists()


def test_a_run_that_is_over_is_counted_for_what_it_spent(path: Path) -> None:
    book = SharedLedger(path, dataset(budget_epsilon=spent(100) * 1.001))
    book.reserve(run("a", 60))
    assert book.settle("a", {"training": 30}) == pytest.approx(spent(30))
    book.reserve(run("b", 70))
    report = verify_shared(path)
    assert {name: held.settled for name, held in report.holdings.items()} == {"a": True, "b": False}
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["runs"]["a"]["counts"] == {
        "training": 30
    }


def test_a_run_that_goes_on_after_its_end_is_counted_in_full_again(path: Path) -> None:
    book = SharedLedger(path, dataset(budget_epsilon=spent(100) * 1.001))
    book.reserve(run("a", 60))
    book.settle("a", {"training": 30})
    book.reserve(run("b", 60))
    with pytest.raises(BudgetExceededError):
        book.reserve(run("a", 60))
    book.settle("b", {"training": 40})
    assert book.reserve(run("a", 60)) == pytest.approx(spent(60, 40))
    with pytest.raises(PrivacyError, match="cannot have spent"):
        book.settle("a", {"training": 29})  # it had said 30
    book.settle("a", {"training": 31})


def test_a_reservation_is_held_once(path: Path) -> None:
    book = SharedLedger(path, dataset())
    book.reserve(run("a", 40))
    before = path.read_bytes()
    assert book.reserve(run("a", 40)) == pytest.approx(spent(40))
    assert path.read_bytes() == before
    with pytest.raises(PrivacyError, match="with another plan"):
        book.reserve(run("a", 41))


@pytest.mark.parametrize(
    "counts", [{"training": 41}, {"training": -1}, {}, {"training": 4, "x": 0}, {"training": 1.0}]
)
def test_an_end_that_cannot_be_is_refused(counts: dict[str, Any], path: Path) -> None:
    book = SharedLedger(path, dataset())
    book.reserve(run("a", 40))
    with pytest.raises(PrivacyError, match="cannot have spent"):
        book.settle("a", counts)
    with pytest.raises(PrivacyError, match="reserved nothing"):
        book.settle("b", {"training": 1})


@pytest.mark.parametrize(
    "view", [View(name="raw_update"), View(name="sum"), SUM_1, MODEL], ids=lambda v: v.key
)
@pytest.mark.parametrize(
    "mechanism",
    [shares(8192.0), gaussian(2.0, rate=0.1), shares(40960.0, kind="local"), shares(0.0, kind="none")],
    ids=lambda mechanism: mechanism.kind,
)
def test_what_a_view_sees_costs_what_it_costs_in_that_view(mechanism: Mechanism, view: View) -> None:
    for accountant in ("pld", "rdp"):
        expected = epsilon({mechanism: 7}, delta=1e-5, view=view, accountant=accountant)  # type: ignore[arg-type]
        found = epsilon(
            {seen_by(view, mechanism): 7},
            delta=1e-5,
            view=MODEL,
            accountant=accountant,  # type: ignore[arg-type]
        )
        assert found == expected


def test_no_protection_or_another_unit_fits_in_no_budget(path: Path) -> None:
    with pytest.raises(BudgetExceededError, match="ε = inf"):
        SharedLedger(path, dataset()).price(run("a", 1, shares(0.0, kind="none"), MODEL))
    client = shares(8192.0, unit="client", relation="zero_out", sampling_rate=1.0)
    with pytest.raises(PrivacyError, match=r"unit 'client'.*is for 'example'"):
        SharedLedger(path, dataset()).price(run("a", 1, client))


@pytest.mark.parametrize(
    ("key", "value"), [("dataset", "mnist"), ("delta", 1e-6), ("budget_epsilon", 6.0), ("accountant", "pld")]
)
def test_a_ledger_that_was_begun_otherwise_is_refused_by_name(key: str, value: object, path: Path) -> None:
    SharedLedger(path, dataset()).reserve(run("a"))
    with pytest.raises(ConfigError, match=rf"privacy\.shared_ledger: spent\.jsonl was begun with {key}"):
        SharedLedger(path, dataset(**{key: value})).reserve(run("b"))


def test_a_folder_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="its folder must exist"):
        SharedLedger(tmp_path / "no" / "spent.jsonl", dataset()).reserve(run("a"))
    with pytest.raises(RunError, match="no shared ledger"):
        verify_shared(tmp_path / "spent.jsonl")


def test_a_torn_line_is_cut_away(path: Path) -> None:
    book = SharedLedger(path, dataset())
    book.reserve(run("a", 40))
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"counts": {"tr')
    book.reserve(run("b", 10))
    assert path.read_bytes().startswith(whole)
    step = seen_by(SUM_1, shares(8192.0))
    assert verify_shared(path).epsilon == pytest.approx(
        filtered({step: 50}, {step: 40}, budget=5.0), rel=1e-6
    )
    path.write_bytes(b'{"kind"')
    book.reserve(run("a", 40))
    assert verify_shared(path).lines == 2


@pytest.mark.parametrize(
    ("line", "changes"),
    [
        (1, {"budget_epsilon": 9.0, "kind": "terms"}),
        (1, {"delta": 2.0}),
        (1, {"budget_epsilon": 1.0}),
        (2, {"counts": {"training": 20}}),
        (2, {"counts": {"training": "20"}}),
        (2, {"epsilon": None}),
        (2, {"guard": "released_model"}),
        (3, {"kind": "gift"}),
        (3, {"run_id": "b"}),
        (3, {"counts": {"training": 41}}),
        (3, {"remark": 1}),
    ],
)
def test_a_line_that_breaks_a_rule_is_named_even_in_a_mended_chain(
    line: int, changes: dict[str, Any], path: Path
) -> None:
    book = SharedLedger(path, dataset())
    book.reserve(run("a", 40))
    book.settle("a", {"training": 30})
    forge(path, line, **changes)
    with pytest.raises(LedgerError) as caught:
        verify_shared(path)
    assert caught.value.line == (2 if changes.get("budget_epsilon") == 1.0 else line)  # 2 breaks that budget


def test_an_altered_line_stops_the_next_run(path: Path) -> None:
    book = SharedLedger(path, dataset())
    book.reserve(run("a", 40))
    book.reserve(run("b", 40))
    lines = read(path)
    rewrite(path, [lines[0], lines[2]])
    for question in (lambda: verify_shared(path), lambda: book.reserve(run("c", 1))):
        with pytest.raises(LedgerError) as caught:
            question()
        assert caught.value.line == 2


def test_a_cut_tail_needs_an_anchor(path: Path) -> None:
    book = SharedLedger(path, dataset())
    book.reserve(run("a", 40))
    book.reserve(run("b", 40))
    head = verify_shared(path).head
    assert verify_shared(path, head=head).truncation_excluded
    rewrite(path, read(path)[:-1])
    assert not verify_shared(path).truncation_excluded
    with pytest.raises(LedgerError, match="anchor"):
        verify_shared(path, head=head)


def test_a_reservation_is_synced_before_it_returns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(descriptor), fsync(descriptor))[1])
    SharedLedger(path, dataset()).reserve(run("a"))
    assert len(synced) == 2  # the file's name, and its lines


def test_runs_that_reserve_at_the_same_time_never_overspend_together(path: Path) -> None:
    budget = spent(50) * 1.001
    granted: list[str] = []

    def begin(name: str) -> None:
        try:
            SharedLedger(path, dataset(budget_epsilon=budget)).reserve(run(name, 10))
        except BudgetExceededError:
            return
        granted.append(name)

    threads = [threading.Thread(target=begin, args=(f"run {number}",)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(granted) == 5
    assert set(verify_shared(path).holdings) == set(granted)


def test_a_process_that_is_killed_holds_no_lock(path: Path) -> None:
    code = (
        "import os, pathlib, sys, time; from secure_fed_diffusion.dp import chain\n"
        "chain.open_locked(pathlib.Path(sys.argv[1]), os.O_RDWR | os.O_CREAT)\n"
        "print('locked', flush=True); time.sleep(600)\n"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "locked\n"
    with pytest.raises(RunError, match="in use"):
        chain.open_locked(path, os.O_RDWR)
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    assert SharedLedger(path, dataset()).reserve(run("a", 40)) == pytest.approx(spent(40))
