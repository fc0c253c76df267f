"""Opacus' DP-SGD with per-example gradients of the whole model and noise on the integer grid.

`IntegerDPOptimizer` is Opacus' `DPOptimizer` (its queue of skipped steps, its step hook, its reduction)
with two parts replaced: clipping ends on the integer grid, and the noise is discrete Gaussian from the
operating system's CSPRNG.  Opacus' own noise is float and seeded: its support leaks, and `secure_mode`
needs a package that is no longer maintained.

Formal guarantees: one `step()` is the mechanism of `docs/privacy.md` with sensitivity `grid.norm_bound`
and noise `noise_stddev`, both in grid units; unit: one example; relation: add/remove; for whoever sees
the resulting weights.  The caller samples by Poisson and charges the ledger.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from opacus.optimizers import DPOptimizer
from torch import Tensor, nn

from secure_fed_diffusion.dp.grid import IntegerGrid
from secure_fed_diffusion.dp.noise import discrete_gaussian
from secure_fed_diffusion.entropy import Entropy, system
from secure_fed_diffusion.training.integer_sums import integer_sum


class IntegerDPOptimizer(DPOptimizer):
    """A `DPOptimizer` whose sum of clipped gradients and noise are integers times 1 / `grid.scale`."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        *,
        grid: IntegerGrid,
        noise_stddev: float,
        divisor: int,
        entropy: Entropy = system,
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=noise_stddev / grid.norm_bound,
            max_grad_norm=grid.clip_norm,
            expected_batch_size=divisor,
        )
        self._grid = grid
        self._noise_stddev = noise_stddev
        self._entropy = entropy

    def clip_and_accumulate(self) -> None:
        """Round each record's whole gradient to the grid and add it to the integer sums."""
        chunk = {str(i): g for i, g in enumerate(self.grad_samples)}
        added = integer_sum([chunk], self._grid, sum(p.numel() for p in self.params))
        for p, part in zip(self.params, self._split(torch.from_numpy(added).double()), strict=True):
            on_device = part.to(p.device)
            p.summed_grad = on_device if p.summed_grad is None else p.summed_grad + on_device

    def add_noise(self) -> None:
        """Add discrete Gaussian noise to the integer sums and leave them, as floats, in `p.grad`."""
        length = sum(p.numel() for p in self.params)
        noise = torch.zeros(length, dtype=torch.float64)
        if self._noise_stddev:
            noise += torch.from_numpy(discrete_gaussian(self._noise_stddev, length, self._entropy))
        for p, part in zip(self.params, self._split(noise), strict=True):
            noisy = p.summed_grad + part.to(p.device)
            p.grad = (noisy / self._grid.scale).to(p.dtype)

    def _split(self, flat: Tensor) -> list[Tensor]:
        pieces = flat.split([p.numel() for p in self.params])
        return [piece.view_as(p) for piece, p in zip(pieces, self.params, strict=True)]


def private_step(
    model: nn.Module, optimizer: IntegerDPOptimizer, chunks: Iterable[Mapping[str, Tensor]]
) -> None:
    """Take one DP-SGD step from micro-batches of per-example gradients; an empty sample means noise alone."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    nothing = {name: p.new_empty((0, *p.shape)) for name, p in parameters.items()}
    for gradients in chunks:
        _hand_over(parameters, optimizer, gradients, skip=True)
    _hand_over(parameters, optimizer, nothing, skip=False)


def _hand_over(
    parameters: Mapping[str, nn.Parameter],
    optimizer: IntegerDPOptimizer,
    gradients: Mapping[str, Tensor],
    *,
    skip: bool,
) -> None:
    """Let Opacus' optimiser take one micro-batch, and step behind it unless it is to `skip` that."""
    for name, p in parameters.items():
        p.grad_sample = gradients[name]
    optimizer.signal_skip_step(skip)
    optimizer.step()
    optimizer.zero_grad()
