"""The sums of per-example gradients on the integer grid, each owner's apart from the others'.

`integer_sums` is the torch form of `dp.grid.IntegerGrid.round`, summed: clip to C, scale, round to nearest,
and where that leaves the integer ball of radius Delta round towards zero.  The norm of each summand is a
fact about integers, so the accountant's sensitivity never rests on floating-point arithmetic.

A record's gradient is read twice, in pieces that stay in the processor's cache, and never joined to one
vector: once for its norm, once to be scaled, rounded, measured and added.

A norm is a float and its last bit decides on which side of a fence a coordinate is rounded, so it must not
depend on how many records there are, or whose they are: squares are added parameter by parameter, one
record's apart from another's, and a micro-batch is measured and rounded whole, or in groups of one number of
rows (`per_example.micro_batches`).  Only the rounded rows, which are integers, are dealt out to their owners.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from secure_fed_diffusion.dp.grid import IntegerGrid
from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.training.vectors import flat_rows, in_model_order

_EXACT_FLOAT32 = 1 << 24  # integers up to here, and sums that stay below, are exact in float32
_BLOCK = 256  # coordinates whose float32 norm is taken at once
_PIECE = 1 << 17  # coordinates of a micro-batch that are worked on at once
_GPU_PIECE = 1 << 27  # where a launch costs more than a cache saves
_MIN_CLIP_NORM = 1e-12  # what vanishes when it is squared in float32 is far below
_SMALL = 1 << 10  # parameters below are joined: a call costs more than their coordinates


def integer_sum(
    chunks: Iterable[Mapping[str, Tensor]], grid: IntegerGrid, length: int
) -> npt.NDArray[np.int64]:
    """Return what `integer_sums` does for one owner of all rows: (length,) int64."""
    return _dealt_out(chunks, [sys.maxsize], grid, length)[0][0]


def integer_sums(
    chunks: Iterable[Mapping[str, Tensor]], sizes: Sequence[int], grid: IntegerGrid, length: int
) -> list[npt.NDArray[np.int64]]:
    """Clip, round and add each owner's per-example gradients: -> (length,) int64 for each of `sizes`, exact.

    A chunk is {parameter: (n, *shape)}; its records with a NaN or an infinity are overwritten with zeros.
    The first `sizes[0]` rows of all chunks, one after the other, are the first owner's, and so on; what is
    behind them all is nobody's.

    Guarantees: each record adds to its owner's sum an integer vector of L2 norm at most `grid.norm_bound`,
    which depends on no other record and on no size; one with a NaN or an infinity (or a norm beyond float32)
    adds zero.

    Raises:
        ConfigError: `norm_bound` is too large for float32 to hold the integers, or `clip_norm` or `gamma` too
            small for it to hold the squares; or there are fewer rows than `sizes` say.
    """
    totals, n = _dealt_out(chunks, sizes, grid, length)
    if n < sum(sizes):
        raise ConfigError(f"expected {sum(sizes)} rows, got {n}", key="sizes")
    return totals


def _dealt_out(
    chunks: Iterable[Mapping[str, Tensor]], sizes: Sequence[int], grid: IntegerGrid, length: int
) -> tuple[list[npt.NDArray[np.int64]], int]:
    """Return the owners' sums, and how many rows there were."""
    if grid.norm_bound > _EXACT_FLOAT32:
        raise ConfigError(f"expected at most {_EXACT_FLOAT32}, got {grid.norm_bound}", key="norm_bound")
    if grid.clip_norm < _MIN_CLIP_NORM:
        raise ConfigError(f"expected at least {_MIN_CLIP_NORM}, got {grid.clip_norm}", key="clip_norm")
    if grid.gamma is not None and grid.gamma < _MIN_CLIP_NORM:  # a row of zeros would be one of NaN
        raise ConfigError(f"expected at least {_MIN_CLIP_NORM}, got {grid.gamma}", key="gamma")
    totals = [torch.zeros(length, dtype=torch.int64) for _ in sizes]
    ends, start = list(accumulate(sizes)), 0
    waiting: dict[int, _Waiting] = {}
    for gradients in chunks:
        values = list(gradients.values())
        layout = _Layout.of(values)
        owned = _owned(ends, start, len(values[0]))
        for owner in waiting.keys() - owned.keys():  # all of its rows are in
            totals[owner] = waiting.pop(owner).added_to(totals[owner])
        sums = rounded_sums(layout.parts(values), grid, list(owned.values()))
        for (owner, rows), added in zip(owned.items(), sums, strict=True):
            more = _Waiting(added, layout, rows.stop - rows.start)
            before = waiting.get(owner)
            if before is not None and before.takes(more, grid):
                continue
            if before is not None:
                totals[owner] = before.added_to(totals[owner])
            waiting[owner] = more
        start += len(values[0])
    for owner, left in waiting.items():
        totals[owner] = left.added_to(totals[owner])
    return [total.cpu().numpy() for total in totals], start


