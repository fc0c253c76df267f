"""Models as flat vectors, in the order of their parameters; and per-example gradients as rows.

A row holds a parameter's coordinates in the order of memory, which need not be the model's: a sum of rows is
brought to the model's order once, where each row would have to be copied.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from secure_fed_diffusion.errors import ConfigError


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
