"""Prototype accuracy: do the synthetic classes lie where the real ones do?

A class's prototype is the mean of its synthetic images' features; a real test image is given to the
class of the nearest prototype (Snell et al. 2017, arXiv 1703.05175, eq. 1–2, Euclidean; as a federated
inference rule Qiao et al., arXiv 2303.12296).  It needs no training, so it is cheap enough for every
evaluation; it sees class means alone, and says nothing about variety within a class.

The class means that a run released to warm its model up are prototypes too, in pixels, paid for already:
`nearest_mean_accuracy` says how far they go by themselves, with no model at all.

>>> import numpy as np
>>> prototypes = class_prototypes(np.array([[0.0], [2.0], [9.0]]), np.array([0, 0, 2]), 3)
>>> nearest_prototype(np.array([[3.0], [6.0]]), prototypes)  # class 1 has no prototype
array([0, 2])
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion.data.datasets import ImageSet
from secure_fed_diffusion.errors import DataError
from secure_fed_diffusion.evaluation.features import Extractor, embed

Floats = npt.NDArray[np.float64]


def class_prototypes(features: Floats, labels: npt.NDArray[np.int64], n_classes: int) -> Floats:
    """Return each class's mean feature (n_classes, d); NaN rows for classes without a record."""
    prototypes = np.full((n_classes, features.shape[1]), np.nan)
    for label in np.unique(labels):
        prototypes[label] = features[labels == label].mean(axis=0)
    return prototypes


def nearest_prototype(features: Floats, prototypes: Floats) -> npt.NDArray[np.int64]:
    """Return the label of the nearest prototype, of those that exist, for each feature row."""
    present = np.flatnonzero(~np.isnan(prototypes).any(axis=1))
    if not len(present):
        raise DataError("no class has a prototype: the synthetic set is empty")
    centres = prototypes[present]
    # ‖f − p‖² without the ‖f‖² that all prototypes share
    distances = (centres**2).sum(axis=1) - 2 * features @ centres.T
    return present[distances.argmin(axis=1)].astype(np.int64)


def nearest_mean_accuracy(means: npt.NDArray[np.float32], real_test: ImageSet) -> float:
    """Return the share of `real_test` whose nearest mean, in pixels, is that of its class, in [0, 1].

    `means`: (n_classes, c, h, w), pixels in [0, 1], a class's row NaN or its mean image.
    """
    pixels = real_test.images.reshape(len(real_test), -1) / 255.0
    predicted = nearest_prototype(pixels, means.reshape(len(means), -1).astype(np.float64))
    return float((predicted == real_test.labels).mean())


def prototype_accuracy(
    extractor: Extractor, synthetic: ImageSet, real_test: ImageSet, n_classes: int
) -> float:
    """Return the share of `real_test` that the prototypes of `synthetic` classify rightly, in [0, 1]."""
    prototypes = class_prototypes(embed(extractor, synthetic.images), synthetic.labels, n_classes)
    predicted = nearest_prototype(embed(extractor, real_test.images), prototypes)
    return float((predicted == real_test.labels).mean())
