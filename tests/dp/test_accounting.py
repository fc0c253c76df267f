from __future__ import annotations

import logging
import math
import subprocess
import sys
import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from scipy import optimize, special, stats

from secure_fed_diffusion.dp import (
    View,
    accounting,
    calibrate,
    delta,
    delta_curve,
    discretisation_loss,
    epsilon,
    privacy_loss,
)
from secure_fed_diffusion.errors import ConfigError, PrivacyError
from tests.dp.plans import MODEL, gaussian, shares

RAW, SUM, SUM_1 = View(name="raw_update"), View(name="sum"), View(name="sum", colluders=1)
DELTA = 1e-5


def exact_epsilon(multiplier: float, steps: int, delta: float = DELTA) -> float:
    """Return ε of the Gaussian mechanism without sampling (Balle and Wang 2018, Theorem 8)."""
    mu = math.sqrt(steps) / multiplier

    def excess(value: float) -> float:
        tail = math.exp(value + special.log_ndtr(-value / mu - mu / 2))
        return float(stats.norm.cdf(-value / mu + mu / 2) - tail - delta)

    return float(optimize.brentq(excess, 0.0, 400.0)) if excess(0.0) > 0 else 0.0


@pytest.mark.parametrize(
    ("accountant", "rate", "steps", "target", "multiplier"),
    [
        ("pld", 0.0683, 4394, 0.2, 73.8),
        ("pld", 0.0683, 4394, 1.0, 16.92),
        ("pld", 0.0683, 4394, 10.0, 2.381),
        ("pld", 0.0745, 2014, 0.2, 54.55),
        ("pld", 0.0745, 2014, 1.0, 12.53),
        ("pld", 0.0745, 2014, 10.0, 1.827),
        ("rdp", 0.0683, 4394, 0.2, 81.5),
        ("rdp", 0.0683, 4394, 1.0, 18.35),
        ("rdp", 0.0683, 4394, 10.0, 2.514),
        ("rdp", 0.0745, 2014, 0.2, 60.25),
        ("rdp", 0.0745, 2014, 1.0, 13.58),
        ("rdp", 0.0745, 2014, 10.0, 1.943),
    ],
)
def test_the_noise_of_the_published_settings_is_reproduced(
    accountant: Any, rate: float, steps: int, target: float, multiplier: float
) -> None:
    """The σ table of the design: (n = 60k, q = .0683, T = 4394) and (n = 55k, q = .0745, T = 2014)."""
    found = calibrate(
        lambda scale: {gaussian(scale, rate): steps},
        target_epsilon=target,
        delta=DELTA,
        view=MODEL,
        accountant=accountant,
    )
    assert found == pytest.approx(multiplier, rel=0.01)


@pytest.mark.parametrize(
    ("multiplier", "steps"), [(0.3, 1), (1.0, 1), (1.0, 50), (5.0, 10), (30.0, 200), (400.0, 3)]
)
def test_pld_meets_the_closed_form_of_the_plain_gaussian_from_above(multiplier: float, steps: int) -> None:
    exact = exact_epsilon(multiplier, steps)
    found = epsilon({gaussian(multiplier): steps}, delta=DELTA, view=MODEL)
    assert exact - 1e-6 <= found <= exact * (1 + 1e-3) + 1e-5


@pytest.mark.parametrize(("multiplier", "steps"), [(1.0, 1), (5.0, 10), (30.0, 200)])
def test_rdp_meets_its_closed_form_and_lies_above_the_truth(multiplier: float, steps: int) -> None:
    def bound(order: float) -> float:
        divergence = order * steps / (2 * multiplier**2)
        return divergence + math.log1p(-1 / order) - math.log(DELTA * order) / (order - 1)

    best = optimize.minimize_scalar(bound, bounds=(1.01, 5000), method="bounded").fun
    found = epsilon({gaussian(multiplier): steps}, delta=DELTA, view=MODEL, accountant="rdp")
    assert found == pytest.approx(best, rel=0.01)
    assert found > exact_epsilon(multiplier, steps)


@pytest.mark.parametrize(
    ("multiplier", "rate", "steps"),
    [(0.8, 0.05, 60), (1.0, 0.1, 100), (2.381, 0.0683, 1000), (5.0, 0.3, 100), (12.53, 0.0745, 2014)],
)
@pytest.mark.filterwarnings("ignore:Optimal order:UserWarning")
def test_pld_agrees_with_the_prv_accountant_of_opacus(multiplier: float, rate: float, steps: int) -> None:
    from opacus.accountants import PRVAccountant

    other = PRVAccountant()
    other.history = [(multiplier, rate, steps)]
    found = epsilon({gaussian(multiplier, rate): steps}, delta=DELTA, view=MODEL)
    assert found == pytest.approx(other.get_epsilon(DELTA, eps_error=0.02), abs=0.05)
    assert found < epsilon({gaussian(multiplier, rate): steps}, delta=DELTA, view=MODEL, accountant="rdp")


