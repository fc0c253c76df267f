"""Several runs on one data set against one adversary: all servers, with as many clients as any run allows."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from secure_fed_diffusion.dp import View, epsilon
from secure_fed_diffusion.dp.shared import SharedLedger, verify_shared
from secure_fed_diffusion.dp.spending import Holding, Reservation, Spending, seen_by
from secure_fed_diffusion.errors import BudgetExceededError, LedgerError
from tests.dp.ledgers import forge
from tests.dp.plans import MODEL, gaussian, shares
from tests.dp.shared_runs import SUM_1, dataset, filtered, planned, run

FEW, MANY = planned("A", colluders=1, multiplier=1.0), planned("B", colluders=4, multiplier=3.0)
SUM_4, RAW = View(name="sum", colluders=4), View(name="raw_update")
RAISED = "is to withstand 4 colluders, and with it all"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spent.jsonl"


def account(path: Path, budget: float = 9.0) -> SharedLedger:
    return SharedLedger(path, dataset(budget_epsilon=budget, accountant="pld"))


def as_each_guard_sees_it(self: Spending) -> float:
    """Price by the rule that came before: each run in its own guard view, by the first plan's order."""
    counts = [
        {seen_by(run.guard, run.mechanisms["training"]): count}
        for holding in self.holdings.values()
        for run, count in [(holding.reservation, holding.counts["training"])]
    ]
    if len(counts) < 2:
        return epsilon(counts[0] if counts else {}, delta=1e-5, view=MODEL, accountant="pld")
    return filtered(
        {step: n for taken in counts for step, n in taken.items()},
        counts[0],
        budget=self.terms.budget_epsilon,
    )


def holding(*runs: Reservation, budget: float = 9.0) -> Spending:
    terms = dataset(budget_epsilon=budget, accountant="pld")
    held = {r.run_id: Holding(reservation=r, counts=r.counts, settled=False) for r in runs}
    return Spending(terms, held)


def test_each_runs_own_view_prices_two_runs_at_a_quarter_of_what_one_server_with_four_clients_sees() -> None:
    """The counterexample to pricing each run in its own guard view."""
    seen = {step: 100 for run in (FEW, MANY) for step in run.mechanisms.values()}
    alone = {FEW.mechanisms["training"]: 100}
    assert epsilon(seen, delta=1e-5, view=SUM_4, accountant="pld") == pytest.approx(31.46, abs=0.005)
    assert epsilon(alone, delta=1e-5, view=SUM_4, accountant="pld") == pytest.approx(31.37, abs=0.005)
    assert as_each_guard_sees_it(holding(FEW, MANY)) == pytest.approx(8.15, abs=0.005)


def test_a_run_that_withstands_more_colluders_is_refused_where_an_earlier_one_cannot(path: Path) -> None:
    book = account(path)
    assert book.reserve(FEW) == epsilon(
        {FEW.mechanisms["training"]: 100}, delta=1e-5, view=SUM_1, accountant="pld"
    )  # alone it keeps its price
    before = path.read_bytes()
    for refuse in (book.price, book.reserve):
        with pytest.raises(BudgetExceededError, match=f"this run {RAISED}"):
            refuse(MANY)
    assert path.read_bytes() == before


def test_a_run_that_withstands_fewer_is_refused_after_one_that_withstands_more(path: Path) -> None:
    book = account(path)
    book.reserve(MANY)
    with pytest.raises(BudgetExceededError, match=f"run B {RAISED}"):
        book.reserve(FEW)
    book.settle("B", {"training": 1})  # what it released was promised to withstand four for good
    with pytest.raises(BudgetExceededError, match=f"run B {RAISED}"):
        book.reserve(FEW)


def test_a_run_that_is_over_is_held_to_the_colluders_of_a_later_one(path: Path) -> None:
    book = account(path)
    book.reserve(FEW)
    book.settle("A", {"training": 60})
    with pytest.raises(BudgetExceededError, match=f"this run {RAISED}"):
        book.reserve(MANY)
    other = account(path.with_name("other.jsonl"))
    other.reserve(FEW)
    other.settle("A", {"training": 1})  # for what it released; its plan is promised to nobody any more
    assert other.reserve(MANY) < 9.0


def test_a_run_that_released_nothing_raises_no_price_until_it_goes_on(path: Path) -> None:
    book = account(path)
    book.reserve(MANY)
    book.settle("B", {"training": 0})
    book.reserve(FEW)
    assert verify_shared(path).adversary.endswith("up to 1 client of each run")
    with pytest.raises(BudgetExceededError, match=f"this run {RAISED}"):
        book.reserve(MANY)


