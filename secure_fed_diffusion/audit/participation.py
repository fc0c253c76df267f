"""A1 where clients missed rounds: canaries whose lists of rounds differ, each with a curve of its own.

What is bounded is the ε of the client that spent most, and no client spends more than its own rounds cost.
A list that nobody has (all rounds, where each client was in a quarter of them) allows more than any client's
does, and to reject it says too much.  So each canary j keeps its own list, with its own total variation
TV_j(L) where all noise is 1/L times the plan's, and L is rejected from w wrong calls of m canaries if

    mean over j of (1 − TV_j(L))/2  >  t(w) = max(u(w), (w + 1)/m),

u(w) being the Clopper-Pearson bound of a mean error.  The bound is max_j ε_j(L) at the largest rejected L.

Guarantees: let the coins be fair and independent, the lists no function of what the sums showed, and each
round a Poisson-sampled Gaussian at the plan's rate, its noise 1/L₀ times the plan's and independent over
canaries and rounds.  Then P(bound > max_j ε_j(L₀)) <= 1 − confidence, whatever the lists are.  Proof:

1. A score is made of its own canary's sums alone, so the calls are wrong independently, each with some
   probability e_j.  Its coin is fair, so e_j = (α_j + β_j)/2 >= (1 − TV_j(L₀))/2, whatever the score is.
2. More noise is post-processing, so TV_j and ε_j grow with L.  If some L >= L₀ is rejected, the mean e of the
   e_j is at least the mean of (1 − TV_j(L))/2, so e > t(w): w is at most w₀, the largest with t(w₀) < e.
3. w₀ <= m·e − 1, so by Hoeffding's theorem P(w <= w₀) is at most what it is for m calls that are each
   wrong with probability e; and that is below 1 − confidence because e > u(w₀).
4. Otherwise each rejected L is below L₀, and max_j ε_j(L) <= max_j ε_j(L₀).

An upper bound may take the place of a TV_j, and a lower one that of max_j ε_j(L): where there are more
different lists than `MOST_CURVES`, so many curves dominate them all, and the strongest so many give ε.

Not covered: participation that depends on what the sums showed.  Not seen: which canaries were called wrong,
so a client whose canaries alone were left without noise hides among the others.

Source: Hoeffding 1956, On the distribution of the number of successes in independent trials, Theorem 4.

>>> full, half = NoiseLadder(rounds=((1.0, 0.1, 8),)), NoiseLadder(rounds=((1.0, 0.1, 4),))
>>> there = Participation(((half, 30), (full, 10)))
>>> there.n_canaries, there.epsilon(1.0, 1e-5) == full.epsilon(1.0, 1e-5)
(40, True)
>>> envelope([((1.0, 0.1, 2),), ((0.5, 0.1, 1), (2.0, 0.2, 1))]).rounds
((0.5, 0.1, 1), (1.0, 0.1, 1), (2.0, 0.2, 1))
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from secure_fed_diffusion.audit.observations import CanaryObservations
from secure_fed_diffusion.audit.tradeoff import NoiseLadder, Rounds, total_variation
from secure_fed_diffusion.errors import ConfigError

ASSUMPTION = "who took part does not depend on what the sums showed"
"""What must hold beside the ladder's own assumption where canaries were in different rounds."""

MOST_CURVES = 4
"""Curves that are computed at one factor; each takes the accountant a tenth of a second or more."""


@dataclass(frozen=True, slots=True)
class Participation:
    """The different lists of rounds, each with the number of canaries that have it, the weakest first."""

    ladders: tuple[tuple[NoiseLadder, int], ...]

    @classmethod
    def of(cls, observations: CanaryObservations) -> Participation:
        """Return the lists of all canaries that could be in some round; the others show nothing.

        Raises:
            ConfigError: no canary could be in any of these rounds.
        """
        _, first, sizes = np.unique(observations.rates, axis=1, return_index=True, return_counts=True)
        found: Counter[NoiseLadder] = Counter()
        for canary, size in zip(first.tolist(), sizes.tolist(), strict=True):
            if observations.rates[
                :, canary
            ].any():  # two lists of equal rounds, at other times, have one curve
                found[NoiseLadder.of(observations, canary)] += size
        if not found:
            raise ConfigError("no canary could be in any of these rounds", key="observations.rates")
        return cls(tuple(sorted(found.items(), key=lambda item: _strength(item[0].rounds))))

    @property
    def n_canaries(self) -> int:
        """Return the number of canaries that could be in some round."""
        return sum(size for _, size in self.ladders)

    def curves(self) -> tuple[tuple[NoiseLadder, int], ...]:
        """Return at most `MOST_CURVES` ladders, each with the number of canaries whose own it dominates.

        Each dominates those before it too, so that at any factor the least errors decrease.
        """
        parts = np.array_split(np.arange(len(self.ladders)), min(MOST_CURVES, len(self.ladders)))
        found: list[tuple[NoiseLadder, int]] = []
        for part in parts:
            members = [self.ladders[index] for index in part]
            before = [ladder.rounds for ladder, _ in found[-1:]]
            dominating = envelope([*before, *(ladder.rounds for ladder, _ in members)])
            found.append((dominating, sum(size for _, size in members)))
        return tuple(found)

    def largest(self, error: float) -> float | None:
        """Return the largest factor under which calls err more than `error` in the mean; None if none is.

        Guarantees: from below, that is of a ladder's rungs one that is rejected.
        """
        curves = self.curves()

        def least(index: int, loss: float) -> float:
            return (1.0 - total_variation(curves[index][0].rounds, loss)) / 2.0

        def rejected(loss: float) -> bool:
            if least(-1, loss) > error or least(0, loss) <= error:  # all err more than that, or none does
                return least(-1, loss) > error
            total = sum(size * least(index, loss) for index, (_, size) in enumerate(curves))
            return total > error * self.n_canaries

        return curves[-1][0].largest(rejected)

    def epsilon(self, loss: float, delta: float) -> float:
        """Return ε of the canary that spent most, among those of the `MOST_CURVES` strongest lists."""
        return max(ladder.epsilon(loss, delta) for ladder, _ in self.ladders[-MOST_CURVES:])


def envelope(lists: Sequence[Rounds]) -> NoiseLadder:
    """Return rounds that cost at least what each of these lists costs, at every factor.

    At each rate its k-th least noise is the least k-th one of any list: less noise and a further round can
    only tell more.
    """
    least: dict[float, list[float]] = {}
    for rounds in lists:
        by_rate: dict[float, list[float]] = {}
        for multiplier, rate, count in sorted(rounds):
            by_rate.setdefault(rate, []).extend([multiplier] * count)
        for rate, multipliers in by_rate.items():
            both = zip_longest(least.get(rate, ()), multipliers, fillvalue=math.inf)
            least[rate] = [min(pair) for pair in both]
    steps = Counter((multiplier, rate) for rate, found in least.items() for multiplier in found)
    return NoiseLadder(rounds=tuple(sorted((z, q, count) for (z, q), count in steps.items())))


def _strength(rounds: Rounds) -> float:
    """Return the rounds' Rényi divergence of order 2, by which like lists are put side by side."""
    gains = [1.0 / multiplier**2 for multiplier, _, _ in rounds]
    logs = [gain + math.log(-math.expm1(-gain)) for gain in gains]  # of e^(1/z²) − 1, which may overflow
    terms = zip(logs, rounds, strict=True)
    return sum(count * float(np.logaddexp(0.0, 2.0 * math.log(q) + log)) for log, (_, q, count) in terms)
