"""A5, canary clients: an ESTIMATE of ε with the client as the unit. It is not a bound.

k canary clients send random unit vectors c_j, clipped and noised like any update.  In d dimensions the
cosine of an unrelated vector with the released sum (or the final model's change) follows N(0, 1/d); the
canaries' cosines are fitted by a second Gaussian, and the estimate is the ε at δ between the two.

Not protected against: everything that makes the fit wrong.  No confidence is attached, it may lie above
or below ε, and canaries whose directions the data do not use say nothing of those that it does.

Source: Andrew et al. 2023, "One-shot Empirical Privacy Estimation for Federated Learning" (arXiv
2302.03098), Algorithms 1 and 3; section 4 for the largest cosine over the rounds with an empirical null.

>>> estimate_client_epsilon(np.array([0.9, 1.1, 1.0, 1.2, 0.8]), dimension=10**4, delta=1e-5).epsilon > 50
True
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from secure_fed_diffusion.audit.observations import Floats
from secure_fed_diffusion.errors import ConfigError

_BISECTIONS, _LARGEST = 60, 700.0
_EQUAL = 1e-12  # relative difference of two variances that is none
_MIN_CANARIES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class EpsilonEstimate:
    """What ε looks like; `auditor` says how, nothing says how surely."""

    epsilon: float
    delta: float
    auditor: str
    n_canaries: int
    mean_cosine: float
    stddev_cosine: float


def cosines(canaries: Floats, released: Floats) -> Floats:
    """Return each row's cosine with `released`; (k, d) and (d,) give (k,)."""
    norms = np.linalg.norm(canaries, axis=1) * np.linalg.norm(released)
    found: Floats = canaries @ released / np.where(norms > 0.0, norms, 1.0)
    return found


def estimate_client_epsilon(
    observed: Floats, *, dimension: int, delta: float, unobserved: Floats | None = None
) -> EpsilonEstimate:
    """Estimate ε from the cosines `observed` (k,) of canaries that took part.

    `unobserved` are cosines of canaries that did not, computed alike; without them the null law is
    N(0, 1/dimension), which is that of one release, not of a maximum over several.
    """
    if len(observed) < _MIN_CANARIES or (unobserved is not None and len(unobserved) < _MIN_CANARIES):
        raise ConfigError(f"expected >= {_MIN_CANARIES} canaries", key="cosines")
    if dimension < 1 or not 0.0 < delta < 1.0:
        raise ConfigError(f"expected dimension {dimension} >= 1 and 0 < δ = {delta} < 1", key="cosines")
    null = Normal(0.0, dimension**-0.5) if unobserved is None else _fit(unobserved)
    fitted = _fit(observed)
    return EpsilonEstimate(
        epsilon=normals_epsilon(null, fitted, delta),
        delta=delta,
        auditor="A5 canary clients (an estimate, no bound)",
        n_canaries=len(observed),
        mean_cosine=fitted.mean,
        stddev_cosine=fitted.stddev,
    )


class Normal(NamedTuple):
    """N(mean, stddev²)."""

    mean: float
    stddev: float

    def mass(self, low: float, high: float) -> float:
        """Return the probability of [low, high], with small relative error in either tail."""
        left, right = (low - self.mean) / self.stddev, (high - self.mean) / self.stddev
        return float(ndtr(-left) - ndtr(-right) if left > 0.0 else ndtr(right) - ndtr(left))


def _fit(values: Floats) -> Normal:
    return Normal(float(values.mean()), max(float(values.std(ddof=1)), 1e-12))


def normals_epsilon(one: Normal, two: Normal, delta: float) -> float:
    """Return the least ε at which two normal laws are (ε, δ)-close, both ways; inf beyond 700."""

    def too_far(epsilon: float) -> bool:
        return max(_hockey_stick(one, two, epsilon), _hockey_stick(two, one, epsilon)) > delta

    if not too_far(0.0):
        return 0.0
    if too_far(_LARGEST):
        return math.inf
    low, high = 0.0, _LARGEST
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if too_far(middle) else (low, middle)
    return high


def _hockey_stick(one: Normal, two: Normal, epsilon: float) -> float:
    """Return P(S) − e^ε·Q(S), S where log p/q = a·x² + b·x + c + ε exceeds ε: bounded by up to two roots."""
    a = (two.stddev**-2 - one.stddev**-2) / 2.0
    b = one.mean / one.stddev**2 - two.mean / two.stddev**2
    c = (two.mean / two.stddev) ** 2 / 2.0 - (one.mean / one.stddev) ** 2 / 2.0
    c += math.log(two.stddev / one.stddev) - epsilon
    if abs(a) * one.stddev**2 < _EQUAL:
        if b == 0.0:
            pieces = [(-math.inf, math.inf)] if c > 0.0 else []
        else:
            pieces = [(-c / b, math.inf)] if b > 0.0 else [(-math.inf, -c / b)]
    elif b**2 <= 4.0 * a * c:
        pieces = [(-math.inf, math.inf)] if a > 0.0 else []
    else:
        spread = math.sqrt(b**2 - 4.0 * a * c)
        low, high = sorted(((-b - spread) / (2.0 * a), (-b + spread) / (2.0 * a)))
        pieces = [(-math.inf, low), (high, math.inf)] if a > 0.0 else [(low, high)]
    return sum(one.mass(*piece) - math.exp(epsilon) * two.mass(*piece) for piece in pieces)
