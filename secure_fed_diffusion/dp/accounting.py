"""What it cost: ε of the steps that were taken, as one view sees them.

Two accountants, both of dp_accounting: "pld" (privacy loss distributions, rounded pessimistically; the
add and the remove direction are composed apart and the larger one counts) and "rdp" (Rényi, an upper
bound by another road).  GDP is refused: it under-reports.

An integer mechanism is accounted as post-processing of the continuous subsampled Gaussian.  What that
leaves out is computed and carried: a pointwise log-ratio η per coordinate (`discretisation_loss`) and the
total variation κ of each draw of noise:

    δ(ε) <= e^{Tdη}·δ_cont(ε − 2Tdη) + (1 + e^ε)·T·d·n·κ

Not claimed: amplification by choosing clients, by shuffling, or by hiding checkpoints; adversaries who
break the masks (ε is against computationally bounded ones).

Source: Doroshenko et al. 2022 (connect the dots); Mironov, Talwar and Zhang 2019 (RDP of the sampled
Gaussian); docs/privacy.md for the integers.

>>> epsilon({}, delta=1e-5, view=View(name="released_model"))
0.0
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Literal, get_args

import dp_accounting
import numpy as np
import numpy.typing as npt
from absl import logging as absl_logging
from dp_accounting.pld import privacy_loss_distribution
from dp_accounting.rdp import rdp_privacy_accountant

from secure_fed_diffusion.dp.mechanism import INNER_STDDEV, Mechanism, View
from secure_fed_diffusion.dp.noise import log_convolution_loss, log_lattice_loss, sampling_distance
from secure_fed_diffusion.errors import ConfigError, PrivacyError

Accountant = Literal["pld", "rdp"]

MIN_SHARE_STDDEV = 8.0
"""Narrowest discrete Gaussian, in grid units, that an integer mechanism may use."""

_MIN_DELTA, _MIN_MULTIPLIER = 1e-10, 0.02  # beyond: the transform's rounding, a loss of thousands per step
_NEGLIGIBLE = 1e-9  # largest T·d·η with which an integer mechanism is accounted at all
_POINTS_PER_STDDEV, _COARSEST_INTERVAL, _MOST_POINTS = 50, 4e-3, 400_000
_SLACKS = (1e-9, 1e-6, 1e-3, 0.1, 0.5)  # shares of δ that may be set aside for κ; the first that suffices

_Steps = tuple[tuple[float, float, int], ...]  # (noise multiplier, sampling rate, count), sorted


def _is_not_library_chatter(record: logging.LogRecord) -> bool:
    """Tell apart dp_accounting's warnings: it drops RDP orders that do not converge, which is sound."""
    return "dp_accounting" not in record.pathname


absl_logging.get_absl_logger().addFilter(_is_not_library_chatter)


def epsilon(
    counts: Mapping[Mechanism, int], *, delta: float, view: View, accountant: Accountant = "pld"
) -> float:
    """Return ε at `delta` of `counts` steps of each mechanism, composed, as `view` sees them.

    Guarantees: an upper bound at each mechanism's least number of survivors; `math.inf` where nothing
    protects, 0.0 where nothing was released.

    Raises:
        PrivacyError: the accountant is refused, the units differ, or the grid is too coarse for the noise.
    """
    _check(accountant, delta)
    taken = {mechanism: count for mechanism, count in counts.items() if count}
    if any(count < 0 for count in taken.values()):
        raise ConfigError("expected counts >= 0", key="counts")
    if len({(mechanism.unit, mechanism.relation) for mechanism in taken}) > 1:
        raise PrivacyError("mechanisms of different units or relations have no common ε")
    steps: dict[tuple[float, float], int] = {}
    loss = draws = 0.0
    for mechanism, count in taken.items():
        multiplier = mechanism.noise_multiplier(view)
        if multiplier < _MIN_MULTIPLIER:
            return math.inf
        pair = (multiplier, mechanism.sampling_rate)
        steps[pair] = steps.get(pair, 0) + count
        loss += count * discretisation_loss(mechanism, view)
        draws += count * _draw_distance(mechanism, view)
    if not steps:
        return 0.0
    if loss > _NEGLIGIBLE:
        raise PrivacyError(f"the grid is too coarse for the noise: T·d·η = {loss:.3g}, at most {_NEGLIGIBLE}")
    cost = _pld_epsilon if accountant == "pld" else _rdp_epsilon
    profile = tuple(sorted((multiplier, rate, count) for (multiplier, rate), count in steps.items()))
    return _with_corrections(lambda part: cost(profile, part), delta, loss, draws)


def _check(accountant: str, delta: float) -> None:
    if accountant not in get_args(Accountant):
        if accountant == "gdp":
            raise PrivacyError("the GDP accountant is refused: it under-reports (3.72 where PLD says 6.71)")
        known = ", ".join(get_args(Accountant))
        raise ConfigError(f"expected one of {known}, got {accountant!r}", key="accountant")
    if not _MIN_DELTA <= delta < 1.0:
        raise ConfigError(f"expected {_MIN_DELTA} <= δ < 1, got {delta}", key="delta")


