"""The least noise that keeps a promise.

`build` turns a scale (a noise multiplier) into the steps that would be taken; the search doubles and
halves until it holds the target between two scales, then closes in on it in the logarithm.

Not protected against: a `build` that is not monotone; more scale must mean less ε.

>>> from secure_fed_diffusion.dp.mechanism import Mechanism
>>> def build(scale):
...     return {Mechanism(kind="central", unit="example", relation="add_remove", sampling_rate=1.0,
...                       sensitivity=1.0, share_stddev=0.0, server_stddev=scale, min_survivors=1,
...                       integer=False, dimension=1): 1}
>>> round(calibrate(build, target_epsilon=1.0, delta=1e-5, view=View(name="released_model")), 2)
3.73
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from secure_fed_diffusion.dp.accounting import Accountant, epsilon
from secure_fed_diffusion.dp.mechanism import Mechanism, View
from secure_fed_diffusion.errors import ConfigError, HopelessBudgetError, PrivacyError

_SMALLEST, _LARGEST = 2.0**-6, 2.0**20


def calibrate(
    build: Callable[[float], Mapping[Mechanism, int]],
    *,
    target_epsilon: float,
    delta: float,
    view: View,
    accountant: Accountant = "pld",
    tolerance: float = 1e-3,
) -> float:
    """Return the smallest scale, to the relative `tolerance`, whose ε is at most `target_epsilon`.

    Guarantees: ε of the returned scale was computed and does not exceed the target.

    Raises:
        HopelessBudgetError: no scale up to 2²⁰ meets the target.
    """
    if not target_epsilon > 0:
        raise ConfigError(f"expected a positive ε, got {target_epsilon}", key="target_epsilon")
    if not 0 < tolerance < 1:
        raise ConfigError(f"expected 0 < tolerance < 1, got {tolerance}", key="tolerance")
    refusal: PrivacyError | None = None

    def cost(scale: float) -> float:
        nonlocal refusal
        try:
            return epsilon(build(scale), delta=delta, view=view, accountant=accountant)
        except PrivacyError as error:  # for one, noise too narrow for the grid: more of it may do
            refusal = error
            return math.inf

    high, reached = 1.0, cost(1.0)
    while reached > target_epsilon:
        high *= 2.0
        if high > _LARGEST:
            raise HopelessBudgetError(
                f"no noise multiplier up to {_LARGEST:.0f} reaches ε <= {target_epsilon} "
                f"in the view {view.key}: the largest gives {reached:.4g}"
            ) from refusal
        reached = cost(high)
    low, exceeded = high / 2.0, cost(high / 2.0)
    while exceeded <= target_epsilon and low > _SMALLEST:
        high, reached = low, exceeded
        low, exceeded = low / 2.0, cost(low / 2.0)
    if exceeded <= target_epsilon:
        return low
    above = True
    while high > low * (1.0 + tolerance):
        middle = math.sqrt(low * high)
        if 0.0 < reached < exceeded < math.inf:
            # ε is nearly a power of the scale: aim at the target, a little above it and below it in turns
            share = math.log(exceeded / target_epsilon) / math.log(exceeded / reached)
            aimed = low * (high / low) ** share * (1.0 + tolerance / 3.0) ** (1 if above else -1)
            if low * (1.0 + tolerance / 9.0) < aimed < high / (1.0 + tolerance / 9.0):
                middle = aimed
            above = not above
        found = cost(middle)
        if found <= target_epsilon:
            high, reached = middle, found
        else:
            low, exceeded = middle, found
    return high
