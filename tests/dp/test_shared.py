"""The ledger that several runs on one data set share."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secure_fed_diffusion.dp import Mechanism, View, chain, epsilon
from secure_fed_diffusion.dp.accounting import RENYI_ORDERS, delta_curve, renyi_divergence
from secure_fed_diffusion.dp.shared import SharedLedger, verify_shared
from secure_fed_diffusion.dp.spending import DatasetTerms, Reservation, seen_by
from secure_fed_diffusion.errors import (
    BudgetExceededError,
    ConfigError,
    LedgerError,
    PrivacyError,
    RunError,
)
from tests.dp.ledgers import forge, read, rewrite
from tests.dp.plans import MODEL, gaussian, shares

SUM_1 = View(name="sum", colluders=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spent.jsonl"


def dataset(**changes: Any) -> DatasetTerms:
    fields: dict[str, Any] = {
        "dataset": "digits",
        "unit": "example",
        "relation": "add_remove",
        "delta": 1e-5,
        "budget_epsilon": 5.0,
        "accountant": "rdp",
    }
    return DatasetTerms(**{**fields, **changes})


def run(name: str, count: int = 40, mechanism: Mechanism | None = None, guard: View = SUM_1) -> Reservation:
    mechanisms = {"training": mechanism or shares(8192.0)}
    return Reservation(run_id=name, guard=guard, mechanisms=mechanisms, counts={"training": count})


def spent(*counts: int) -> float:
    return epsilon({shares(8192.0): sum(counts)}, delta=1e-5, view=SUM_1, accountant="rdp")


def filtered(counts: Mapping[Mechanism, int], first: Mapping[Mechanism, int], *, budget: float) -> float:
    """What several runs take of `budget` at δ = 1e-5: Canonne, Kamath and Steinke's conversion, one order."""

    def conversion(order: float) -> float:
        return math.log1p(-1 / order) - math.log(1e-5 * order) / (order - 1)

    def divergence(taken: Mapping[Mechanism, int], order: float) -> float:
        return renyi_divergence(taken, order=order, view=MODEL)

    usable = [order for order in RENYI_ORDERS if conversion(order) < budget]
    order = min(usable, key=lambda a: divergence(first, a) / (budget - conversion(a)))
    return divergence(counts, order) + conversion(order)


def test_one_run_is_priced_by_the_accountant_and_several_by_a_filter_of_the_first_plans_order(
    path: Path,
) -> None:
    book, step = SharedLedger(path, dataset()), seen_by(SUM_1, shares(8192.0))
    assert book.reserve(run("a", 40)) == pytest.approx(spent(40))
    both = book.reserve(run("b", 60))
    assert both == pytest.approx(filtered({step: 100}, {step: 40}, budget=5.0), rel=1e-6)
    assert spent(40, 60) < both < spent(40) + spent(60)  # neither fixed in advance, nor added up
    assert verify_shared(path).epsilon == both
    book.settle("a", {"training": 10})  # the order stays that of its plan
    assert verify_shared(path).epsilon == pytest.approx(
        filtered({step: 70}, {step: 40}, budget=5.0), rel=1e-6
    )


def test_a_plan_that_is_chosen_by_what_an_earlier_run_released_does_not_break_the_budget(path: Path) -> None:
    """Two follow-ups, each of which PLD admits as a fixed plan; which one comes depends on run 1's loss.

    Then δ(3) is 1.8 times the budget's, by integration over run 1's loss.
    """
    first, wide = gaussian(2.0, rate=1.0), gaussian(1.94, rate=1.0)
    narrow, budget = gaussian(0.344, rate=5e-4), 3.0
    for follow_up in ({wide: 1}, {narrow: 2}):
        assert epsilon({first: 1, **follow_up}, delta=1e-5, view=MODEL, accountant="pld") < budget
    # run 1's loss is normal with mean μ²/2 and variance μ², μ = 1/2; below 1.02 the narrow plan follows.
    loss = np.linspace(-2.5, 2.75, 2_101)
    chance = np.exp(-((loss - 0.125) ** 2) / 0.5) / math.sqrt(0.5 * math.pi)
    narrow_then = delta_curve(0.344, 5e-4, 2, budget - loss)
    wide_then = delta_curve(1.94, 1.0, 1, budget - loss)
    reached = np.trapezoid(np.where(loss < 1.02, narrow_then, wide_then) * chance, loss)
    assert reached > 1.7e-5
    book = SharedLedger(path, dataset(budget_epsilon=budget, accountant="pld"))
    book.reserve(run("first", 1, first, MODEL))
    for name, plan, count in (("wide", wide, 1), ("narrow", narrow, 2)):
        with pytest.raises(BudgetExceededError):
            book.price(run(name, count, plan, MODEL))


