"""Steps whose noise is known only as they happen: a Rényi filter at an order fixed in advance.

Ask `admits` before a step's output is released, with the noise that this step really has (at secure
aggregation: after the survivors are known, before the unmask frame leaves).  As long as only admitted
steps are released, the whole is (ε, δ)-DP at the filter's ε, however the steps were chosen.

Not protected against: reading the sum spent so far as an ε; a filter's guarantee is its budget, nothing
less; views that change between steps: whom to withstand is fixed before them, as the order is.  Within a run
nobody asks it (a plan's guarantee is PLD at its least number of survivors); several runs on one data set do
(`spending`): what the next one is depends on what the last one released.

Source: Feldman and Zrnic 2021, "Individual Privacy Accounting via a Rényi Filter"; the
conversion to ε: Canonne, Kamath and Steinke 2020, Proposition 12.

>>> RenyiFilter(order=16.0, epsilon=2.0, delta=1e-5).budget > 1.0
True
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from secure_fed_diffusion.dp.accounting import NEGLIGIBLE_LOSS, RENYI_ORDERS, renyi_divergence
from secure_fed_diffusion.dp.mechanism import Mechanism, View
from secure_fed_diffusion.errors import ConfigError, PrivacyError

# T·d·η <= 1e-9 bounds T·d by 1e128, and κ is below 1e-303: with these limits and fewer than 1e9 shares of
# noise, e^ε·T·d·n·κ < 1e-6·δ.
LARGEST_EPSILON, _LEAST_DELTA, _DELTA_OF_INTEGERS = 300.0, 1e-30, 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class RenyiFilter:
    """A budget of Rényi divergence at one order, worth `epsilon` at `delta`."""

    order: float  # of `RENYI_ORDERS`
    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        if self.order not in RENYI_ORDERS:
            raise ConfigError(f"expected one of {RENYI_ORDERS}, got {self.order}", key="order")
        if not (_LEAST_DELTA <= self.delta < 1.0 and 0.0 < self.epsilon <= LARGEST_EPSILON):
            raise ConfigError(
                f"expected {_LEAST_DELTA} <= δ < 1 and 0 < ε <= {LARGEST_EPSILON}, "
                f"got {self.delta}, {self.epsilon}"
            )
        if self.budget <= 0.0:
            raise PrivacyError(f"order {self.order} leaves nothing of ε = {self.epsilon} at δ = {self.delta}")

    @property
    def budget(self) -> float:
        """The divergence that may be spent: ε − log((α−1)/α) + log(δα)/(α−1), less what integers add."""
        order = self.order
        epsilon, delta = self.epsilon - 2.0 * NEGLIGIBLE_LOSS, self.delta * (1.0 - _DELTA_OF_INTEGERS)
        return epsilon - math.log1p(-1.0 / order) + math.log(delta * order) / (order - 1.0)

    def worth(self, divergence: float) -> float:
        """Return the ε at this δ for which `divergence` would be the whole budget of this order."""
        return divergence + self.epsilon - self.budget

    def admits(self, taken: Mapping[Mechanism, int], following: Mechanism, view: View) -> bool:
        """Return whether one step of `following` may be released after the steps `taken`.

        Guarantees: if every release was admitted before it was made, all of them together are
        (`epsilon`, `delta`)-DP in `view`, also where a step's noise depends on earlier outputs.

        Raises:
            PrivacyError: a relation or a grid for which the Rényi divergence has no proof.
        """
        steps = dict(taken)
        steps[following] = steps.get(following, 0) + 1
        return renyi_divergence(steps, order=self.order, view=view) <= self.budget
