"""Class means as one more sum: per-class sums of pixels and counts, side by side in one vector.

A record becomes one-hot(label) times its pixels in [0, 1], followed by one-hot(label) times a count
weight; the whole vector is clipped to one norm, so one record moves sums and counts together by at most
that norm.  From the noisy sum `estimate_means` divides sums by counts: post-processing.

This is DP-FETA's warm-up query (see `docs/privacy.md`) with the counts inside the clip, and at the same
time the image-space prototypes of the federation.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion.data.datasets import ImageSet

COUNT_SHARE = 0.25  # the count weighs a quarter of the clip norm
_LEAST_COUNT = 1.0  # records: a class of fewer, by its noisy count, has no mean of its own


def prototype_rows(images: ImageSet, n_classes: int, clip_norm: float) -> npt.NDArray[np.float64]:
    """Return one row a record: (n, n_classes * pixels + n_classes), not yet clipped."""
    n, pixels = len(images), int(np.prod(images.images.shape[1:]))
    rows = np.zeros((n, n_classes, pixels))
    counts = np.zeros((n, n_classes))
    index = np.arange(n)
    rows[index, images.labels] = images.images.reshape(n, pixels) / 255.0
    counts[index, images.labels] = COUNT_SHARE * clip_norm
    return np.concatenate([rows.reshape(n, n_classes * pixels), counts], axis=1)


def estimate_means(
    totals: npt.NDArray[np.float64],
    *,
    n_classes: int,
    image_shape: tuple[int, int, int],
    clip_norm: float,
    noise_stddev: float,
) -> npt.NDArray[np.float32]:
    """Turn the noisy sum, in the rows' unit, into one image a class: (n_classes, c, h, w) in [0, 1].

    `noise_stddev`: of the noise in `totals`, in the same unit.  Pixels of a mean below one of its own
    standard deviations become zero; a class whose noisy count is below one record becomes the mean of
    the others.
    """
    pixels = int(np.prod(image_shape))
    sums = totals[: n_classes * pixels].reshape(n_classes, pixels)
    counts = totals[n_classes * pixels :] / (COUNT_SHARE * clip_norm)
    present = counts >= _LEAST_COUNT
    if not present.any():
        return np.zeros((n_classes, *image_shape), dtype=np.float32)
    means = np.zeros_like(sums)
    means[present] = sums[present] / counts[present, None]
    floor = noise_stddev / np.maximum(counts, _LEAST_COUNT)
    means[means < floor[:, None]] = 0.0
    means[~present] = means[present].mean(axis=0)
    return np.clip(means, 0.0, 1.0).reshape(n_classes, *image_shape).astype(np.float32)
