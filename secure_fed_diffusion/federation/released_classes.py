"""What the server knows of the classes: the noisy sums of means and covariances, added up over their draws.

Everything here is post-processing of those sums: class means, which the next release is taken about and
which are the federation's prototypes in pixels (`evaluation.prototypes`); counts, which balance the labels
of a sample; and one Gaussian a class, which images are drawn from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from secure_fed_diffusion.diffusion.class_conditional_pipeline import ClassGaussians
from secure_fed_diffusion.federation.class_covariances import estimate_factors
from secure_fed_diffusion.federation.class_means import estimate_means
from secure_fed_diffusion.federation.label_balance import class_shares, noisy_counts
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.release import Release
from secure_fed_diffusion.federation.settings import StepSettings


class ReleasedClasses:
    """The sums of a run's warm-up so far."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._means: list[npt.NDArray[np.float32]] = []
        self._counts = np.zeros(plan.n_classes)  # noisy, of all class means together
        covariances = plan.releases.get("covariances")
        self._spread = np.zeros(covariances.length if covariances else 0)
        self._spread_variance = 0.0

    def add(self, sums: npt.NDArray[np.float64], release: Release, noise_stddev: float) -> None:
        """Take a noisy sum in the rows' unit, and the standard deviation of the noise in it."""
        if release.name == "covariances":
            self._spread = self._spread + sums  # not in place: a saved state shares its memory
            self._spread_variance += noise_stddev**2
            return
        n_classes, clip_norm = self._plan.n_classes, release.grid.clip_norm
        self._counts = self._counts + noisy_counts(sums, n_classes=n_classes, clip_norm=clip_norm)
        means = estimate_means(
            sums,
            n_classes=n_classes,
            image_shape=self._plan.image_shape,
            clip_norm=clip_norm,
            noise_stddev=noise_stddev,
        )
        self._means.append(means)

    @property
    def means(self) -> npt.NDArray[np.float32]:
        """The released class means, (n_classes, c, h, w), each draw's as good as another's."""
        return np.mean(self._means, axis=0, dtype=np.float32)

    @property
    def shares(self) -> npt.NDArray[np.float32]:
        """What thins each class's sample, (n_classes,), from the counts that were released."""
        recipe = self._plan.recipe
        least = recipe.least_share if isinstance(recipe, StepSettings) else 1.0
        return class_shares(self._counts, least_share=least)

    @property
    def gaussians(self) -> ClassGaussians:
        """One Gaussian a class about its released mean, without spread where no covariances were released."""
        covariances = self._plan.releases.get("covariances")
        factors = np.zeros((self._plan.n_classes, 0, math.prod(self._plan.image_shape)), dtype=np.float32)
        if covariances is not None:
            factors = estimate_factors(
                self._spread,
                n_classes=self._plan.n_classes,
                image_shape=self._plan.image_shape,
                frequencies=self._plan.warmup.covariances.frequencies,
                clip_norm=covariances.grid.clip_norm,
                noise_stddev=math.sqrt(self._spread_variance),
            )
        return ClassGaussians(torch.from_numpy(self.means), torch.from_numpy(factors))

    def state_dict(self) -> dict[str, Any]:
        """Return the sums: nothing in it that was not released."""
        return {
            "means": [torch.from_numpy(mean) for mean in self._means],
            "counts": torch.from_numpy(self._counts),
            "spread": torch.from_numpy(self._spread),
            "spread_variance": self._spread_variance,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from saved sums."""
        self._means = [mean.numpy() for mean in state["means"]]
        self._counts = state["counts"].numpy()
        self._spread = state["spread"].numpy()
        self._spread_variance = state["spread_variance"]
