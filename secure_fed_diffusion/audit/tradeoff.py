"""Trade-off curves: which pairs of error rates a privacy promise allows a test of membership.

(ε, δ)-DP at every point of a curve δ(ε) allows a false-positive rate a and a false-negative rate b only if
b + e^ε·a >= 1 − δ(ε) and a + e^ε·b >= 1 − δ(ε).  `GaussianFamily` indexes Gaussian curves by μ, in closed
form; `NoiseLadder` indexes those of a run's own rounds (its rates, its noise times a common factor) by
that factor, and takes them from `dp`'s accountant.

Not protected against: an accountant that is wrong.  The ladder reads its curves from the same accountant
as the upper bound does; `tests/audit/test_tradeoff.py` holds it against closed forms.

Source: Dong, Roth and Su 2022 (arXiv 1905.02383), Proposition 2.12 and Corollary 2.13; Balle and Wang
2018 (arXiv 1805.06530), Theorem 8; Nasr et al. 2023 (arXiv 2302.07956), section 3.2.

>>> round(gaussian_epsilon(1.0, 1e-5), 2)
4.38
>>> GaussianFamily().rejects(1.0, 0.2, 0.2), GaussianFamily().rejects(1.0, 0.4, 0.4)
(True, False)
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr, ndtr, ndtri

from secure_fed_diffusion import dp
from secure_fed_diffusion.audit.observations import CanaryObservations
from secure_fed_diffusion.errors import ConfigError

Floats = npt.NDArray[np.float64]
Rounds = tuple[tuple[float, float, int], ...]  # (noise multiplier, sampling rate, number of such rounds)

_VIEW = dp.View(name="released_model")  # of a `central` mechanism: it sees through its one draw of noise
_RUNGS, _WIDEST_FACTOR, _FIRST_STRIDE = 1025, 32.0, 32
_MOST_PRIVATE, _LEAST_PRIVATE = 1e-4, 64.0  # μ
_DELTAS = tuple(float(1.0 / (1.0 + math.exp(-logit))) for logit in np.linspace(-7.0, 7.0, 15))


class Family(Protocol):
    """Privacy promises, ordered: a larger `loss` promises less."""

    @property
    def assumption(self) -> str:
        """What must hold for a rejection to say something of the run."""

    def rejects(self, loss: float, false_positive: float, false_negative: float) -> bool:
        """Return whether the promise `loss` rules this pair of error rates out."""

    def false_negative(self, loss: float, false_positive: float) -> float:
        """Return a lower bound of the least false-negative rate that the promise allows."""

    def epsilon(self, loss: float, delta: float) -> float:
        """Return ε of the promise at δ."""

    def largest(self, rejected: Rejects) -> float | None:
        """Return the largest `loss` of this family that is `rejected`, from below; None if none is."""


class Rejects(Protocol):
    """A test of one promise; if it rejects one, it rejects every stronger one."""

    def __call__(self, loss: float) -> bool:
        """Return whether `loss` is rejected."""


@lru_cache(maxsize=1 << 16)
def gaussian_epsilon(mu: float, delta: float) -> float:
    """Return ε at δ of the Gaussian mechanism with sensitivity/stddev = μ; 0.0 for μ <= 0."""
    if mu <= 0.0 or gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while gaussian_delta(mu, high) > delta:
        high *= 2.0
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (middle, high) if gaussian_delta(mu, middle) > delta else (low, middle)
    return low


def gaussian_delta(mu: float, epsilon: float) -> float:
    """Return δ(ε) = Φ(−ε/μ + μ/2) − e^ε·Φ(−ε/μ − μ/2)."""
    return float(ndtr(-epsilon / mu + mu / 2.0) - math.exp(epsilon + log_ndtr(-epsilon / mu - mu / 2.0)))


@dataclass(frozen=True, slots=True)
class GaussianFamily:
    """Every Gaussian trade-off curve; `loss` is μ."""

    assumption: str = "the trade-off curve of the whole run is a Gaussian one, of unknown μ"

    def rejects(self, loss: float, false_positive: float, false_negative: float) -> bool:
        """Return whether b < Φ(Φ⁻¹(1−a) − μ)."""
        return false_negative < self.false_negative(loss, false_positive)

    def false_negative(self, loss: float, false_positive: float) -> float:
        """Return Φ(Φ⁻¹(1−a) − μ)."""
        return float(ndtr(-ndtri(false_positive) - loss))

    def epsilon(self, loss: float, delta: float) -> float:
        """Return ε of the Gaussian mechanism."""
        return gaussian_epsilon(loss, delta)

    def largest(self, rejected: Rejects) -> float | None:
        """Bisect μ."""
        low, high = _MOST_PRIVATE, _LEAST_PRIVATE
        if not rejected(low):
            return None
        for _ in range(30):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if rejected(middle) else (low, middle)
        return low


@dataclass(frozen=True, slots=True)
class NoiseLadder:
    """The runs with these rounds whose noise multipliers are all a common factor times the plan's.

    `loss` is 1/factor.  The rounds are those of one canary, or of several that have equal lists.
    """

    rounds: Rounds
    assumption: str = (
        "each round is a Poisson-sampled Gaussian at the plan's rate, its noise the plan's times one factor"
    )

    @classmethod
    def of(cls, observations: CanaryObservations, canary: int = 0) -> NoiseLadder:
        """Return the ladder of the rounds that one canary could be in: σ/magnitude, and its rate in each."""
        rates = observations.rates[:, canary]
        multipliers = observations.noise_stddevs / observations.magnitudes
        steps = Counter((float(z), float(q)) for z, q in zip(multipliers, rates, strict=True) if q > 0.0)
        if not steps:
            raise ConfigError("the canary could not be in any of these rounds", key="observations.rates")
        return cls(rounds=tuple(sorted((z, q, count) for (z, q), count in steps.items())))

    def rejects(self, loss: float, false_positive: float, false_negative: float) -> bool:
        """Return whether one point of the curve δ(ε) rules the pair out; δ(0), the cheapest, first."""
        if false_positive + false_negative < 1.0 - total_variation(self.rounds, loss):
            return True
        growth, mass = _curve(self.rounds, loss)
        one_way = false_negative + growth * false_positive < mass
        other_way = false_positive + growth * false_negative < mass
        return bool(np.any(one_way | other_way))

    def false_negative(self, loss: float, false_positive: float) -> float:
        """Return max over ε of 1 − δ − e^ε·a and e^−ε·(1 − δ − a), from below."""
        growth, mass = _curve(self.rounds, loss)
        one_way, other_way = mass - growth * false_positive, (mass - false_positive) / growth
        return float(max(0.0, np.max(one_way), np.max(other_way)))

    def epsilon(self, loss: float, delta: float) -> float:
        """Return ε of the rounds at this factor, by `dp`'s PLD accountant."""
        return _epsilon(self.rounds, loss, delta)

    def largest(self, rejected: Rejects) -> float | None:
        """Search a ladder of factors within [1/32, 32], rungs 0.7 % apart, from the plan's outwards."""
        rungs = np.geomspace(1.0 / _WIDEST_FACTOR, _WIDEST_FACTOR, _RUNGS)
        low, high, rung, stride = -1, _RUNGS, _RUNGS // 2, _FIRST_STRIDE  # `low` is rejected, `high` is not
        while high - low > 1:
            low, high = (rung, high) if rejected(float(rungs[rung])) else (low, rung)
            if low >= 0 and high < _RUNGS:
                rung = (low + high) // 2
            else:  # curves with little noise cost the accountant most: approach them by steps
                rung = min(low + stride, _RUNGS - 1) if low >= 0 else max(high - stride, 0)
                stride *= 2
        return float(rungs[low]) if low >= 0 else None