def test_what_fits_is_admitted_and_every_run_is_priced_against_the_most_colluders(path: Path) -> None:
    """By the order of the first plan in its own view: one that moved would be chosen after releases."""
    quiet = planned("A", colluders=1, multiplier=4.0)
    book = account(path)
    book.reserve(quiet)
    both = book.reserve(MANY)
    step, other = quiet.mechanisms["training"], MANY.mechanisms["training"]
    seen = {seen_by(SUM_4, step): 100, seen_by(SUM_4, other): 100}
    assert both == pytest.approx(filtered(seen, {seen_by(SUM_1, step): 100}, budget=9.0), rel=1e-6)
    assert both > as_each_guard_sees_it(holding(quiet, MANY)) * 1.05
    report = verify_shared(path)
    assert report.epsilon == both
    assert report.to_dict()["adversary"] == (
        "every server but those of mode central, with up to 4 clients of each run"
    )


def test_masks_that_were_planned_for_fewer_colluders_hide_no_single_update_from_more() -> None:
    """Of 5 shares 2 colluders leave 3; a threshold of 4 among 6 clients withstands one of them, not two."""
    less, more = run("A", 10, shares(16384.0)), run("B", 10, shares(16384.0), View(name="sum", colluders=2))
    step = shares(16384.0)
    first = {seen_by(SUM_1, step): 10}
    expected = filtered(
        {seen_by(RAW, step): 10, seen_by(more.guard, step): 10}, first, budget=holding().terms.budget_epsilon
    )
    assert holding(less, more).epsilon() == pytest.approx(expected, rel=1e-6)


def test_a_run_of_no_more_survivors_than_colluders_fits_in_no_budget(path: Path) -> None:
    few = run("A", 1, shares(81920.0, min_survivors=4))
    book = account(path, budget=200.0)
    book.reserve(few)
    with pytest.raises(BudgetExceededError, match=f"ε = inf.*this run {RAISED}"):
        book.reserve(MANY)


def test_local_noise_and_a_trusted_server_cost_the_same_whoever_colludes() -> None:
    local = run("local", 10, shares(81920.0, kind="local"), RAW)
    central = run("central", 10, gaussian(8.0, rate=0.1), MODEL)
    for other in (local, central):
        prices = [
            holding(planned("sums", colluders, 9.0, 10), other).epsilon() for colluders in (0, 1, 4)
        ]  # each has the same noise against its own colluders
        assert prices == pytest.approx([prices[0]] * 3, rel=1e-6)
        assert math.isfinite(prices[0])


@pytest.mark.parametrize(
    ("guards", "adversary"),
    [
        ([RAW, RAW], "every server, with all other clients of each run"),
        ([MODEL, MODEL], "whoever holds the released models"),
        ([MODEL, RAW], "every server but those of mode central, with no client"),
        ([SUM_1, RAW], "every server but those of mode central, with up to 1 client of each run"),
        ([], "whoever holds the released models"),
    ],
)
def test_whom_a_budget_withstands_is_said_of_its_modes(guards: list[View], adversary: str) -> None:
    assert holding(*(run(str(i), guard=guard) for i, guard in enumerate(guards))).adversary == adversary


def test_a_ledger_that_each_guard_priced_alone_is_refused_and_told_whose_colluders(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = account(path)
    with monkeypatch.context() as patch:
        patch.setattr(Spending, "epsilon", as_each_guard_sees_it)
        book.reserve(FEW)
        book.reserve(MANY)
        assert verify_shared(path).epsilon < 9.0
    for question in (
        lambda: verify_shared(path),
        lambda: book.price(run("c", 1)),
        lambda: book.holds("A"),
        lambda: book.settle("A", {"training": 1}),
    ):
        with pytest.raises(LedgerError, match=f"more than the budget 9; run B {RAISED}") as caught:
            question()
        assert caught.value.line == 3


def test_a_figure_by_each_guard_alone_does_not_verify_within_the_budget_either(path: Path) -> None:
    quiet = planned("A", colluders=1, multiplier=8.0)
    book = account(path)
    book.reserve(quiet)
    book.reserve(MANY)
    forge(path, 3, epsilon=as_each_guard_sees_it(holding(quiet, MANY)))
    with pytest.raises(LedgerError, match=f"recomputed .*; run B {RAISED}") as caught:
        verify_shared(path)
    assert caught.value.line == 3
