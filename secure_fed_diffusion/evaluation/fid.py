"""The Fréchet distance between two sets of images, in the features of a domain extractor.

    FID = ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁ Σ₂)^½)        Heusel et al. 2017, arXiv 1706.08500, eq. 6

computed by torchmetrics, in float64.  It falls with the number of samples (Chong, Forsyth 2020,
arXiv 1911.07023), so compare equal numbers only; with no more samples than features a covariance is
singular and the figure meaningless, hence refused.  It sees two moments: a model that memorised its
training images scores well.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.evaluation.features import Extractor, embed


class _Identity(nn.Module):
    """Stands in for the extractor where torchmetrics is handed ready features."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features

    def forward(self, features: Tensor) -> Tensor:
        return features


def frechet_inception_distance(
    extractor: Extractor, real: npt.NDArray[np.uint8], fake: npt.NDArray[np.uint8]
) -> float:
    """Return the FID between two sets of uint8 images (n, c, h, w).

    Raises:
        ConfigError: one of the sets has no more images than the extractor has features.
    """
    for kind, images in (("real", real), ("fake", fake)):
        _require_enough(len(images), extractor.num_features, kind)
    return frechet_distance(embed(extractor, real), embed(extractor, fake))


def frechet_distance(real: npt.NDArray[np.float64], fake: npt.NDArray[np.float64]) -> float:
    """Return the Fréchet distance between two sets of features (n, d); refuses n <= d."""
    for kind, features in (("real", real), ("fake", fake)):
        _require_enough(len(features), features.shape[1], kind)
    metric = FrechetInceptionDistance(feature=_Identity(real.shape[1])).set_dtype(torch.float64)
    metric.update(torch.tensor(real), real=True)
    metric.update(torch.tensor(fake), real=False)
    return max(0.0, float(metric.compute()))  # rounding can leave −1e-12 between equal sets


def _require_enough(n_samples: int, num_features: int, kind: str) -> None:
    if n_samples <= num_features:
        raise ConfigError(
            f"FID in {num_features} features needs more than {num_features} {kind} images, got {n_samples}",
            key="evaluation.samples" if kind == "fake" else None,
        )
