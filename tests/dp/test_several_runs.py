"""Several runs on one data set: one alone is priced by the accountant, several go through a Rényi filter."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from secure_fed_diffusion.dp import epsilon
from secure_fed_diffusion.dp.accounting import delta_curve
from secure_fed_diffusion.dp.shared import SharedLedger, verify_shared
from secure_fed_diffusion.dp.spending import seen_by
from secure_fed_diffusion.errors import BudgetExceededError, LedgerError
from tests.dp.plans import MODEL, gaussian, shares
from tests.dp.shared_runs import SUM_1, dataset, filtered, run, spent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spent.jsonl"


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


def test_a_run_with_a_trusted_server_is_priced_by_what_it_releases_beside_one_without(path: Path) -> None:
    """The trusted server is not among the adversary: to it the run's own records are worth ε = ∞."""
    trusted = gaussian(8.0, rate=0.1)
    book = SharedLedger(path, dataset())
    book.reserve(run("distributed", 40))
    both = book.reserve(run("central", 40, trusted, MODEL))
    multiplier = shares(8192.0).noise_multiplier(SUM_1)
    alike = gaussian(multiplier, rate=0.1)
    expected = filtered({alike: 40, trusted: 40}, {alike: 40}, budget=5.0)
    assert both == pytest.approx(expected, rel=1e-4)


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