def test_the_worse_direction_counts_in_every_setting() -> None:
    for multiplier, rate in ((0.7, 0.3), (1.5, 0.8), (4.0, 0.05)):
        pld = privacy_loss.one_step(multiplier, rate, 1e-3, False).self_compose(5)
        directions = [pmf.get_epsilon_for_delta(DELTA) for pmf in (pld._pmf_add, pld._pmf_remove)]
        assert abs(directions[0] - directions[1]) > 1e-4
        found = epsilon({gaussian(multiplier, rate): 5}, delta=DELTA, view=MODEL)
        assert found == pytest.approx(max(directions), abs=2e-3)


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_the_more_a_view_knows_the_more_it_costs(accountant: str) -> None:
    views = [RAW, *(View(name="sum", colluders=c) for c in (4, 3, 2, 1, 0))]
    costs = [
        epsilon({shares(8192.0): 40}, delta=DELTA, view=view, accountant=accountant)  # type: ignore[arg-type]
        for view in views
    ]
    assert costs[0] == pytest.approx(costs[1])
    assert all(left > right for left, right in pairwise(costs[1:]))
    model = epsilon({shares(8192.0): 40}, delta=DELTA, view=MODEL, accountant=accountant)  # type: ignore[arg-type]
    assert costs[-1] == model


def test_the_views_of_the_reference_run_are_reproduced() -> None:
    step = shares(1.0, sensitivity=1.0, integer=False, min_survivors=10)
    found = [
        epsilon({step: 100}, delta=DELTA, view=View(name="sum", colluders=10 - honest))
        for honest in (1, 2, 5, 10)
    ]
    assert found == pytest.approx([7.05, 3.87, 2.01, 1.30], abs=0.01)


def test_integers_cost_what_the_continuous_gaussian_costs() -> None:
    step = shares(8192.0)
    found = epsilon({step: 40}, delta=DELTA, view=SUM_1)
    continuous = epsilon({gaussian(step.noise_multiplier(SUM_1), 0.1): 40}, delta=DELTA, view=MODEL)
    assert found >= continuous
    assert found == pytest.approx(continuous, rel=1e-6)


def test_two_mechanisms_cost_more_than_either_and_less_than_their_sum() -> None:
    first, second = gaussian(2.0, 0.1), gaussian(5.0)
    one = epsilon({first: 100}, delta=DELTA, view=MODEL)
    other = epsilon({second: 1}, delta=DELTA, view=MODEL)
    for accountant in ("pld", "rdp"):
        both = epsilon({first: 100, second: 1}, delta=DELTA, view=MODEL, accountant=accountant)  # type: ignore[arg-type]
        assert max(one, other) < both
        assert both < epsilon({first: 100}, delta=DELTA, view=MODEL, accountant="rdp") + other + 0.1
    again = {gaussian(2.0): 3, gaussian(2.0, dimension=7): 2}  # equal but for what does not cost
    assert epsilon(again, delta=DELTA, view=MODEL) == epsilon({gaussian(2.0): 5}, delta=DELTA, view=MODEL)


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_nothing_released_costs_nothing_and_no_protection_is_infinite(accountant: str) -> None:
    for empty in ({}, {gaussian(1.0): 0}):
        assert epsilon(empty, delta=DELTA, view=MODEL, accountant=accountant) == 0.0  # type: ignore[arg-type]
    for bare in (shares(0.0), shares(0.0, kind="none"), gaussian(0.0)):
        assert epsilon({bare: 1}, delta=DELTA, view=MODEL, accountant=accountant) == math.inf  # type: ignore[arg-type]
    assert epsilon({gaussian(1.0): 1}, delta=DELTA, view=SUM) == math.inf


def test_gdp_is_refused_by_name() -> None:
    with pytest.raises(PrivacyError, match="GDP"):
        epsilon({gaussian(1.0): 1}, delta=DELTA, view=MODEL, accountant="gdp")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="pld, rdp"):
        epsilon({gaussian(1.0): 1}, delta=DELTA, view=MODEL, accountant="prv")  # type: ignore[arg-type]


def test_units_have_no_common_epsilon() -> None:
    client = gaussian(1.0, unit="client", relation="zero_out")
    with pytest.raises(PrivacyError, match="units"):
        epsilon({gaussian(1.0): 1, client: 1}, delta=DELTA, view=MODEL)


@pytest.mark.parametrize("delta", [0.0, 1e-11, 1.0, math.nan])
def test_a_delta_that_cannot_be_computed_is_refused(delta: float) -> None:
    with pytest.raises(ConfigError, match="delta"):
        epsilon({gaussian(1.0): 1}, delta=delta, view=MODEL)


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(ConfigError, match="counts"):
        epsilon({gaussian(1.0): -1}, delta=DELTA, view=MODEL)


