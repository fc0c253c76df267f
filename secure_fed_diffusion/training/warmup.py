"""Ordinary training on what was released of the classes: a start for the first private step, free of cost.

Class means, and class covariances where there are any, are post-processing of charged releases.  Drawing
images about the means and moving, turning and scaling them a little teaches the network strokes instead of
ten fixed images (DP-FETA's frequency-to-image warm-up uses the same trick).  How far they are moved, whether
they are bent (Simard et al. 2003) and re-inked besides, and how the learning rate falls are switches of the
same post-processing: none of them is charged.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample, interpolate, pixel_unshuffle

from secure_fed_diffusion.diffusion.class_conditional_pipeline import ClassGaussians
from secure_fed_diffusion.diffusion.objective import Objective, hide_labels

Augmentation = Literal["none", "affine", "elastic"]

MAX_TURN = 0.35  # radians
MAX_SHIFT = 0.15  # of the image's half width
MAX_SCALE = 0.2
MAX_BEND = 0.15  # of the image's half width, at each of BEND_POINTS x BEND_POINTS points
MAX_INK = 0.7  # a pixel p becomes p^e, log e within this
BEND_POINTS = 5


def augmented(
    means: Tensor, generator: torch.Generator, kind: Augmentation = "affine", strength: float = 1.0
) -> Tensor:
    """Turn, scale, shear and shift each of `means` (n, c, h, w) in [0, 1] by its own random amount.

    "elastic" also bends each smoothly and makes its greys darker or lighter; "none" returns them as they are.
    """
    if kind == "none":
        return means
    n = len(means)

    def uniform(bound: float, *shape: int) -> Tensor:
        return (2 * torch.rand((n, *shape), generator=generator) - 1) * bound * strength

    angle, shear, scale = uniform(MAX_TURN), uniform(MAX_TURN), 1 + uniform(MAX_SCALE)
    theta = torch.stack(
        [
            torch.stack([scale * angle.cos(), -angle.sin() + shear, uniform(MAX_SHIFT)], dim=1),
            torch.stack([angle.sin(), scale * angle.cos(), uniform(MAX_SHIFT)], dim=1),
        ],
        dim=1,
    )
    grid = affine_grid(theta, list(means.shape), align_corners=False)
    if kind == "affine":
        return grid_sample(means, grid, align_corners=False)
    bends = uniform(MAX_BEND, 2, BEND_POINTS, BEND_POINTS)
    smooth = interpolate(bends, size=means.shape[-2:], mode="bicubic", align_corners=True)
    moved = grid_sample(means, grid + smooth.permute(0, 2, 3, 1), align_corners=False)
    return moved.clamp(0.0, 1.0) ** uniform(MAX_INK).exp().view(-1, 1, 1, 1)


def train_on_classes(
    model: nn.Module,
    objective: Objective,
    classes: ClassGaussians,
    *,
    patch: int,
    steps: int,
    batch: int,
    learning_rate: float,
    seed: int,
    augmentation: Augmentation = "affine",
    strength: float = 1.0,
    decay: bool = False,
) -> None:
    """Train `model` in place on augmented draws from `classes`.

    With `decay` the learning rate falls to zero along a half cosine.
    """
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    for step in range(steps):
        if decay:
            optimizer.param_groups[0]["lr"] = learning_rate * (1 + math.cos(math.pi * step / steps)) / 2
        labels = torch.randint(len(classes.means), (batch,), generator=generator)
        moved = augmented(classes.draw(labels, generator), generator, augmentation, strength)
        x0 = pixel_unshuffle(moved * 2 - 1, patch)
        t = torch.randint(objective.settings.trained_timesteps, (batch, 1), generator=generator)
        eps = torch.randn((batch, 1, *x0.shape[1:]), generator=generator)
        t = hide_labels(objective.settings, t, generator)
        loss = objective.loss_batch(model, *(part.to(device) for part in (x0, labels, t, eps)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
