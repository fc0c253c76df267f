"""Models as flat vectors, and the sum of per-example gradients on the integer grid.

`integer_sum` is the torch form of `dp.grid.IntegerGrid.round`, summed: clip to C, scale, round to nearest,
and where that leaves the integer ball of radius Delta round towards zero.  The norm of each summand is a
fact about integers, so the accountant's sensitivity never rests on floating-point arithmetic.

A record's gradient is read twice, in pieces that stay in the processor's cache, and never joined to one
vector: once for its norm, once to be scaled, rounded, measured and added.

A norm is a float and its last bit decides on which side of a fence a coordinate is rounded, so it must not
depend on how many records there are: squares are added parameter by parameter, one record's apart from
another's, and micro-batches come at one number of rows (`per_example.micro_batches`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from secure_fed_diffusion.dp.grid import IntegerGrid
from secure_fed_diffusion.errors import ConfigError

_EXACT_FLOAT32 = 1 << 24  # integers up to here, and sums that stay below, are exact in float32
_BLOCK = 256  # coordinates whose float32 norm is taken at once
_PIECE = 1 << 17  # coordinates of a micro-batch that are worked on at once
_GPU_PIECE = 1 << 27  # where a launch costs more than a cache saves
_MIN_CLIP_NORM = 1e-12  # what vanishes when it is squared in float32 is far below
_SMALL = 1 << 10  # parameters below are joined: a call costs more than their coordinates


def dimension(model: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def flatten(model: nn.Module) -> Tensor:
    """Copy the trainable parameters into one float32 vector (d,) on the CPU."""
    return torch.cat([p.detach().reshape(-1).float().cpu() for p in model.parameters() if p.requires_grad])


def load_flat(model: nn.Module, weights: Tensor) -> None:
    """Overwrite the trainable parameters from the vector `weights` (d,)."""
    start = 0
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.copy_(weights[start : start + p.numel()].view_as(p))
                start += p.numel()
    if start != len(weights):
        raise ConfigError(f"expected {start} weights, got {len(weights)}", key="weights")


def integer_sum(
    chunks: Iterable[Mapping[str, Tensor]], grid: IntegerGrid, length: int
) -> npt.NDArray[np.int64]:
    """Clip, round and add the per-example gradients of all micro-batches: -> (length,) int64, exact.

    A chunk is {parameter: (n, *shape)}; its records with a NaN or an infinity are overwritten with zeros.

    Guarantees: each record adds an integer vector of L2 norm at most `grid.norm_bound`, which depends on
    no other record; one with a NaN or an infinity (or a norm beyond float32) adds zero.

    Raises:
        ConfigError: `norm_bound` is too large for float32 to hold the integers, or `clip_norm` or `gamma` too
            small for it to hold the squares.
    """
    if grid.norm_bound > _EXACT_FLOAT32:
        raise ConfigError(f"expected at most {_EXACT_FLOAT32}, got {grid.norm_bound}", key="norm_bound")
    if grid.clip_norm < _MIN_CLIP_NORM:
        raise ConfigError(f"expected at least {_MIN_CLIP_NORM}, got {grid.clip_norm}", key="clip_norm")
    if grid.gamma is not None and grid.gamma < _MIN_CLIP_NORM:  # a row of zeros would be one of NaN
        raise ConfigError(f"expected at least {_MIN_CLIP_NORM}, got {grid.gamma}", key="gamma")
    total = torch.zeros(length, dtype=torch.int64)
    waiting: _Waiting | None = None
    for gradients in chunks:
        values = list(gradients.values())
        parts, large, small = _parts(values)
        found = _Waiting(rounded_sums(parts, grid), large, small, [_form(g) for g in values], len(values[0]))
        if waiting is not None and not waiting.takes(found, grid):
            total = waiting.added_to(total)
            waiting = None
        waiting = found if waiting is None else waiting
    return (total if waiting is None else waiting.added_to(total)).cpu().numpy()


@dataclass(slots=True)
class _Waiting:
    """Float sums of integers, in the order of memory, of as many records as they hold exactly.

    A group of a few records is so read and written once in float, and not twice in int64.
    """

    sums: list[Tensor]  # by part
    large: list[int]
    small: list[int]
    layout: list[Tensor]  # `_form` of each parameter
    n: int

    def takes(self, other: _Waiting, grid: IntegerGrid) -> bool:
        """Add the sums of `other`, unless it lies otherwise in memory or the sums might not be exact."""
        n = self.n + other.n
        alike = [g.stride()[1:] for g in self.layout] == [g.stride()[1:] for g in other.layout]
        if not alike or n * grid.norm_bound * 2 > _EXACT_FLOAT32:
            return False
        for mine, added in zip(self.sums, other.sums, strict=True):
            mine += added
        self.n = n
        return True

    def added_to(self, total: Tensor) -> Tensor:
        """Return `total`, (length,) int64 in the model's order, with these sums added."""
        total = total.to(self.sums[0].device)
        pieces = total.split([g.shape[1:].numel() for g in self.layout])
        for piece, added in zip(
            pieces, _in_order(self.sums, self.large, self.small, self.layout), strict=True
        ):
            piece += added.to(torch.int64)
        return total