def test_the_discretisation_loss_is_carried_and_tiny() -> None:
    step = shares(8.0, sensitivity=8.0, min_survivors=4)
    loss = discretisation_loss(step, SUM)
    lemma_b = 160_000 * 4 * math.exp(-2 * math.pi**2 * 16)
    assert lemma_b <= loss < 1.001 * lemma_b + 1e-130
    assert 0.0 < loss < 1e-130
    assert discretisation_loss(gaussian(1.0), MODEL) == 0.0
    assert discretisation_loss(shares(8.0, sensitivity=8.0, dimension=1), SUM) > 0.0


def test_narrow_noise_is_refused_on_the_grid() -> None:
    step = shares(7.9, sensitivity=8.0)
    for question in (discretisation_loss, lambda s, v: epsilon({s: 1}, delta=DELTA, view=v)):
        with pytest.raises(PrivacyError, match=r"stddev >= 8"):
            question(step, SUM)


def test_a_correction_that_is_not_negligible_is_refused() -> None:
    with pytest.raises(PrivacyError, match="too coarse"):
        epsilon({shares(8.0, sensitivity=8.0, dimension=10**129): 1}, delta=DELTA, view=SUM)


def test_corrections_are_charged_as_the_theorem_says() -> None:
    def cost(part: float) -> float:
        return math.log(1 / part)

    found = accounting._with_corrections(cost, 1e-5, 0.25, -math.inf)
    assert found == pytest.approx(math.log(1e5) + 0.25 + 0.5)
    for draws in (1e-30, 1e-15, 1e-13):
        found = accounting._with_corrections(cost, 1e-5, 0.0, math.log(draws))
        # ε really covers δ_cont and the sampler: cost is the inverse of δ_cont(ε) = e^{-ε}
        assert math.exp(-found) + (1 + math.exp(found)) * draws <= 1e-5 * (1 + 1e-12)
    assert accounting._with_corrections(cost, 1e-5, 0.0, math.log(1e-9)) == math.inf


def test_the_samplers_own_distance_is_charged() -> None:
    costs = [epsilon({shares(448.0, dimension=d): 40}, delta=DELTA, view=SUM) for d in (1, 10**98, 10**110)]
    assert 400 < costs[0] < costs[1] - 1e-4 < math.inf
    assert costs[2] == math.inf


def test_a_large_epsilon_is_a_number() -> None:
    step = shares(1792.0, min_survivors=1)
    found = epsilon({step: 100}, delta=DELTA, view=SUM)
    continuous = epsilon({gaussian(step.noise_multiplier(SUM), 0.1): 100}, delta=DELTA, view=MODEL)
    assert 130 < found < math.inf
    assert found == pytest.approx(continuous, rel=1e-9)


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
@pytest.mark.parametrize("step", [gaussian(0.9, 0.07), shares(8192.0)])
def test_delta_and_epsilon_are_inverse(step: Any, accountant: Any) -> None:
    view = MODEL if step.kind == "central" else SUM_1
    for wanted in (1e-7, 1e-5, 1e-3):
        spent = epsilon({step: 60}, delta=wanted, view=view, accountant=accountant)
        assert delta({step: 60}, epsilon=spent, view=view, accountant=accountant) == pytest.approx(
            wanted, rel=1e-3
        )


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_delta_at_epsilon_zero_is_the_limit_from_above(accountant: Any) -> None:
    """An integer mechanism's correction makes the inner ε negative there."""
    step = shares(8192.0)
    at_zero, near_zero = (
        delta({step: 3}, epsilon=value, view=SUM, accountant=accountant) for value in (0.0, 1e-9)
    )
    assert at_zero == pytest.approx(near_zero, rel=1e-3)
    assert 0.0 < at_zero < 1.0


def test_delta_carries_the_corrections_too() -> None:
    step = shares(448.0, dimension=10**98)
    spent = epsilon({step: 40}, delta=DELTA, view=SUM)
    assert delta({step: 40}, epsilon=spent, view=SUM) <= DELTA * (1 + 1e-9)
    bare = delta({shares(448.0, dimension=1): 40}, epsilon=spent + 5, view=SUM)
    assert bare < DELTA < 2e-5 < delta({step: 40}, epsilon=spent + 5, view=SUM)
    assert delta({}, epsilon=1.0, view=SUM) == 0.0
    assert delta({shares(0.0): 1}, epsilon=1.0, view=SUM) == 1.0
    with pytest.raises(ConfigError, match="epsilon"):
        delta({step: 1}, epsilon=-1.0, view=SUM)
    with pytest.raises(PrivacyError, match="GDP"):
        delta({step: 1}, epsilon=1.0, view=SUM, accountant="gdp")  # type: ignore[arg-type]


