"""Memorisation: do generated samples lie closer to training images than to images never trained on?

For each sample: the distance to its nearest training image and to its nearest held-out image, out of sets
of EQUAL size.  A model that only learned the distribution is as often closer to the one as to the other: a
share of 0.5.  A copy also stands out by itself: its nearest training image is much nearer than the second
nearest (the relative distance of Carlini et al. 2023, arXiv 2301.13188, with ONE neighbour as its yardstick
where they average fifty); the same ratio against held-out images says how often that happens by chance.

Whether a sample counts as closer to the training set is decided by ONE image, its nearest of both sets, so
samples that share it are no independent trials: the interval is at their effective number.  It covers the
choice of the two sets and of the samples, for one trained model.

These figures read PRIVATE images and no noise is added: they are outside ε.  No image is named here: which
sample lies near which record would show the record.  Near-duplicates within the data (one patient, one
writer) are copies that this cannot tell from memorisation if they lie in one set only.

>>> train, held_out = np.array([[0.0], [8.0]]), np.array([[4.0], [20.0]])
>>> memorization(np.array([[0.5], [8.0], [4.1]]), train, held_out)["share_closer_to_train"].__round__(2)
0.67
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

from secure_fed_diffusion.errors import DataError
from secure_fed_diffusion.evaluation.intervals import Interval, clopper_pearson, effective_size

Vectors = npt.NDArray[np.float64]

COPY_RATIO = 0.5
"""A sample less than this fraction as far from its nearest image as from the second nearest is a copy."""

_QUANTILES = (0.05, 0.5)
_CHUNK = 512


def nearest_two(samples: Vectors, references: Vectors) -> tuple[Vectors, npt.NDArray[np.intp]]:
    """Return the two smallest distances (s, 2), ascending, and the nearest reference (s,).

    Args:
        samples: (s, d).
        references: (r, d), r >= 2.
    """
    if not len(samples) or len(references) < 2:
        raise DataError(f"expected samples and >= 2 references, got {len(samples)} and {len(references)}")
    distances, nearest = [], []
    for start in range(0, len(samples), _CHUNK):
        block = cdist(samples[start : start + _CHUNK], references)
        nearest.append(block.argmin(axis=1))
        distances.append(np.sort(np.partition(block, 1, axis=1)[:, :2], axis=1))
    return np.concatenate(distances), np.concatenate(nearest)


def memorization(samples: Vectors, train: Vectors, held_out: Vectors) -> dict[str, Any]:
    """Return the share of samples closer to `train`, the distances and the ratios, with 95 % intervals.

    Args:
        samples: (s, d), generated.
        train: (r, d), private: images that the model was trained on.
        held_out: (r, d), of the same distribution, never trained on.

    Raises:
        DataError: the two reference sets differ in size, so 0.5 would mean nothing.
    """
    if len(train) != len(held_out):
        raise DataError(f"expected equal sets, got {len(train)} training and {len(held_out)} held-out images")
    to_train, nearest_train = nearest_two(samples, train)
    to_held_out, nearest_held_out = nearest_two(samples, held_out)
    closer = np.where(
        to_train[:, 0] == to_held_out[:, 0], 0.5, (to_train[:, 0] < to_held_out[:, 0]).astype(float)
    )
    deciding = np.where(closer > 0, nearest_train, len(train) + nearest_held_out)
    return {
        "samples": len(samples),
        "references": len(train),
        "share_closer_to_train": float(closer.mean()),
        "share_interval": _interval(closer, deciding),
        "nearest": {
            "train": _neighbours(to_train, nearest_train),
            "held_out": _neighbours(to_held_out, nearest_held_out),
        },
    }


def _neighbours(distances: Vectors, nearest: npt.NDArray[np.intp]) -> dict[str, Any]:
    """Return quantiles of the nearest distance and of its ratio to the second, and the share of copies."""
    # two references at the same spot as the sample: nothing singles one of them out
    ratios = np.divide(
        distances[:, 0], distances[:, 1], out=np.ones(len(distances)), where=distances[:, 1] > 0
    )
    copies = (ratios < COPY_RATIO).astype(float)
    low, middle = np.quantile(distances[:, 0], _QUANTILES)
    low_ratio, middle_ratio = np.quantile(ratios, _QUANTILES)
    return {
        "distance_5_percent": float(low),
        "distance_median": float(middle),
        "ratio_5_percent": float(low_ratio),
        "ratio_median": float(middle_ratio),
        "copies": float(copies.mean()),
        "copies_interval": _interval(copies, nearest),
    }


def _interval(outcomes: Vectors, clusters: npt.NDArray[np.intp]) -> Interval:
    trials = effective_size(np.unique(clusters, return_counts=True)[1])
    return clopper_pearson(float(outcomes.mean()) * trials, trials)
