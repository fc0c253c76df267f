"""Noisy class means and covariances and nothing else: images drawn from one Gaussian a class.

The whole budget buys two uses of the Gaussian mechanism on all records, at one noise multiplier: class means,
then covariances about them (`federation.class_means`, `federation.class_covariances`, which a run's warm-up
uses at a part of the budget).  No network is trained.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from experiments.tradeoff.baselines.class_means import means_of, sum_of_means
from experiments.tradeoff.baselines.release import Plan
from secure_fed_diffusion.data.datasets import ImageSet
from secure_fed_diffusion.diffusion.class_conditional_pipeline import ClassGaussians
from secure_fed_diffusion.entropy import Entropy, system
from secure_fed_diffusion.federation.class_covariances import (
    covariance_length,
    covariance_sum,
    estimate_factors,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Clip norms of the two releases, and how many frequencies along each axis vary."""

    clip_norm: float
    covariance_clip_norm: float
    frequencies: int


def synthesize(
    private: ImageSet,
    labels: npt.NDArray[np.int64],
    *,
    n_classes: int,
    epsilon: float,
    delta: float,
    seed: int,
    recipe: Recipe,
    entropy: Entropy = system,
) -> tuple[ImageSet, Plan]:
    """Return an image for each of `labels`, and what the two releases cost together."""
    colours, height, width = private.images.shape[1:]
    shape = (colours, height, width)
    length = covariance_length(shape, n_classes=n_classes, frequencies=recipe.frequencies)
    first, second = Plan.together(
        [
            (n_classes * (colours * height * width + 1), recipe.clip_norm),
            (length, recipe.covariance_clip_norm),
        ],
        epsilon=epsilon,
        delta=delta,
    )
    means = means_of(
        first.release(sum_of_means(private, first, n_classes), entropy),
        first,
        n_classes=n_classes,
        shape=shape,
    )
    total = covariance_sum(private, means, recipe.frequencies, second.grid)
    factors = estimate_factors(
        second.release(total, entropy),
        n_classes=n_classes,
        image_shape=shape,
        frequencies=recipe.frequencies,
        clip_norm=recipe.covariance_clip_norm,
        noise_stddev=second.noise_stddev / second.grid.scale,
    )
    classes = ClassGaussians(torch.from_numpy(means), torch.from_numpy(factors))
    drawn = classes.draw(torch.from_numpy(labels), torch.Generator().manual_seed(seed))
    return ImageSet((drawn * 255).round().byte().numpy(), labels), second