def _owned(ends: Sequence[int], start: int, n: int) -> dict[int, slice]:
    """Return whose the `n` rows from row `start` of all are: slices of them by owner, none of them empty."""
    found: dict[int, slice] = {}
    first, owner = 0, bisect_right(ends, start)
    while first < n and owner < len(ends):
        stop = min(ends[owner] - start, n)
        if stop > first:
            found[owner] = slice(first, stop)
        first, owner = stop, owner + 1
    return found


@dataclass(frozen=True, slots=True)
class _Layout:
    """How the gradients of a micro-batch are joined to parts: the large ones, then all small ones in one."""

    large: list[int]
    small: list[int]
    forms: list[Tensor]  # of each parameter's shape and strides, without memory

    @classmethod
    def of(cls, gradients: Sequence[Tensor]) -> _Layout:
        widths = [gradient.shape[1:].numel() for gradient in gradients]
        return cls(
            [i for i, width in enumerate(widths) if width >= _SMALL],
            [i for i, width in enumerate(widths) if width < _SMALL],
            [torch.empty_strided(g.shape, g.stride(), device="meta") for g in gradients],
        )

    def is_of(self, other: _Layout) -> bool:
        """Say whether the parts of both have their coordinates in the same order."""
        return [g.stride()[1:] for g in self.forms] == [g.stride()[1:] for g in other.forms]

    def parts(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Return the rows, (n, coordinates) for each part."""
        parts = [flat_rows(gradients[i]) for i in self.large]
        if self.small:
            parts.append(torch.cat([flat_rows(gradients[i]) for i in self.small], dim=1))
        return parts

    def in_order(self, sums: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield, for each parameter, its coordinates of the parts' `sums` in the model's order: (numel,)."""
        found = dict(zip(self.large, sums, strict=False))
        if self.small:
            widths = [self.forms[i].shape[1:].numel() for i in self.small]
            found |= zip(self.small, sums[-1].split(widths), strict=True)
        for i, form in enumerate(self.forms):
            yield in_model_order(found[i], form)


@dataclass(slots=True)
class _Waiting:
    """Float sums of integers, by part, of as many records as they hold exactly.

    A group of a few records is so read and written once in float, and not twice in int64.
    """

    sums: list[Tensor]
    layout: _Layout
    n: int

    def takes(self, other: _Waiting, grid: IntegerGrid) -> bool:
        """Add the sums of `other`, unless it lies otherwise in memory or the sums might not be exact."""
        n = self.n + other.n
        if not self.layout.is_of(other.layout) or not _fits_float32(n, grid):
            return False
        for mine, added in zip(self.sums, other.sums, strict=True):
            mine += added
        self.n = n
        return True

    def added_to(self, total: Tensor) -> Tensor:
        """Return `total`, (length,) int64 in the model's order, with these sums added."""
        total = total.to(self.sums[0].device)
        pieces = total.split([form.shape[1:].numel() for form in self.layout.forms])
        for piece, added in zip(pieces, self.layout.in_order(self.sums), strict=True):
            piece += added.to(torch.int64)
        return total


def _fits_float32(n: int, grid: IntegerGrid) -> bool:
    """Say whether float32 holds any sum of `n` rounded rows exactly."""
    return n * grid.norm_bound * 2 <= _EXACT_FLOAT32  # twice: a row may still be a little outside


def record_norms(gradients: Mapping[str, Tensor]) -> Tensor:
    """Return the norms that `integer_sums` clips the records of one micro-batch by: (n,) float64."""
    values = list(gradients.values())
    return row_norms(_Layout.of(values).parts(values))


def rounded_sums(parts: Sequence[Tensor], grid: IntegerGrid, owned: Sequence[slice]) -> list[list[Tensor]]:
    """Clip and round the rows whose coordinates lie in `parts`, float32 (n, m_i); add those of each slice.

    Returns, for each slice of the rows, integer floats (m_i,) for each part.
    """
    norms = row_norms(parts)
    unusable = ~torch.isfinite(norms)
    if bool(unusable.any()):
        for part in parts:
            part[unusable] = 0.0
        norms[unusable] = 0.0
    factors = clip_factors(norms, grid).to(parts[0].dtype).unsqueeze(1)
    n = len(factors)
    kind = torch.float32 if _fits_float32(n, grid) else torch.float64
    room = _PIECE if parts[0].device.type == "cpu" else _GPU_PIECE
    width = max(_BLOCK, room // max(n, 1) // _BLOCK * _BLOCK)
    width = min(width, max(part.shape[1] for part in parts))
    scratch = parts[0].new_empty(n * width)
    sums = [[part.new_empty(part.shape[1], dtype=kind) for part in parts] for _ in owned]
    measured = []
    for i, part in enumerate(parts):
        for start, piece in zip(range(0, part.shape[1], width), part.split(width, dim=1), strict=True):
            rounded = torch.mul(piece, factors, out=scratch[: piece.numel()].view(piece.shape)).round_()
            measured.append(_block_norms(rounded))
            for rows, added in zip(owned, sums, strict=True):
                torch.sum(rounded[rows], dim=0, dtype=kind, out=added[i][start : start + width])
    squares = torch.cat(measured, dim=1).double().square().sum(dim=1)
    for row in _outside(squares, grid.norm_bound):
        change = _correction(parts, factors, row, grid.norm_bound)
        for rows, added in zip(owned, sums, strict=True):
            if rows.start <= row < rows.stop:
                for mine, moved in zip(added, change, strict=True):
                    mine += moved
    return sums


def row_norms(parts: Sequence[Tensor]) -> Tensor:
    """Return the norms of the rows, float64 (n,); only the test on the rounded integers is exact.

    The squares of the parts are added one after the other: a reduction over (parts, n) would add them in
    another order for another n.
    """
    squares = torch.zeros(len(parts[0]), dtype=torch.float64, device=parts[0].device)
    for part in parts:
        squares += torch.linalg.vector_norm(part, dim=1).double().square()
    return squares.sqrt()


def clip_factors(norms: Tensor, grid: IntegerGrid) -> Tensor:
    """Return what each row is multiplied by to end at most at `clip_norm`, in grid units.

    Flat: min(1, C/‖g‖); automatic (AUTO-S, Bu et al. 2023): C/(‖g‖ + gamma), which lengthens short rows.
    Neither is what the sensitivity rests on: `rounded_sums` measures the integers behind it.  A factor that
    is no finite number becomes zero: times a row of zeros it would be NaN, and NaN in a sum is nobody's.
    """
    if grid.gamma is not None:
        factors = grid.scale * grid.clip_norm / (norms + grid.gamma)
    else:
        factors = grid.scale * torch.clamp(grid.clip_norm / norms.clamp_min(1e-30), max=1.0)
    return torch.nan_to_num(factors, nan=0.0, posinf=0.0)


def _block_norms(rows: Tensor) -> Tensor:
    """Return the norms of blocks of the rows, (n, blocks); joined in float64 they are within 2e-5 of true.

    That is above 256 * 2**-24, the relative error of a float32 norm of 256 numbers in any order of summation.
    """
    n, width = rows.shape
    whole = width - width % _BLOCK
    if whole == width:
        return torch.linalg.vector_norm(rows.view(n, whole // _BLOCK, _BLOCK), dim=2)
    tail = torch.linalg.vector_norm(rows[:, whole:], dim=1, keepdim=True)
    return torch.cat([_block_norms(rows[:, :whole].contiguous()), tail], dim=1) if whole else tail


def _outside(squares: Tensor, bound: int) -> list[int]:
    """Return the rows that may have left the ball: all others are below (1 - 1e-4) * bound, as measured."""
    return torch.nonzero(~(squares.sqrt() <= bound * (1 - 1e-4))).flatten().tolist()


def _correction(parts: Sequence[Tensor], factors: Tensor, row: int, bound: int) -> list[Tensor]:
    """Return what to add to the sums so that this row is in the ball: by exact integers, (m_i,)."""
    scaled = [part[row] * factors[row] for part in parts]  # one product each: the same bits as before
    nearest = [each.round() for each in scaled]
    if _is_inside(nearest, bound):
        return [torch.zeros_like(each) for each in nearest]
    shorter = [each.trunc() for each in scaled]
    if not _is_inside(shorter, bound):
        return [-each for each in nearest]
    return [new - old for new, old in zip(shorter, nearest, strict=True)]


def _is_inside(row: Sequence[Tensor], bound: int) -> bool:
    """Say, by exact integers, whether an integer-valued row has a norm of at most `bound`; NaN is outside."""
    if not all(bool((part.abs() <= bound).all()) for part in row):  # so that no square overflows
        return False
    return sum(int(part.to(torch.int64).square().sum()) for part in row) <= bound**2