def _form(gradient: Tensor) -> Tensor:
    """Return a tensor of the same shape and strides that holds no memory."""
    return torch.empty_strided(gradient.shape, gradient.stride(), device="meta")


def _in_order(
    sums: Sequence[Tensor], large: Sequence[int], small: Sequence[int], gradients: Sequence[Tensor]
) -> Iterator[Tensor]:
    """Yield, for each parameter (n, *shape), the sum of its rounded rows in the model's order: (numel,)."""
    found = dict(zip(large, sums, strict=False))
    if small:
        widths = [gradients[i].shape[1:].numel() for i in small]
        found |= zip(small, sums[-1].split(widths), strict=True)
    for i, gradient in enumerate(gradients):
        yield in_model_order(found[i], gradient)


def _parts(gradients: Sequence[Tensor]) -> tuple[list[Tensor], list[int], list[int]]:
    """Return the rows of the large parameters, then of all small ones joined; and which are which."""
    rows = [flat_rows(gradient) for gradient in gradients]
    large = [i for i, each in enumerate(rows) if each.shape[1] >= _SMALL]
    small = [i for i, each in enumerate(rows) if each.shape[1] < _SMALL]
    parts = [rows[i] for i in large]
    if small:
        parts.append(torch.cat([rows[i] for i in small], dim=1))
    return parts, large, small


def record_norms(gradients: Mapping[str, Tensor]) -> Tensor:
    """Return the norms that `integer_sum` clips the records of one micro-batch by: (n,) float64."""
    return row_norms(_parts(list(gradients.values()))[0])


def _axes(gradient: Tensor) -> list[int]:
    """Return the axes of (n, *shape) but the first, from the slowest in memory to the fastest."""
    return sorted(range(1, gradient.dim()), key=gradient.stride, reverse=True)


def flat_rows(gradient: Tensor) -> Tensor:
    """Return (n, *shape) as float32 rows (n, coordinates in the order of memory), if possible uncopied.

    Rows that share one memory (`vmap` gives them to a parameter that takes no part) are told apart first.
    """
    if gradient.stride(0) == 0:
        gradient = gradient.clone()
    return gradient.permute(0, *_axes(gradient)).flatten(1).float()


def in_model_order(sums: Tensor, gradient: Tensor) -> Tensor:
    """Bring a vector in the order of `flat_rows(gradient)` to the order of the model's weights."""
    axes = _axes(gradient)
    if not axes:
        return sums
    back = [axes.index(axis) for axis in range(1, gradient.dim())]
    return sums.view([gradient.shape[axis] for axis in axes]).permute(back).reshape(-1)


def rounded_sums(parts: Sequence[Tensor], grid: IntegerGrid) -> list[Tensor]:
    """Sum the rounded rows whose coordinates lie in `parts`, float32 (n, m_i): -> integer floats (m_i,)."""
    norms = row_norms(parts)
    unusable = ~torch.isfinite(norms)
    if bool(unusable.any()):
        for part in parts:
            part[unusable] = 0.0
        norms[unusable] = 0.0
    factors = clip_factors(norms, grid).to(parts[0].dtype).unsqueeze(1)
    n = len(factors)
    wide = n * grid.norm_bound * 2 > _EXACT_FLOAT32  # twice: a row may still be a little outside
    kind = torch.float64 if wide else torch.float32
    room = _PIECE if parts[0].device.type == "cpu" else _GPU_PIECE
    width = max(_BLOCK, room // max(n, 1) // _BLOCK * _BLOCK)
    width = min(width, max(part.shape[1] for part in parts))
    scratch = parts[0].new_empty(n * width)
    sums = [part.new_empty(part.shape[1], dtype=kind) for part in parts]
    measured = []
    for part, added in zip(parts, sums, strict=True):
        for piece, out in zip(part.split(width, dim=1), added.split(width), strict=True):
            rounded = torch.mul(piece, factors, out=scratch[: piece.numel()].view(piece.shape)).round_()
            measured.append(_block_norms(rounded))
            torch.sum(rounded, dim=0, dtype=kind, out=out)
    squares = torch.cat(measured, dim=1).double().square().sum(dim=1)
    for row in _outside(squares, grid.norm_bound):
        for added, change in zip(sums, _correction(parts, factors, row, grid.norm_bound), strict=True):
            added += change
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
