from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from secure_fed_diffusion.dp import View, epsilon
from secure_fed_diffusion.dp.realised import (
    DROPOUT_ASSUMPTION,
    RealisedEpsilon,
    realised_epsilon,
)
from secure_fed_diffusion.errors import ConfigError, PrivacyError, UnderNoisedError
from tests.dp.plans import MODEL, gaussian, shares, terms

SUM, RAW = View(name="sum"), View(name="raw_update")
STEP = shares(8192.0)  # at least 5 survivors


def realised(counts: dict[tuple[object, int], int], view: View = SUM) -> RealisedEpsilon:
    return realised_epsilon(counts, delta=1e-5, view=view)  # type: ignore[arg-type]


def test_at_the_plans_minimum_it_is_the_guarantee() -> None:
    assert realised({(STEP, 5): 40}).value == epsilon({STEP: 40}, delta=1e-5, view=SUM)


def test_every_further_survivor_lowers_it_and_mixed_rounds_lie_between() -> None:
    least, mixed, most = (
        realised({(STEP, 5): 40}).value,
        realised({(STEP, 5): 20, (STEP, 9): 20}).value,
        realised({(STEP, 9): 40}).value,
    )
    assert most < mixed < least


def test_further_survivors_do_not_help_against_who_reads_the_raw_update() -> None:
    assert realised({(STEP, 9): 40}, RAW).value == realised({(STEP, 5): 40}, RAW).value


@pytest.mark.parametrize("spec", ["{}", "{:.3f}", "{!s}"])
def test_it_cannot_be_printed_without_its_assumption(spec: str) -> None:
    found = realised({(STEP, 9): 40})
    written = spec.format(found)
    assert DROPOUT_ASSUMPTION in written
    assert "if dropouts do not depend on outputs, records or coins" in written
    assert "realised" in written


def test_it_cannot_be_taken_for_a_number() -> None:
    with pytest.raises(TypeError):
        float(realised({(STEP, 9): 1}))  # type: ignore[arg-type]


def test_json_carries_the_assumption_too_and_infinity_is_null() -> None:
    found = json.loads(json.dumps(realised({(shares(0.0), 5): 1}).to_dict()))
    assert found["realised_epsilon"] is None
    assert found["assumption"] == DROPOUT_ASSUMPTION
    assert (found["unit"], found["relation"], found["view"]) == ("example", "add_remove", "sum_c0")


def test_what_was_spent_is_exceeded_where_failures_are_chosen_by_looking() -> None:
    """One step at μ = 1; a server that saw it says whether it failed, and a repeat at μ = 0.6 is charged.

    Told ε is `without` where none failed and `with_one` else.  Under the true data the worst event has
    probability P(A) = Σ e^(ε told)·Q(A) + 1.64 δ: what was spent is no (ε, δ).  At the plan's ε it is.
    """
    delta, repeat = 1e-5, 0.6
    without, with_one = (
        epsilon({gaussian(1.0 / mu): 1}, delta=delta, view=MODEL) for mu in (1.0, math.hypot(1.0, repeat))
    )
    x = np.linspace(-12.0, 12.0, 400_001)
    loss, weight = x + 0.5, stats.norm.pdf(x) * (x[1] - x[0])  # of the step, under the true data

    def reached(told: float) -> float:
        """Return P(A) − Σ e^(ε told)·Q(A) of the worst A, where `told` is said if nothing failed."""
        left = with_one - loss  # what the repeat has to exceed
        at_repeat = stats.norm.cdf(-left / repeat + repeat / 2) - np.exp(
            left + stats.norm.logcdf(-left / repeat - repeat / 2)
        )
        return float(np.sum(np.maximum(at_repeat, np.maximum(0.0, 1 - np.exp(told - loss))) * weight))

    assert reached(without) > 1.6 * delta
    assert reached(with_one) <= delta * (1 + 1e-6)


def test_the_plans_epsilon_is_that_of_every_charge_it_reserves() -> None:
    promise = terms(max_charges={"gradient": 40, "prototypes": 2})
    counts = {promise.mechanisms["gradient"]: 40, promise.mechanisms["prototypes"]: 2}
    planned = promise.planned()
    assert planned is not None
    assert set(planned) == {"sum_c0", "sum_c1", "released_model"}
    for view in promise.views:
        for accountant in ("pld", "rdp"):
            alone = epsilon(counts, delta=promise.delta, view=view, accountant=accountant)  # type: ignore[arg-type]
            assert planned[view.key][accountant] == alone
    assert terms(max_charges={"gradient": 40}).planned() is None  # prototypes without end


def test_a_sum_below_the_plans_minimum_is_no_epsilon_at_all() -> None:
    with pytest.raises(UnderNoisedError, match="4 contributions"):
        realised({(STEP, 9): 10, (STEP, 4): 1})


def test_what_has_no_common_epsilon_or_never_happened_is_refused() -> None:
    client = gaussian(1.0, unit="client", relation="zero_out")
    with pytest.raises(PrivacyError, match="units"):
        realised({(STEP, 9): 1, (client, 1): 1})
    for empty in ({}, {(STEP, 9): 0}):
        with pytest.raises(ConfigError, match="release"):
            realised(empty)  # type: ignore[arg-type]
