"""Discrete Gaussian noise and Poisson coins from the operating system's randomness.

A draw compares a uniform 1024-bit number with 1024-bit thresholds of the exact distribution function
(computed in decimal arithmetic).  Sixteen bits decide almost every draw through a guide table, 48 more
almost all of the rest, and a draw that still equals the head of a threshold gets its last 960.  Wide
noise is x₁ + k·x₂ + k²·x₃ of narrow draws, whose distance from the discrete Gaussian is bounded by
`log_convolution_loss` and charged by the accountant, as `log_sampling_distance` is.

Not protected against: timing.  Neither the table look-ups nor the rare further bits are constant-time.

Source: Kairouz et al. 2021 (Poisson summation for sums of discrete Gaussians); docs/privacy.md, step 2.

>>> discrete_gaussian(8.0, 3).shape
(3,)
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion.entropy import KEY_BYTES, Entropy, Keystream, system
from secure_fed_diffusion.errors import ConfigError

MIN_STDDEV = 1.0
MAX_STDDEV = 2.0**40  # the sum of a million such draws still fits 63 bits
_WIDEST_TABLE = 110.0  # beyond, more than 2 % of the draws need their 48 further bits
_SMOOTHNESS = 5.0  # least s₀/√(1+k²): each convolution then costs less than 1e-213 in log-ratio
_CHUNK = 1 << 16  # draws at a time, so that the working arrays stay in the second-level cache
_BITS, _HEAD_BITS, _GUIDE_BITS = 1024, 64, 16  # the accountant multiplies 2^-1024 by e^ε: ε may be large
_TAIL_STDDEVS = 38.6  # the tail beyond weighs less than 2^-1024
_DIGITS = 340  # of the decimal arithmetic: 2^-1024 is 309 digits
_OPEN = -(1 << 15)  # in the guide: these 16 bits do not decide; no value is as low


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """σ² = stddev²·(1 + k² + … + k^(2·(terms−1))), rounded up."""

    stddev: float
    step: int  # k
    terms: int


@lru_cache(maxsize=256)
def _plan(stddev: float) -> _Plan:
    """Return the narrowest table, then the fewest terms, whose convolution has at least `stddev`."""
    if not MIN_STDDEV <= stddev <= MAX_STDDEV:
        raise ConfigError(f"expected {MIN_STDDEV} <= stddev <= {MAX_STDDEV}, got {stddev}", key="stddev")
    if stddev <= _WIDEST_TABLE:
        return _Plan(stddev=stddev, step=0, terms=1)
    terms, step = 2, 1
    while True:
        weight = sum((step + 1) ** (2 * power) for power in range(terms))
        if stddev**2 / weight >= _SMOOTHNESS**2 * (1 + (step + 1) ** 2):
            step += 1
            continue
        weight = sum(step ** (2 * power) for power in range(terms))
        base = stddev / math.sqrt(weight)
        if base <= _WIDEST_TABLE:
            break
        terms, step = terms + 1, 1
    while Fraction(base) ** 2 * weight < Fraction(stddev) ** 2:
        base = math.nextafter(base, math.inf)
    return _Plan(stddev=base, step=step, terms=terms)


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """Thresholds of N_Z(0, stddev²) on −bound … bound, at 1024 bits, and the guide to their first 16."""

    bound: int
    thresholds: tuple[int, ...]  # a draw's value is −bound plus the number of thresholds <= the draw
    heads: npt.NDArray[np.uint64]  # their first 64 bits
    guide: npt.NDArray[np.int16]  # the value by the draw's first 16 bits, or _OPEN


@lru_cache(maxsize=16)
def _table(stddev: float) -> _Table:
    """Build the table in decimal arithmetic."""
    bound = _bound(stddev)
    with localcontext() as context:
        context.prec = _DIGITS
        # w_x = exp(−x²/2σ²) by w_{x+1} = w_x·h_x, h_{x+1} = h_x·g²: errors grow as x² units of 10^-340
        root = (-1 / (2 * Decimal(stddev) ** 2)).exp()
        weights, factor, square = [Decimal(1)], root, root * root
        for _ in range(bound):
            weights.append(weights[-1] * factor)
            factor *= square
        unit = (1 << _BITS) / (2 * sum(weights) - weights[0])
        cumulative, thresholds = Decimal(0), []
        for x in range(-bound, bound):
            cumulative += weights[abs(x)]
            thresholds.append(int(cumulative * unit))
    heads = np.array([threshold >> (_BITS - _HEAD_BITS) for threshold in thresholds], dtype=np.uint64)
    cells = np.arange(1 << _GUIDE_BITS, dtype=np.uint64) << np.uint64(_HEAD_BITS - _GUIDE_BITS)
    first = np.searchsorted(heads, cells, side="left")
    last = np.searchsorted(heads, cells | np.uint64((1 << (_HEAD_BITS - _GUIDE_BITS)) - 1), side="right")
    return _Table(
        bound=bound,
        thresholds=tuple(thresholds),
        heads=heads,
        guide=np.where(first == last, first - bound, _OPEN).astype(np.int16),
    )


def _bound(stddev: float) -> int:
    return math.ceil(_TAIL_STDDEVS * stddev)


def log_sampling_distance(stddev: float) -> float:
    """Return log κ, κ bounding the total variation between one draw and its ideal x₁ + k·x₂ + …

    Each of 2·bound thresholds is off by at most one unit of 2^-1024 for rounding down and, far less, by the
    decimal arithmetic: two units cover both.  The tail beyond the bound is left out; its weights fall
    faster than a geometric series.
    """
    plan = _plan(stddev)
    bound, variance = _bound(plan.stddev), plan.stddev**2
    rounding = math.log(2 * bound + 1) - (_BITS - 1) * math.log(2.0)
    tail = math.log(2.0) - (bound + 1) ** 2 / (2 * variance)
    tail -= math.log(-math.expm1(-(2 * bound + 3) / (2 * variance)))
    return float(np.logaddexp(rounding, tail)) + math.log(plan.terms) + 1e-9


def log_convolution_loss(stddev: float) -> float:
    """Return log η, η bounding the pointwise log-ratio of that ideal to N_Z(0, stddev²); -inf for one term.

    The sum over x₂ of a Gaussian of variance s₀²/(1+k²) depends on its centre by a factor within 1 ± e,
    e = 2·exp(−2π²s₀²/(1+k²)) (Poisson summation), once for every further term.
    """
    plan = _plan(stddev)
    if plan.terms == 1:
        return -math.inf
    return log_lattice_loss(plan.stddev**2 / (1 + plan.step**2)) + math.log(plan.terms - 1)


def log_lattice_loss(variance: float) -> float:
    """Return a bound on log log((1+e)/(1−e)), e = 2·exp(−2π²·variance), that no size underflows."""
    log_e = math.log(2.0) - 2.0 * math.pi**2 * variance
    if log_e > -1.0:
        return math.inf
    # log((1+e)/(1−e)) = 2·artanh(e) <= 2e/(1−e²)
    return math.log(2.0) + log_e - math.log1p(-math.exp(2.0 * log_e)) + 1e-9


def discrete_gaussian(stddev: float, size: int, entropy: Entropy = system) -> npt.NDArray[np.int64]:
    """Draw `size` independent integers from N_Z(0, stddev²).

    `entropy` gives one key; AES-256-CTR stretches it.

    Guarantees: the law of the draws is within `size · exp(log_sampling_distance(stddev))` in total
    variation of one within exp(±size·η) of N_Z(0, stddev²), log η = `log_convolution_loss(stddev)`; the
    variance is never below `stddev²`.
    """
    plan = _plan(stddev)
    table = _table(plan.stddev)
    stream = Keystream(entropy(KEY_BYTES))
    total = np.empty(size, dtype=np.int64)
    desk = _Desk.of(min(size, _CHUNK))
    for start in range(0, size, _CHUNK):
        out = total[start : start + _CHUNK]
        for term in reversed(range(plan.terms)):  # Horner: ((x₃·k) + x₂)·k + x₁
            drawn = _draw(table, stream, desk, out.size)
            if term == plan.terms - 1:
                out[:] = drawn
            else:
                out *= plan.step
                out += drawn
    return total


@dataclass(frozen=True, slots=True, eq=False)
class _Desk:
    """Working arrays of a chunk, kept between chunks."""

    word: npt.NDArray[np.uint16]
    index: npt.NDArray[np.intp]
    value: npt.NDArray[np.int16]

    @classmethod
    def of(cls, size: int) -> _Desk:
        """Return arrays for `size` draws."""
        return cls(
            word=np.empty(size, np.uint16), index=np.empty(size, np.intp), value=np.empty(size, np.int16)
        )


def _draw(table: _Table, stream: Keystream, desk: _Desk, size: int) -> npt.NDArray[np.int16]:
    """Return `size` draws, which the next call overwrites."""
    word, index, value = desk.word[:size], desk.index[:size], desk.value[:size]
    stream.fill(word)
    index[:] = word  # take() converts its indices in pieces, at three times the cost
    np.take(table.guide, index, out=value, mode="clip")
    undecided = np.flatnonzero(value == _OPEN)
    if undecided.size:
        further = np.empty(undecided.size, dtype=np.uint64)
        stream.fill(further)
        shift = np.uint64(_HEAD_BITS - _GUIDE_BITS)
        head = (word[undecided].astype(np.uint64) << shift) | (further >> np.uint64(_GUIDE_BITS))
        rank = np.searchsorted(table.heads, head, side="right")
        for tie in np.flatnonzero(table.heads[np.maximum(rank, 1) - 1] == head):  # one draw in 10^15
            rest = int.from_bytes(stream.read((_BITS - _HEAD_BITS) // 8), "little")
            rank[tie] = bisect_right(table.thresholds, (int(head[tie]) << (_BITS - _HEAD_BITS)) | rest)
        value[undecided] = rank - table.bound
    return value


def poisson_sample(n_records: int, rate: float, entropy: Entropy = system) -> npt.NDArray[np.bool_]:
    """Return which of `n_records` take part, each by its own coin.

    Guarantees: every record's probability is ⌊rate·2⁶⁴⌋/2⁶⁴, never above `rate`; a record's coin is its
    own 64 bits of the stream, so that adding or removing the last record shifts no other coin.
    """
    if not 0.0 < rate <= 1.0:
        raise ConfigError(f"expected 0 < rate <= 1, got {rate}", key="sampling_rate")
    if rate == 1.0:
        return np.ones(n_records, dtype=np.bool_)
    coins = np.empty(n_records, dtype=np.uint64)
    Keystream(entropy(KEY_BYTES)).fill(coins)
    return coins < np.uint64(int(Fraction(rate) * (1 << 64)))
