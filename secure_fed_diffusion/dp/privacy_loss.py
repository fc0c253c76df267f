"""Privacy loss distributions of composed steps, rounded pessimistically: ε at a δ, and δ at every ε.

A step is the one-dimensional pair that dominates it (docs/privacy.md, section 4), with C = 1 and τ its
noise multiplier:

    add or remove one, zero-out   N(0, τ²)  and  (1−q)·N(0, τ²) + q·N(C, τ²), in both directions
    replace one                   (1−q)·N(0, τ²) + q·N(C, τ²)  and  (1−q)·N(0, τ²) + q·N(−C, τ²)

Not protected against: steps that are not what their multiplier and rate say.  The Fourier transform that
composes rounds in both directions, and its rounding grows with the steps: δ came out up to 4e-12 too small
at 1e5 of them and 9e-11 at 1e6 (250 settings against the closed form of the plain Gaussian).
`transform_allowance`, more than twice that, is in every δ and ε here; that it always suffices is measured
and not proven.

Source: Doroshenko et al. 2022 (connect the dots); Zhu, Dong and Wang 2022 (dominating pairs).

>>> [round(float(value), 5) for value in delta_curve(1.0, 0.1, 100, [1.0, 7.05])]
[0.20754, 1e-05]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from dp_accounting import NeighboringRelation
from dp_accounting.pld import privacy_loss_distribution

from secure_fed_diffusion.errors import ConfigError

Steps = tuple[tuple[float, float, int], ...]  # (noise multiplier, sampling rate, count), sorted

MIN_MULTIPLIER = 0.02
"""Least noise that is accounted; below, one step loses thousands and ε is reported as infinite."""

_POINTS_PER_STDDEV, _COARSEST_INTERVAL, _MOST_POINTS = 50, 4e-3, 400_000


def delta_curve(
    multiplier: float,
    sampling_rate: float,
    steps: int,
    epsilons: Sequence[float] | npt.NDArray[np.float64],
    *,
    replace: bool = False,
) -> npt.NDArray[np.float64]:
    """Return δ at each of `epsilons`, in any order, of `steps` continuous subsampled Gaussian steps.

    `multiplier` is relative to the L2 bound C of one contribution; `replace` takes the pair of the
    relation replace-one instead of add/remove-one.

    Guarantees: not below the δ of the dominating pair of docs/privacy.md, `transform_allowance` added;
    1.0 where `multiplier` is below `MIN_MULTIPLIER`, 0.0 for no steps.

    Raises:
        ConfigError: a rate outside (0, 1], a negative count, or an ε that is no number.
    """
    wanted = np.asarray(epsilons, dtype=np.float64).reshape(-1)
    if not (0.0 < sampling_rate <= 1.0 and math.isfinite(multiplier) and multiplier >= 0.0):
        raise ConfigError(f"expected 0 < rate <= 1 and a multiplier >= 0, got {sampling_rate}, {multiplier}")
    if steps < 0 or np.isnan(wanted).any():
        raise ConfigError("expected a count >= 0 and ε that are numbers", key="delta_curve")
    if steps == 0:
        return np.maximum(0.0, -np.expm1(np.minimum(wanted, 0.0)))
    if multiplier < MIN_MULTIPLIER:
        return np.ones(len(wanted))
    return deltas(((float(multiplier), float(sampling_rate), int(steps)),), wanted, replace)


def deltas(steps: Steps, epsilons: npt.NDArray[np.float64], replace: bool) -> npt.NDArray[np.float64]:
    """Return δ of the composed `steps` at each of `epsilons`, the transform's allowance added."""
    order = np.argsort(epsilons, kind="stable")
    found = np.empty(len(epsilons))
    found[order] = _composed(steps, replace).get_delta_for_epsilon(epsilons[order])
    return np.minimum(np.maximum(found, 0.0) + transform_allowance(steps), 1.0)


@lru_cache(maxsize=65536)
def epsilon_at(steps: Steps, delta: float, replace: bool) -> float:
    """Return ε of the composed `steps` at `delta`; infinite where the transform's allowance is all of it."""
    left = delta - transform_allowance(steps)
    return float(_composed(steps, replace).get_epsilon_for_delta(left)) if left > 0.0 else math.inf


def transform_allowance(steps: Steps) -> float:
    """Return what rounding may take off a δ of the composed `steps`: 1e-12, and 2^-52 for each step.

    The transform of n equal steps is an n-th power, whose relative error is that of its base times n.
    """
    return 1e-12 + 2.0**-52 * sum(count for _, _, count in steps)


@lru_cache(maxsize=4)
def _composed(steps: Steps, replace: bool) -> Any:
    interval = grid_interval(steps, replace)
    composed: Any = None
    for multiplier, rate, count in steps:
        part = one_step(multiplier, rate, interval, replace).self_compose(count)
        composed = part if composed is None else composed.compose(part)
    return composed


@lru_cache(maxsize=64)
def one_step(multiplier: float, rate: float, interval: float, replace: bool) -> Any:
    """Return the distribution of one step's privacy loss, on multiples of `interval`."""
    return privacy_loss_distribution.from_gaussian_mechanism(
        standard_deviation=multiplier,
        sampling_prob=rate,
        value_discretization_interval=interval,
        pessimistic_estimate=True,
        neighboring_relation=(
            NeighboringRelation.REPLACE_ONE if replace else NeighboringRelation.ADD_OR_REMOVE_ONE
        ),
    )


def grid_interval(steps: Steps, replace: bool) -> float:
    """Return the spacing of the privacy losses: a fiftieth of the narrowest step's standard deviation.

    Connecting the dots widens a step's variance by less than interval²/6, so ε by about 1e-4 of itself.
    """
    interval, reach, mean, variance = _COARSEST_INTERVAL, 0.0, 0.0, 0.0
    distance = 2.0 if replace else 1.0  # replacing moves the loss about twice as far as adding
    for multiplier, rate, count in steps:
        chi_square = rate**2 * math.expm1(min(multiplier**-2, 50.0))
        stddev = distance * min(1.0 / multiplier, math.sqrt(chi_square))
        interval = min(interval, stddev / _POINTS_PER_STDDEV)
        exponent = 10.0 / multiplier + 0.5 * multiplier**-2  # the loss ten standard deviations out
        loss = math.log1p(rate * math.expm1(exponent)) if exponent < 700.0 else exponent
        if replace:
            absent = -math.log1p(-rate) if rate < 1.0 else math.inf
            loss += min(absent, exponent + multiplier**-2)
        reach = max(reach, loss)
        mean += count * distance**2 * min(0.5 * multiplier**-2, chi_square)
        variance += count * stddev**2
    while max(reach, mean + 16.0 * math.sqrt(variance)) / interval > _MOST_POINTS:
        interval *= 2.0
    return interval
