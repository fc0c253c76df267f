"""Noisy class means and nothing else: one release of ten images, a nearest mean or a CNN on copies.

The whole budget buys one use of the Gaussian mechanism on all records: per-class sums of pixels and counts,
clipped together (`federation.class_means`, which every run's warm-up uses at a small part of the budget).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from experiments.tradeoff.baselines.release import Plan
from secure_fed_diffusion.data.datasets import ImageSet
from secure_fed_diffusion.entropy import Entropy, system
from secure_fed_diffusion.federation.class_means import estimate_means, prototype_rows
from secure_fed_diffusion.training.warmup import augmented

_ROWS = 500


def release_means(
    private: ImageSet,
    *,
    n_classes: int,
    clip_norm: float,
    epsilon: float,
    delta: float,
    entropy: Entropy = system,
) -> tuple[npt.NDArray[np.float32], Plan]:
    """Return one image a class, (n_classes, c, h, w) in [0, 1], and what it cost."""
    colours, height, width = private.images.shape[1:]
    dimension = n_classes * (colours * height * width + 1)
    plan = Plan.calibrated(dimension=dimension, clip_norm=clip_norm, epsilon=epsilon, delta=delta)
    totals = plan.release(sum_of_means(private, plan, n_classes), entropy)
    return means_of(totals, plan, n_classes=n_classes, shape=(colours, height, width)), plan


def sum_of_means(private: ImageSet, plan: Plan, n_classes: int) -> npt.NDArray[np.int64]:
    """Return the exact sum of the records' rows on the plan's grid."""
    total = np.zeros(plan.dimension, dtype=np.int64)
    for start in range(0, len(private), _ROWS):
        part = private.subset(slice(start, start + _ROWS))
        total += plan.grid.round(prototype_rows(part, n_classes, plan.grid.clip_norm)).sum(axis=0)
    return total


def means_of(
    totals: npt.NDArray[np.float64], plan: Plan, *, n_classes: int, shape: tuple[int, int, int]
) -> npt.NDArray[np.float32]:
    """Return the class means (n_classes, c, h, w) in a noisy sum."""
    return estimate_means(
        totals,
        n_classes=n_classes,
        image_shape=shape,
        clip_norm=plan.grid.clip_norm,
        noise_stddev=plan.noise_stddev / plan.grid.scale,
    )


def moved_copies(means: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], seed: int) -> ImageSet:
    """Return for each label its mean, turned, scaled and shifted by chance, as the warm-up does."""
    generator = torch.Generator().manual_seed(seed)
    images = augmented(torch.from_numpy(means)[torch.from_numpy(labels)], generator)
    return ImageSet((images.clamp(0, 1) * 255).round().byte().numpy(), labels)
