"""Ordinary training on released class means: a start for the first private step, free of privacy cost.

The means are post-processing of a charged release; moving, turning and scaling them a little teaches the
network strokes instead of ten fixed images (DP-FETA's frequency-to-image warm-up uses the same trick).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample, pixel_unshuffle

from secure_fed_diffusion.diffusion.objective import Objective

MAX_TURN = 0.35  # radians
MAX_SHIFT = 0.15  # of the image's half width
MAX_SCALE = 0.2


def augmented(means: Tensor, generator: torch.Generator) -> Tensor:
    """Turn, scale, shear and shift each of `means` (n, c, h, w) in [0, 1] by its own random amount."""
    n = len(means)

    def uniform(bound: float) -> Tensor:
        return (2 * torch.rand(n, generator=generator) - 1) * bound

    angle, shear, scale = uniform(MAX_TURN), uniform(MAX_TURN), 1 + uniform(MAX_SCALE)
    theta = torch.stack(
        [
            torch.stack([scale * angle.cos(), -angle.sin() + shear, uniform(MAX_SHIFT)], dim=1),
            torch.stack([angle.sin(), scale * angle.cos(), uniform(MAX_SHIFT)], dim=1),
        ],
        dim=1,
    )
    grid = affine_grid(theta, list(means.shape), align_corners=False)
    return grid_sample(means, grid, align_corners=False)


def train_on_means(
    model: nn.Module,
    objective: Objective,
    means: npt.NDArray[np.float32],
    *,
    patch: int,
    steps: int,
    batch: int,
    learning_rate: float,
    seed: int,
) -> None:
    """Train `model` in place on augmented `means` (classes, c, h, w) in [0, 1]."""
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    images = torch.from_numpy(means)
    for _ in range(steps):
        labels = torch.randint(len(images), (batch,), generator=generator)
        moved = augmented(images[labels], generator)
        x0 = pixel_unshuffle(moved * 2 - 1, patch)
        t = torch.randint(objective.settings.timesteps, (batch, 1), generator=generator)
        eps = torch.randn((batch, 1, *x0.shape[1:]), generator=generator)
        loss = objective.loss_batch(model, *(part.to(device) for part in (x0, labels, t, eps)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