@lru_cache(maxsize=4096)
def _curve(rounds: Rounds, loss: float) -> tuple[Floats, Floats]:
    """Return e^ε and 1 − δ(ε) at some points of the curve, one of them at ε = 0."""
    distance = total_variation(rounds, loss)
    # ε at a δ costs the accountant a tenth of δ at an ε.
    points = [(0.0, distance)]
    points += [(_epsilon(rounds, loss, delta), delta) for delta in _DELTAS if delta < distance]
    finite = [(value, delta) for value, delta in points if value < 700.0]
    return np.exp([value for value, _ in finite]), np.array([1.0 - delta for _, delta in finite])


@lru_cache(maxsize=1 << 16)
def total_variation(rounds: Rounds, loss: float) -> float:
    """Return δ(0) of the rounds at this factor, from above: no test errs less than 1 − δ(0) in all."""
    return dp.delta(_counts(rounds, loss), epsilon=0.0, view=_VIEW)


@lru_cache(maxsize=1 << 16)
def _epsilon(rounds: Rounds, loss: float, delta: float) -> float:
    return dp.epsilon(_counts(rounds, loss), delta=delta, view=_VIEW)


def _counts(rounds: Rounds, loss: float) -> dict[dp.Mechanism, int]:
    return {_round(multiplier / loss, rate): count for multiplier, rate, count in rounds}


def _round(multiplier: float, rate: float) -> dp.Mechanism:
    return dp.Mechanism(
        kind="central",
        unit="example",
        relation="add_remove",
        sampling_rate=rate,
        sensitivity=1.0,
        share_stddev=0.0,
        server_stddev=multiplier,
        min_survivors=1,
        integer=False,
        dimension=1,
    )
