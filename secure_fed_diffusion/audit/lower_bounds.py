"""Lower bounds on ε that hold with stated confidence: what an attacker can be shown to learn.

    A1  likelihood_ratio_bound   error rates of the likelihood-ratio test, against the canaries' own rounds
    A2  gaussian_bound           the same error rates, against Gaussian trade-off curves
    A3  one_run_bound            number of right guesses, against any (ε, δ)-DP mechanism
    A4  f_dp_bound               number of right guesses, against a family of trade-off curves
        distribution_free_bound  error rates of any test, against any (ε, δ)-DP mechanism
        known_noise_bound        mean of the included canaries, where the noise is taken as the plan's

Each bound is the ε of the weakest promise that the observations reject, so P(bound > ε) <= 1 − confidence
under `conditional_on`.  Several looks at one run, or the largest of several auditors, need the confidence
divided among them.

Not seen by any of them: privacy lost outside the canaries' coordinates; shuffling instead of Poisson
sampling and noise used twice, which change no single canary's law (A0, `conformance`, sees those).  Whoever
takes `Errors` takes those of canaries alike, that is with equal rates in each round; A1 sees to that itself.

Source: Nasr et al. 2023 (arXiv 2302.07956), section 3.2 (A1, A2); Steinke, Nasr and Jagielski 2023
(2305.08846), Theorem 5.2 and its code (A3); Mahloujifar, Melis and Chaudhuri 2024 (2410.22235),
Algorithm 3 (A4).

>>> seen = Errors(false_positives=154, excluded=500, false_negatives=154, included=500)
>>> round(gaussian_bound(seen, delta=1e-5).epsilon, 2)
3.57
>>> round(distribution_free_bound(seen, delta=1e-5).epsilon, 2)
0.62
>>> round(one_run_bound(Guesses(n_canaries=1000, n_guesses=200, n_correct=180), delta=1e-5).epsilon, 2)
1.8
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import stats
from scipy.special import expit, ndtri

from secure_fed_diffusion.audit.observations import CanaryObservations
from secure_fed_diffusion.audit.participation import ASSUMPTION, Participation
from secure_fed_diffusion.audit.scores import Errors, Guesses, errors, likelihood_ratios
from secure_fed_diffusion.audit.tradeoff import Family, GaussianFamily, gaussian_epsilon
from secure_fed_diffusion.errors import ConfigError

CONFIDENCE = 0.95
_COINS = "the canaries' coins are fair, independent and secret"
_INDEPENDENT = f"{_COINS}; noise and samples are independent over canaries and rounds (A0 tests it)"
_BISECTIONS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class LowerBound:
    """With probability `confidence`, under `conditional_on`, the run's ε at `delta` is at least `epsilon`."""

    epsilon: float
    confidence: float
    delta: float
    auditor: str
    conditional_on: str
    n_canaries: int


def likelihood_ratio_bound(
    observations: CanaryObservations, *, delta: float, confidence: float = CONFIDENCE
) -> LowerBound:
    """A1: reject every factor on the run's noise under which the test could not have erred so rarely.

    Guarantees: P(bound > ε of the client that spent most) <= 1 − confidence, whoever was in which round
    (`participation` has the proof).  Canaries that could be in no round are left out.
    """
    _check(delta, confidence)
    there = observations.rates.any(axis=0)
    seen = errors(likelihood_ratios(observations)[there], observations.included[there])
    lists = Participation.of(observations)
    ladder, _ = lists.ladders[0]
    if len(lists.ladders) == 1:  # one curve and, its rounds being exchangeable, one pair of error rates
        loss = _largest_loss(seen, ladder, confidence)
    else:
        loss = lists.largest(_mean_error(seen, 1.0 - confidence))
    given = f"{_INDEPENDENT}; {ladder.assumption}"
    if np.any(observations.rates != observations.rates[:, :1]):
        given = f"{given}; {ASSUMPTION}"
    return LowerBound(
        epsilon=lists.epsilon(loss, delta) if loss is not None else 0.0,
        confidence=confidence,
        delta=delta,
        auditor="A1 likelihood ratio",
        conditional_on=given,
        n_canaries=seen.n_canaries,
    )


