from __future__ import annotations

import math

import pytest

from secure_fed_diffusion.dp import View, epsilon
from secure_fed_diffusion.dp.accounting import RENYI_ORDERS, renyi_divergence
from secure_fed_diffusion.dp.filters import RenyiFilter
from secure_fed_diffusion.errors import ConfigError, PrivacyError
from tests.dp.plans import MODEL, gaussian, shares

SUM = View(name="sum")


def test_the_divergence_of_the_plain_gaussian_is_known() -> None:
    for order in (2.0, 16.0):
        found = renyi_divergence({gaussian(3.0): 7}, order=order, view=MODEL)
        assert found == pytest.approx(7 * order / (2 * 9))
    with pytest.raises(ConfigError, match="order: expected one of"):
        renyi_divergence({gaussian(3.0): 7}, order=2.345, view=MODEL)


def test_admitted_steps_never_cost_more_than_the_filters_epsilon() -> None:
    """Noise that rises and falls: after each admitted step RDP over all orders is below the budget."""
    limit = RenyiFilter(order=6.0, epsilon=4.0, delta=1e-5)
    taken: dict[object, int] = {}
    released = 0
    for turn in range(1000):
        step = shares(8192.0, min_survivors=5 + turn % 4)
        if not limit.admits(taken, step, SUM):  # type: ignore[arg-type]
            break
        taken[step] = taken.get(step, 0) + 1
        released += 1
    spent = epsilon(taken, delta=1e-5, view=SUM, accountant="rdp")  # type: ignore[arg-type]
    assert 50 < released < 1000
    assert spent <= 4.0
    assert spent > 3.8  # and it does not stop long before


def test_more_noise_is_admitted_where_less_is_not() -> None:
    limit = RenyiFilter(order=8.0, epsilon=3.0, delta=1e-5)
    taken = {gaussian(2.0, 0.1): 3}
    assert limit.admits(taken, gaussian(2.5), MODEL)
    assert not limit.admits(taken, gaussian(0.5), MODEL)
    assert not limit.admits({}, gaussian(0.0), MODEL)


def test_the_budget_pays_for_the_conversion_first() -> None:
    limit = RenyiFilter(order=32.0, epsilon=2.0, delta=1e-5)
    conversion = math.log1p(-1 / 32) - math.log(1e-5 * 32) / 31
    assert limit.budget == pytest.approx(2.0 - conversion, abs=1e-6)
    assert limit.budget < 2.0 - conversion
    with pytest.raises(PrivacyError, match="leaves nothing"):
        RenyiFilter(order=2.0, epsilon=1.0, delta=1e-5)


@pytest.mark.parametrize(
    "changes", [{"order": 2.345}, {"delta": 0.0}, {"epsilon": math.inf}, {"epsilon": 0.0}]
)
def test_a_filter_that_proves_nothing_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        RenyiFilter(**{"order": 16.0, "epsilon": 2.0, "delta": 1e-5, **changes})


def test_replace_one_has_no_filter() -> None:
    limit = RenyiFilter(order=16.0, epsilon=2.0, delta=1e-5)
    with pytest.raises(PrivacyError, match="replace_one"):
        limit.admits({}, gaussian(5.0, relation="replace_one"), MODEL)


def test_the_orders_are_the_accountants_own() -> None:
    assert 2.0 in RENYI_ORDERS
    assert list(RENYI_ORDERS) == sorted(RENYI_ORDERS)
