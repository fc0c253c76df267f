"""A second way to δ and ε of the replace-one pair: quadrature, rounding to nearest, one FFT; no pessimism."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy import optimize

Floats = npt.NDArray[np.float64]


def pair(multiplier: float, rate: float) -> tuple[Callable[[Floats], Floats], Callable[[Floats], Floats]]:
    """Return the densities of (1−q)·N(0, τ²) + q·N(1, τ²) and of its mirror image."""

    def density(x: Floats, place: float) -> Floats:
        peak = multiplier * math.sqrt(2 * math.pi)
        absent, present = (np.exp(-((x - at) ** 2) / (2 * multiplier**2)) / peak for at in (0.0, place))
        return np.asarray((1 - rate) * absent + rate * present)

    return lambda x: density(x, 1.0), lambda x: density(x, -1.0)


def one_step_delta(multiplier: float, rate: float, epsilon: float) -> float:
    """Return δ of one replace-one step by the trapezium rule on the pair's densities."""
    x = np.linspace(-1 - 14 * multiplier, 1 + 14 * multiplier, 1_000_001)
    upper, lower = (density(x) for density in pair(multiplier, rate))
    return float(np.trapezoid(np.maximum(upper - math.exp(epsilon) * lower, 0.0), x))


def composed(multiplier: float, rate: float, steps: int) -> Callable[[float], float]:
    """Return δ as a function of ε, of `steps` replace-one steps."""
    x = np.linspace(-1 - 12 * multiplier, 1 + 12 * multiplier, 200_001)
    upper, lower = (density(x) for density in pair(multiplier, rate))
    masses = upper / upper.sum()
    losses = np.log(upper / lower)
    mean, stddev = float(masses @ losses), math.sqrt(float(masses @ losses**2))
    reach = max(float(np.abs(losses).max()), steps * mean + 14 * math.sqrt(steps) * stddev)
    half = 1 << 19
    unit = 1.1 * reach / half
    # a loss between two multiples of the unit is shared between them: the mean is kept
    low = np.floor(losses / unit).astype(np.int64)
    share = losses / unit - low
    histogram = np.bincount(low % (2 * half), weights=masses * (1 - share), minlength=2 * half)
    histogram += np.bincount((low + 1) % (2 * half), weights=masses * share, minlength=2 * half)
    total = np.maximum(np.fft.irfft(np.fft.rfft(histogram) ** steps), 0.0)
    sums = np.fft.fftfreq(2 * half, 1.0 / (2 * half)) * unit

    def delta(epsilon: float) -> float:
        above = sums > epsilon
        return float((total[above] * -np.expm1(epsilon - sums[above])).sum())

    return delta


def composed_epsilon(multiplier: float, rate: float, steps: int, delta: float) -> float:
    """Return ε at `delta` of `steps` replace-one steps."""
    curve = composed(multiplier, rate, steps)
    if curve(0.0) <= delta:
        return 0.0
    high = 1.0
    while curve(high) > delta:
        high *= 2.0
    return float(optimize.brentq(lambda epsilon: curve(epsilon) - delta, 0.0, high, xtol=1e-6))