def gaussian_bound(seen: Errors, *, delta: float, confidence: float = CONFIDENCE) -> LowerBound:
    """A2: μ_lo = Φ⁻¹(1−a) − Φ⁻¹(b); a negative one gives 0. For runs in which nobody is left out (q = 1)."""
    _check(delta, confidence)
    mu = max(float(-ndtri(a) - ndtri(b)) for a, b in _error_rates(seen, confidence))
    return LowerBound(
        epsilon=gaussian_epsilon(mu, delta),
        confidence=confidence,
        delta=delta,
        auditor="A2 Gaussian",
        conditional_on=f"{_INDEPENDENT}; {GaussianFamily().assumption}",
        n_canaries=seen.n_canaries,
    )


def error_rate_bound(
    seen: Errors, family: Family, *, delta: float, confidence: float = CONFIDENCE, auditor: str = "A1"
) -> LowerBound:
    """Return A1's bound of any test's errors on canaries alike, against any family of trade-off curves."""
    _check(delta, confidence)
    loss = _largest_loss(seen, family, confidence)
    return LowerBound(
        epsilon=family.epsilon(loss, delta) if loss is not None else 0.0,
        confidence=confidence,
        delta=delta,
        auditor=auditor,
        conditional_on=f"{_INDEPENDENT}; {family.assumption}",
        n_canaries=seen.n_canaries,
    )


def distribution_free_bound(seen: Errors, *, delta: float, confidence: float = CONFIDENCE) -> LowerBound:
    """Return the largest ε with b + e^ε·a < 1 − δ, or with a and b swapped."""
    _check(delta, confidence)
    a, b = _rates_apart(seen, (1.0 - confidence) / 2.0)
    growth = max((1.0 - delta - b) / a, (1.0 - delta - a) / b)
    return LowerBound(
        epsilon=math.log(growth) if growth > 1.0 else 0.0,
        confidence=confidence,
        delta=delta,
        auditor="Clopper-Pearson",
        conditional_on=_INDEPENDENT,
        n_canaries=seen.n_canaries,
    )


def one_run_bound(guesses: Guesses, *, delta: float, confidence: float = CONFIDENCE) -> LowerBound:
    """A3: reject every ε under which so many right guesses have probability below 1 − confidence."""
    _check(delta, confidence)
    return LowerBound(
        epsilon=_one_run_epsilon(guesses, delta, 1.0 - confidence),
        confidence=confidence,
        delta=delta,
        auditor="A3 one run",
        conditional_on=_COINS,
        n_canaries=guesses.n_canaries,
    )


def f_dp_bound(
    guesses: Guesses, family: Family | None = None, *, delta: float, confidence: float = CONFIDENCE
) -> LowerBound:
    """A4: as A3, against a family of trade-off curves; Gaussian ones by default."""
    _check(delta, confidence)
    curves = GaussianFamily() if family is None else family
    tail = 1.0 - confidence
    loss = curves.largest(lambda loss: _too_many_right(guesses, curves, loss, tail))
    return LowerBound(
        epsilon=curves.epsilon(loss, delta) if loss is not None else 0.0,
        confidence=confidence,
        delta=delta,
        auditor="A4 f-DP in one run",
        conditional_on=f"{_COINS}; {curves.assumption}",
        n_canaries=guesses.n_canaries,
    )


def known_noise_bound(
    observations: CanaryObservations, *, delta: float, confidence: float = CONFIDENCE
) -> LowerBound:
    """Bound μ by the mean of the included canaries' sums, whose noise is taken to be the plan's.

    The excluded teach nothing here, so all canaries may be included.

    Raises:
        ConfigError: a rate is neither 0 nor 1: under sampling the sums are no shifted Gaussian.
    """
    _check(delta, confidence)
    if np.any((observations.rates > 0.0) & (observations.rates < 1.0)):
        raise ConfigError("expected rates of 0 or 1 alone", key="observations.rates")
    weights = observations.rates * (observations.magnitudes / observations.noise_stddevs**2)[:, None]
    scale = np.sqrt((weights**2 * observations.noise_stddevs[:, None] ** 2).sum(axis=0))
    present = observations.included & (scale > 0.0)
    mu = -math.inf
    if np.any(present):
        shifts = (weights * observations.sums).sum(axis=0)[present] / scale[present]
        mu = float(shifts.mean() + ndtri(1.0 - confidence) / math.sqrt(len(shifts)))
    return LowerBound(
        epsilon=gaussian_epsilon(mu, delta),
        confidence=confidence,
        delta=delta,
        auditor="known noise",
        conditional_on="the noise is Gaussian, independent and as large as the plan says (A0 tests it)",
        n_canaries=observations.n_canaries,
    )


