"""From a float vector to integers whose norm is a fact.

A vector is clipped to C, scaled so that C lands just inside Δ, and rounded.  Where rounding to nearest
leaves the integer ball of radius Δ, rounding towards zero is taken; that cannot leave it but by a
floating-point accident, and then zero is taken.  No coins: removing one vector changes no other.

A clip is flat (a vector shorter than C keeps its length) or, with `gamma`, automatic: every vector v becomes
C·v/(‖v‖ + gamma), shorter than C whatever v is.  Which of the two it is moves neither Δ nor the rounding,
and so no sensitivity and no charge: the bound is tested on the integers, after either.

Not protected against: a caller that adds several vectors first and calls that one contribution.

Source: docs/privacy.md, step 1 of the proof; Bu et al. 2023, "Automatic Clipping", AUTO-S, for `gamma`.

>>> grid = IntegerGrid.for_dimension(2, clip_norm=5.0)
>>> grid.norm_bound, grid.round(np.array([[3.0, 4.0], [np.nan, 1.0]])).tolist()
(32, [[19, 25], [0, 0]])
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion.dp.mechanism import MAX_NORM_BOUND
from secure_fed_diffusion.errors import ConfigError

_HEADROOM = 1.0 + 1.0 / 3000.0  # a clipped vector lands at Δ over this: rounding seldom leaves the ball


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerGrid:
    """A grid on which a vector of norm `clip_norm` has an integer norm of at most `norm_bound`."""

    clip_norm: float  # C, in the vectors' own unit
    norm_bound: int  # Δ, in grid units
    gamma: float | None = None  # None: the flat clip; else AUTO-S', in the vectors' own unit

    def __post_init__(self) -> None:
        if not (math.isfinite(self.clip_norm) and self.clip_norm > 0):
            raise ConfigError(f"expected a positive clip norm, got {self.clip_norm}", key="clip_norm")
        if not 1 <= self.norm_bound <= MAX_NORM_BOUND:
            raise ConfigError(f"expected 1 <= Δ <= {MAX_NORM_BOUND}, got {self.norm_bound}", key="norm_bound")
        if self.gamma is not None and not (math.isfinite(self.gamma) and self.gamma > 0):
            raise ConfigError(f"expected a positive gamma, got {self.gamma}", key="clip_gamma")

    @classmethod
    def for_dimension(cls, dimension: int, clip_norm: float, *, gamma: float | None = None) -> IntegerGrid:
        """Return the grid with Δ = 2^⌈log₂(16·√d)⌉: fine enough that rounding turns no typical vector."""
        if dimension < 1:
            raise ConfigError(f"expected at least 1 coordinate, got {dimension}", key="dimension")
        # 2^k >= 16·√d  <=>  4^k >= 256·d, in exact integers
        norm_bound = 1 << ((256 * dimension - 1).bit_length() + 1) // 2
        return cls(clip_norm=clip_norm, norm_bound=norm_bound, gamma=gamma)

    @property
    def scale(self) -> float:
        """Grid units per unit of the float vectors."""
        return self.norm_bound / self.clip_norm / _HEADROOM

    def round(self, vectors: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int64]:
        """Round each row of `vectors` (n, d) to the grid, clipped to `clip_norm`.

        Guarantees: the integer L2 norm of every returned row is at most `norm_bound`, whatever came in;
        a row with a NaN or an infinity becomes zero; a row depends on no other row.
        """
        if vectors.ndim != 2:
            raise ConfigError(f"expected shape (n, d), got {vectors.ndim} axes", key="vectors")
        rounded = np.zeros(vectors.shape, dtype=np.int64)
        for row, out in zip(vectors, rounded, strict=True):
            self._round_row(row.astype(np.float64), out)
        return rounded

    def _round_row(self, row: npt.NDArray[np.float64], out: npt.NDArray[np.int64]) -> None:
        """Write the rounded `row`, which is overwritten, to `out`, which is zero on entry."""
        largest = max(row.max(initial=0.0), -row.min(initial=0.0))
        if not (math.isfinite(largest) and largest > 0):  # NaN spreads to the maximum
            return
        row /= largest  # so that no square overflows or vanishes
        length = math.sqrt(_square(row))
        norm = float(largest) * length
        if self.gamma is None:
            kept = min(1.0, norm / self.clip_norm)
        else:
            kept = norm / (norm + self.gamma) if math.isfinite(norm) else 1.0
        row *= kept * self.norm_bound / _HEADROOM / length
        for rounding in (np.rint, np.trunc):
            candidate = rounding(row)
            # Squares and partial sums are integers below 2^53, so this float64 product is exact.
            if _square(candidate) <= self.norm_bound**2:
                out[:] = candidate
                return

    def to_float(self, total: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.float64]:
        """Return a sum of grid vectors, of any shape, in the float vectors' unit."""
        return total.astype(np.float64) / self.scale


def _square(vector: npt.NDArray[np.float64]) -> float:
    """Return the squared norm, on one thread: BLAS would start all of them for each long row."""
    return float(np.einsum("i,i->", vector, vector))