def _with_corrections(cost: Callable[[float], float], delta: float, loss: float, draws: float) -> float:
    """Return the least ε with e^loss·δ_cont(ε − 2·loss) + (1 + e^ε)·draws <= delta, from above."""
    if draws == 0.0:
        return cost(delta * math.exp(-loss)) + 2.0 * loss
    for slack in _SLACKS:
        candidate = cost(delta * (1.0 - slack) * math.exp(-loss)) + 2.0 * loss
        if candidate < 700.0 and (1.0 + math.exp(candidate)) * draws <= slack * delta:
            return candidate
    return math.inf


def discretisation_loss(mechanism: Mechanism, view: View) -> float:
    """Return d·η of one step: its pointwise log-ratio to post-processing of the continuous Gaussian.

    η adds up, per coordinate: lemma (a), the sum of the shares against one discrete Gaussian; lemma (b),
    that one against rounding a continuous one; the shares' own sampler. Zero for a float mechanism.

    Raises:
        PrivacyError: a share's stddev is below `MIN_SHARE_STDDEV` grid units.
    """
    shares = mechanism.noise_shares(view)
    if not mechanism.integer or shares == 0:
        return 0.0
    stddev = mechanism.draw_stddev
    if stddev < MIN_SHARE_STDDEV:
        raise PrivacyError(f"expected a draw's stddev >= {MIN_SHARE_STDDEV} grid units, got {stddev:.4g}")
    logs = [log_lattice_loss(stddev**2 * k / (k + 1)) for k in range(1, shares)]
    logs.append(log_lattice_loss(INNER_STDDEV**2))
    logs.append(log_convolution_loss(stddev) + math.log(shares))
    # The term of lemma (b) alone is 1e-136, far above the smallest float: the sum cannot vanish.
    return math.exp(_log_sum(logs) + math.log(mechanism.dimension))


def _log_sum(logs: list[float]) -> float:
    top = max(logs)
    return top + math.log(math.fsum(math.exp(value - top) for value in logs))


def _draw_distance(mechanism: Mechanism, view: View) -> float:
    """Return d·n·κ of one step: what the sampler's finite precision adds."""
    if not mechanism.integer:
        return 0.0
    return mechanism.dimension * mechanism.noise_shares(view) * sampling_distance(mechanism.draw_stddev)


@lru_cache(maxsize=65536)
def _pld_epsilon(steps: _Steps, delta: float) -> float:
    interval = _interval(steps)
    composed: Any = None
    for multiplier, rate, count in steps:
        part = _one_step(multiplier, rate, interval).self_compose(count)
        composed = part if composed is None else composed.compose(part)
    return float(composed.get_epsilon_for_delta(delta))


@lru_cache(maxsize=64)
def _one_step(multiplier: float, rate: float, interval: float) -> Any:
    return privacy_loss_distribution.from_gaussian_mechanism(
        standard_deviation=multiplier,
        sampling_prob=rate,
        value_discretization_interval=interval,
        pessimistic_estimate=True,
    )


def _interval(steps: _Steps) -> float:
    """Return the spacing of the privacy losses: a fiftieth of the narrowest step's standard deviation.

    Connecting the dots widens a step's variance by less than interval²/6, so ε by about 1e-4 of itself.
    """
    interval, reach, mean, variance = _COARSEST_INTERVAL, 0.0, 0.0, 0.0
    for multiplier, rate, count in steps:
        chi_square = rate**2 * math.expm1(min(multiplier**-2, 50.0))
        stddev = min(1.0 / multiplier, math.sqrt(chi_square))
        interval = min(interval, stddev / _POINTS_PER_STDDEV)
        exponent = 10.0 / multiplier + 0.5 * multiplier**-2  # the loss ten standard deviations out
        reach = max(reach, math.log1p(rate * math.expm1(exponent)) if exponent < 700.0 else exponent)
        mean += count * min(0.5 * multiplier**-2, chi_square)
        variance += count * stddev**2
    while max(reach, mean + 16.0 * math.sqrt(variance)) / interval > _MOST_POINTS:
        interval *= 2.0
    return interval


@lru_cache(maxsize=65536)
def _rdp_epsilon(steps: _Steps, delta: float) -> float:
    orders = rdp_privacy_accountant.DEFAULT_RDP_ORDERS
    total = np.zeros(len(orders))
    for multiplier, rate, count in steps:
        total += count * _rdp_curve(multiplier, rate)
    value, _ = rdp_privacy_accountant.compute_epsilon(orders, total, delta)
    return float(value)


@lru_cache(maxsize=256)
def _rdp_curve(multiplier: float, rate: float) -> npt.NDArray[np.float64]:
    """Return one step's Rényi divergences at the default orders, infinite where they did not converge."""
    accountant = rdp_privacy_accountant.RdpAccountant()
    gaussian = dp_accounting.GaussianDpEvent(multiplier)
    accountant.compose(gaussian if rate == 1.0 else dp_accounting.PoissonSampledDpEvent(rate, gaussian))
    curve = np.asarray(accountant._rdp, dtype=np.float64)
    # A rounding error below zero would make the library report ε = 0.
    return np.where(curve > 0.0, curve, np.inf)