def _check(delta: float, confidence: float) -> None:
    if not 0.0 < delta < 1.0:
        raise ConfigError(f"expected 0 < δ < 1, got {delta}", key="delta")
    if not 0.5 <= confidence < 1.0:
        raise ConfigError(f"expected 0.5 <= confidence < 1, got {confidence}", key="confidence")


def _error_rates(seen: Errors, confidence: float) -> tuple[tuple[float, float], ...]:
    """Return pairs of rates; with probability `confidence` whatever promise excludes one of them is broken.

    One pair bounds the mean of both rates by all wrong calls together: the coins being fair, a call is
    wrong with probability (α + β)/2, and (1 + e^ε)·(α + β)/2 >= 1 − δ is the sum of the two conditions of
    (ε, δ)-DP.  The other bounds each rate apart, half of the risk for both.  All canaries must be alike:
    where they differ, the excluded ones' α and the included ones' β are no pair of any canary.
    """
    risk = 1.0 - confidence
    wrong = seen.false_positives + seen.false_negatives
    mean = _clopper_pearson(wrong, seen.n_canaries, risk / 2.0)
    return _rates_apart(seen, risk / 4.0), (mean, mean)


def _largest_loss(seen: Errors, family: Family, confidence: float) -> float | None:
    pairs = [(a, b) for a, b in _error_rates(seen, confidence) if a + b < 1.0]
    return family.largest(lambda loss: any(family.rejects(loss, a, b) for a, b in pairs)) if pairs else None


def _mean_error(seen: Errors, risk: float) -> float:
    """Return `participation`'s t(w): the mean error, from above, of calls that err with unequal rates."""
    wrong = seen.false_positives + seen.false_negatives
    return max(_clopper_pearson(wrong, seen.n_canaries, risk), (wrong + 1) / seen.n_canaries)


def _rates_apart(seen: Errors, tail: float) -> tuple[float, float]:
    """Return upper bounds of the false-positive and the false-negative rate, each at `tail`."""
    a = _clopper_pearson(seen.false_positives, seen.excluded, tail)
    return a, _clopper_pearson(seen.false_negatives, seen.included, tail)


@lru_cache(maxsize=1 << 16)
def _clopper_pearson(count: int, total: int, tail: float) -> float:
    """Return the largest rate under which at most `count` of `total` has probability `tail`."""
    return float(stats.beta.isf(tail, count + 1, total - count)) if count < total else 1.0


@lru_cache(maxsize=1 << 14)
def _one_run_epsilon(guesses: Guesses, delta: float, tail: float) -> float:
    low, high = 0.0, 1.0
    if _one_run_p_value(guesses, low, delta) >= tail:
        return 0.0
    while _one_run_p_value(guesses, high, delta) < tail:
        high *= 2.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if _one_run_p_value(guesses, middle, delta) < tail else (low, middle)
    return low


def _one_run_p_value(guesses: Guesses, epsilon: float, delta: float) -> float:
    """Return min(1, β + 2mδ·α): β = P[Q >= v], α = max over i of P[v > Q >= v − i]/i (Theorem 5.2)."""
    m, r, v = guesses.n_canaries, guesses.n_guesses, guesses.n_correct
    right = float(expit(epsilon))
    beta = float(stats.binom.sf(v - 1, r, right))
    if v == 0:
        return 1.0
    below = np.cumsum(stats.binom.pmf(np.arange(v)[::-1], r, right))
    alpha = float(np.max(below / np.arange(1, v + 1)))
    return min(1.0, beta + 2.0 * m * delta * alpha)


def _too_many_right(guesses: Guesses, family: Family, loss: float, tail: float) -> bool:
    """Return whether v right guesses of g have probability below `tail` under the promise `loss`."""
    m, g, v = guesses.n_canaries, guesses.n_guesses, guesses.n_correct
    right, wrong = tail * v / m, tail * (g - v) / m
    for i in range(v - 1, -1, -1):
        more = max(wrong, family.false_negative(loss, 1.0 - right))
        right += i / (g - i) * (more - wrong)
        wrong = more
        if right >= 1.0:
            return True
    return right + wrong > g / m
