"""From what an auditor saw to decisions about the coins: a likelihood ratio per canary, errors, guesses.

Under a plan that holds, canary j's coordinate in round r is noise plus its magnitude k with probability q,
so with s the released sum and σ the noise's standard deviation

    log ratio_j = Σ_r log((1−q) + q·exp((k·s − k²/2)/σ²)).

A run whose noise is too small would never exceed 0 under that formula, however much it leaks.  So the score
is the ratio of two mixtures over factors on σ, the plan's own with nearly all the weight: `NOISE_FACTORS`.
The factors, the threshold 0 and the number of guesses are fixed before anything is seen; a score may be
poor (a broken run), the bounds that use it stay right.

Not used here: `counts`.  An adversary does not know when a canary was sampled.

Source: Nasr et al. 2023 (arXiv 2302.07956), section 4; Steinke, Nasr and Jagielski 2023 (2305.08846), 5.

>>> guess(np.array([3.0, -2.0, 0.1, -0.1]), np.array([True, True, True, False]), n_guesses=2)
Guesses(n_canaries=4, n_guesses=2, n_correct=1)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion.audit.observations import CanaryObservations, Floats
from secure_fed_diffusion.errors import ConfigError

NOISE_FACTORS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)
"""On the plan's σ, in the mixtures."""

_OTHERS_WEIGHT = 1e-3  # of each factor but the first

THRESHOLD = 0.0
"""A canary is called included above it: the likelihoods' balance point, fixed beforehand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """How often the threshold was wrong, of how many."""

    false_positives: int
    excluded: int  # canaries that a false positive was possible for
    false_negatives: int
    included: int

    @property
    def n_canaries(self) -> int:
        """m."""
        return self.excluded + self.included


@dataclass(frozen=True, slots=True, kw_only=True)
class Guesses:
    """How many coins were guessed, the others abstained from, and how many of the guesses are right."""

    n_canaries: int
    n_guesses: int
    n_correct: int

    def __post_init__(self) -> None:
        if not 0 <= self.n_correct <= self.n_guesses <= self.n_canaries or self.n_canaries < 1:
            raise ConfigError("expected 0 <= correct <= guesses <= canaries", key="guesses")


def likelihood_ratios(observations: CanaryObservations) -> Floats:
    """Return each canary's score (m,), in nats."""
    k = observations.magnitudes[:, None].astype(np.float64)
    weights = np.full(len(NOISE_FACTORS), _OTHERS_WEIGHT)
    weights[0] = 1.0 - weights[1:].sum()
    with np.errstate(divide="ignore"):  # log 0 = −inf is the value meant, at rates 0 and 1
        absent, present = np.log1p(-observations.rates), np.log(observations.rates)
    excluded = included = np.full(observations.n_canaries, -np.inf)
    for factor, weight in zip(NOISE_FACTORS, weights, strict=True):
        stddev = factor * observations.noise_stddevs[:, None]
        noise = -((observations.sums / stddev) ** 2) / 2.0 - np.log(stddev)
        shift = (k * observations.sums - k * k / 2.0) / stddev**2
        mixed = noise + np.logaddexp(absent, present + shift)
        excluded = np.logaddexp(excluded, np.log(weight) + noise.sum(axis=0))
        included = np.logaddexp(included, np.log(weight) + mixed.sum(axis=0))
    scores: Floats = included - excluded
    return scores


def errors(scores: Floats, included: npt.NDArray[np.bool_]) -> Errors:
    """Call every canary above `THRESHOLD` included, and count what is wrong."""
    called = scores > THRESHOLD
    return Errors(
        false_positives=int(np.count_nonzero(called & ~included)),
        excluded=int(np.count_nonzero(~included)),
        false_negatives=int(np.count_nonzero(~called & included)),
        included=int(np.count_nonzero(included)),
    )


def guess(scores: Floats, included: npt.NDArray[np.bool_], *, n_guesses: int) -> Guesses:
    """Guess "included" for the highest scores, "not" for the lowest, half each; abstain from the others.

    Guarantees: `n_guesses` is all that is fixed, and it must be fixed before the scores are seen.
    """
    if not 1 <= n_guesses <= len(scores):
        raise ConfigError(f"expected 1 <= {n_guesses} <= {len(scores)} canaries", key="n_guesses")
    order = np.argsort(scores, kind="stable")
    n_out = n_guesses // 2
    n_in = n_guesses - n_out
    correct = np.count_nonzero(~included[order[:n_out]]) + np.count_nonzero(included[order[-n_in:]])
    return Guesses(n_canaries=len(scores), n_guesses=n_guesses, n_correct=int(correct))


def n_guesses_one_run(n_canaries: int) -> int:
    """Return how many guesses suit A3: 0.56·m^¾, near its best on the Gaussian mechanism, m = 200 to 1000."""
    return max(1, min(n_canaries, round(0.56 * math.pow(n_canaries, 0.75))))


def n_guesses_f_dp(n_canaries: int) -> int:
    """Return how many guesses suit A4: 4.5·√m, near its best on the Gaussian mechanism, m = 200 to 1000."""
    return min(n_canaries, round(4.5 * math.sqrt(n_canaries)))
