"""Models as flat vectors, and per-example gradients on the integer grid.

`round_rows` is the torch form of `dp.grid.IntegerGrid.round`: clip to C, scale, round to nearest, and
where that leaves the integer ball of radius Delta round towards zero.  The norm of what it returns is a
fact about integers, so the accountant's sensitivity never rests on floating-point arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from secure_fed_diffusion.dp.grid import IntegerGrid

_EXACT_FLOAT32 = 1 << 24  # integers up to here, and sums that stay below, are exact in float32
_BLOCK = 256


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
        raise ValueError(f"expected {start} weights, got {len(weights)}")


def flat_rows(gradients: Mapping[str, Tensor]) -> Tensor:
    """Join {parameter: (n, *shape)} into rows (n, d)."""
    return torch.cat([g.flatten(1) for g in gradients.values()], dim=1)


def round_rows(rows: Tensor, grid: IntegerGrid) -> Tensor:
    """Round each row of the float32 matrix `rows` (n, d), which is overwritten, to the grid.

    Returns integers as float32, (n, d).

    Guarantees: every row's exact L2 norm is at most `grid.norm_bound`; a row with a NaN or an infinity
    (or a norm beyond float32) becomes zero; a row depends on no other row.

    Raises:
        ValueError: `norm_bound` is too large for float32 to hold the integers.
    """
    if grid.norm_bound > _EXACT_FLOAT32:
        raise ValueError(f"expected a norm bound of at most {_EXACT_FLOAT32}, got {grid.norm_bound}")
    # This norm may be off in its last digits: only the test on the rounded integers carries the guarantee.
    norms = torch.linalg.vector_norm(rows, dim=1).double()
    unusable = ~torch.isfinite(norms)
    if bool(unusable.any()):
        rows[unusable] = 0.0
        norms[unusable] = 0.0
    factors = grid.scale * torch.clamp(grid.clip_norm / norms.clamp_min(1e-30), max=1.0)
    rows.mul_(factors.to(rows.dtype).unsqueeze(1))
    rounded = rows.round()
    outside = _outside(rounded, grid.norm_bound)
    if outside:
        rounded[outside] = rows[outside].trunc()
        still = [row for row in outside if _exact_square(rounded[row]) > grid.norm_bound**2]
        rounded[still] = 0.0
    return rounded


def _exact_square(row: Tensor) -> int:
    """Return the squared norm of an integer-valued row (d,) in exact integers."""
    return int(row.to(torch.int64).square().sum())


def _outside(rows: Tensor, bound: int) -> list[int]:
    """Return the indices of the integer-valued rows whose exact squared norm is above bound**2.

    A float32 norm of 256 numbers is within 256 * 2**-24 < 2e-5 of the truth, relatively, in any order of
    summation; blocks are joined in float64.  So a row measured below (1 - 1e-4) * bound is inside for
    certain, and only the others are measured in exact integers.
    """
    n, d = rows.shape
    whole = d - d % _BLOCK
    blocks = torch.linalg.vector_norm(rows[:, :whole].reshape(n, d // _BLOCK, _BLOCK), dim=2).double()
    tail = torch.linalg.vector_norm(rows[:, whole:].double(), dim=1)
    norms = (blocks.square().sum(dim=1) + tail.square()).sqrt()
    near = torch.nonzero(norms > bound * (1 - 1e-4)).flatten().tolist()
    return [row for row in near if _exact_square(rows[row]) > bound * bound]


def integer_sum(
    chunks: Iterable[Mapping[str, Tensor]], grid: IntegerGrid, length: int
) -> npt.NDArray[np.int64]:
    """Clip, round and add the per-example gradients of all micro-batches: -> (length,) int64, exact.

    Guarantees: adding or removing one record moves the result by an integer vector of L2 norm at most
    `grid.norm_bound`.
    """
    total = torch.zeros(length, dtype=torch.int64)
    for gradients in chunks:
        rows = round_rows(flat_rows(gradients).float(), grid)
        wide = rows if len(rows) * grid.norm_bound <= _EXACT_FLOAT32 else rows.double()
        total += wide.sum(dim=0).to(torch.int64).cpu()
    return total.numpy()