def test_the_curve_is_the_closed_form_where_nobody_is_left_out() -> None:
    wanted = [3.0, 0.0, 0.5, 1.0]
    mu = math.sqrt(10) / 5.0
    exact = [
        stats.norm.cdf(-value / mu + mu / 2) - math.exp(value) * stats.norm.cdf(-value / mu - mu / 2)
        for value in wanted
    ]
    curve = delta_curve(5.0, 1.0, 10, wanted)
    assert curve == pytest.approx(exact, rel=1e-3)
    assert (curve >= exact).all()


@pytest.mark.parametrize(
    ("multiplier", "steps", "exact"),
    [(12.0, 100_000, 513.9627681), (10.0, 30_000, 259.3304), (15.0, 30_000, 139.3253)],
)
def test_rounding_of_the_transform_is_no_violation_at_the_least_delta(
    multiplier: float, steps: int, exact: float
) -> None:
    """At each of these dp_accounting's own ε lies below the closed form's."""
    mu = math.sqrt(steps) / multiplier

    def closed_form(value: float) -> float:
        below = math.exp(value + stats.norm.logcdf(-value / mu - mu / 2))
        return float(stats.norm.cdf(-value / mu + mu / 2) - below)

    assert closed_form(exact) == pytest.approx(1e-10, rel=1e-3)
    found = epsilon({gaussian(multiplier): steps}, delta=1e-10, view=MODEL)
    assert closed_form(found) <= 1e-10
    assert found < exact * 1.003
    wanted = np.linspace(0.9 * exact, 1.1 * exact, 200)
    assert (delta_curve(multiplier, 1.0, steps, wanted) >= [closed_form(value) for value in wanted]).all()


def test_a_delta_that_the_transform_s_rounding_may_be_all_of_gives_no_epsilon() -> None:
    """A million steps at z = 60, where δ at ε = 244.2 is 9.5e-11 and came out as 1.2e-12."""
    value, mu = 244.19381787802845, 1000 / 60
    exact = stats.norm.cdf(-value / mu + mu / 2) - math.exp(value + stats.norm.logcdf(-value / mu - mu / 2))
    assert delta_curve(60.0, 1.0, 1_000_000, [value])[0] >= exact
    assert epsilon({gaussian(60.0): 1_000_000}, delta=1e-10, view=MODEL) == math.inf
    assert epsilon({gaussian(60.0): 1_000_000}, delta=1e-5, view=MODEL) < 211


def test_the_curve_agrees_with_epsilon_and_knows_its_ends() -> None:
    spent = epsilon({gaussian(1.0, 0.1): 100}, delta=DELTA, view=MODEL)
    assert delta_curve(1.0, 0.1, 100, [spent])[0] == pytest.approx(DELTA, rel=1e-3)
    assert delta_curve(0.001, 0.1, 1, [1.0, 2.0]).tolist() == [1.0, 1.0]
    assert delta_curve(1.0, 0.1, 0, [0.0, 2.0]).tolist() == [0.0, 0.0]
    for arguments in ((1.0, 0.0, 1, [1.0]), (-1.0, 0.1, 1, [1.0]), (1.0, 0.1, -1, [1.0])):
        with pytest.raises(ConfigError):
            delta_curve(*arguments)
    with pytest.raises(ConfigError):
        delta_curve(1.0, 0.1, 1, [math.nan])


def test_a_new_count_is_cheap_after_the_first() -> None:
    step = gaussian(1.37, 0.09)
    epsilon({step: 1}, delta=DELTA, view=MODEL)
    start = time.process_time()
    ladder = [epsilon({step: count}, delta=DELTA, view=MODEL) for count in (50, 100, 150, 200)]
    assert (time.process_time() - start) / 4 < 0.5  # one tenth of a second on an idle machine
    assert ladder == sorted(ladder)


def test_no_warning_of_the_libraries_reaches_a_person() -> None:
    code = (
        "from tests.dp.plans import gaussian, MODEL\n"
        "from secure_fed_diffusion.dp import epsilon\n"
        "print(epsilon({gaussian(0.5, 0.05): 120}, delta=1e-5, view=MODEL, accountant='rdp'))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert float(done.stdout) > 1
    assert done.stderr == ""


def test_the_silence_is_the_accountants_alone() -> None:
    record = logging.LogRecord("absl", logging.WARNING, "/somewhere/else.py", 1, "heard", None, None)
    assert accounting._is_not_library_chatter(record)


def test_a_renyi_divergence_that_rounds_below_zero_is_never_free() -> None:
    curve = accounting._rdp_curve(5000.0, 1e-4)
    assert (curve > 0).all()