def test_a_plan_that_the_filter_cannot_hold_takes_the_whole_budget(path: Path) -> None:
    """PLD admits it alone; beside it, or after it stopped early, comes nothing more."""
    plan = {gaussian(0.7, rate=0.02): 100}
    alone = epsilon(plan, delta=1e-5, view=MODEL, accountant="pld")
    assert alone * 1.01 < epsilon(plan, delta=1e-5, view=MODEL, accountant="rdp")
    book = SharedLedger(path, dataset(budget_epsilon=alone * 1.01, accountant="pld"))
    whole = run("whole", 100, *plan, MODEL)
    little = run("little", 1, gaussian(20.0, rate=0.02), MODEL)
    assert book.reserve(whole) == pytest.approx(alone)
    with pytest.raises(BudgetExceededError, match="a plan that fits alone"):
        book.price(little)
    book.settle("whole", {"training": 1})
    with pytest.raises(BudgetExceededError, match="a plan that fits alone"):
        book.price(little)


def test_a_plan_that_released_nothing_is_in_nobodys_way(path: Path) -> None:
    plan = {gaussian(0.7, rate=0.02): 100}
    alone = epsilon(plan, delta=1e-5, view=MODEL, accountant="pld")
    book = SharedLedger(path, dataset(budget_epsilon=alone * 1.01, accountant="pld"))
    book.reserve(run("whole", 100, *plan, MODEL))
    book.settle("whole", {"training": 0})
    assert book.reserve(run("again", 100, *plan, MODEL)) == pytest.approx(alone)
    with pytest.raises(BudgetExceededError, match="a plan that fits alone"):
        book.reserve(run("whole", 100, *plan, MODEL))  # taken up again: two would release


def test_nothing_is_admitted_beyond_what_the_filter_is_proven_for(path: Path) -> None:
    book = SharedLedger(path, dataset(budget_epsilon=10_000.0))
    loud = gaussian(0.3, rate=1.0)
    book.reserve(run("a", 20, loud, MODEL))
    with pytest.raises(BudgetExceededError, match="ε = inf"):
        book.reserve(run("b", 200, loud, MODEL))


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


def test_each_run_is_seen_by_its_own_guard(path: Path) -> None:
    """One run's server is trusted, another's is not: the adversary is both guards together."""
    trusted = gaussian(8.0, rate=0.1)
    book = SharedLedger(path, dataset())
    book.reserve(run("distributed", 40))
    both = book.reserve(run("central", 40, trusted, MODEL))
    multiplier = shares(8192.0).noise_multiplier(SUM_1)
    alike = gaussian(multiplier, rate=0.1)
    expected = filtered({alike: 40, trusted: 40}, {alike: 40}, budget=5.0)
    assert both == pytest.approx(expected, rel=1e-4)


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


def test_what_an_earlier_rule_admitted_beyond_the_filter_is_gone_on_with_by_nobody(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = SharedLedger(path, dataset(budget_epsilon=2.0))
    with monkeypatch.context() as patch:
        patch.setattr("secure_fed_diffusion.dp.spending.Spending.epsilon", lambda self: 0.0)
        book.reserve(run("a", 40))
        book.reserve(run("b", 60))
        book.settle("b", {"training": 1})
    for question in (lambda: book.price(run("c", 1)), lambda: book.holds("a"), lambda: book.settle("a", {})):
        with pytest.raises(LedgerError, match="more than the budget 2") as caught:
            question()
        assert caught.value.line == 3


def test_replace_one_has_no_filter_so_a_second_run_is_refused(path: Path) -> None:
    step = gaussian(8.0, rate=0.1, relation="replace_one")
    book = SharedLedger(path, dataset(relation="replace_one", accountant="pld", budget_epsilon=50.0))
    assert book.reserve(run("a", 1, step, MODEL)) < 1.0
    with pytest.raises(BudgetExceededError, match="ε = inf"):
        book.reserve(run("b", 1, step, MODEL))


def test_what_it_costs_that_a_second_plan_may_hang_on_the_first_run(path: Path) -> None:
    """The figures of docs/privacy.md, section 6: two alike runs of 200 steps, q = .02, z = 1.4."""
    step = gaussian(1.4, rate=0.02)
    alone, fixed = (epsilon({step: n}, delta=1e-5, view=MODEL, accountant="pld") for n in (200, 400))
    assert (round(alone, 2), round(fixed, 2)) == (0.96, 1.36)
    for budget, admitted in ((1.5, False), (1.55, True)):
        book = SharedLedger(
            path.with_name(f"{budget}.jsonl"), dataset(budget_epsilon=budget, accountant="pld")
        )
        book.reserve(run("a", 200, step, MODEL))
        with nullcontext() if admitted else pytest.raises(BudgetExceededError):
            book.reserve(run("b", 200, step, MODEL))
