"""Class covariances as one more sum: how each class's images vary about their released mean.

A record becomes one-hot(label) times [the upper triangle of z zᵀ, a count weight], where z holds the lowest
frequencies of its image minus the announced mean of its class; entries off the diagonal weigh √2, so that
the row's norm is ‖z‖² beside the count.  The whole row is clipped to one norm: one record moves covariance
and count together by at most that norm, whatever was announced.  The means are the release before, so this
is adaptive composition, which the accountant's sum of charges covers.

From the noisy sum `estimate_factors` keeps the directions that stand out of the noise: post-processing.  The
noise is a symmetric Gaussian matrix whose eigenvalues end at 2 s √m (Wigner), with s its standard deviation
off the diagonal; an eigenvalue λ above it shows as λ + s² m / λ, which is turned back (Benaych-Georges and
Nadakuditi 2011, section 3.1; the Gaussian mechanism for covariances: Dwork et al. 2014, "Analyze Gauss").

Guarantees: unit one example, add/remove, in `client` one client, zero-out; sensitivity `grid.norm_bound` in
grid units; view and accountant are the plan's.  docs/privacy.md, section 8, names the tests.

A clip shortens a row's products and its count alike, so far-off records weigh less and the shape stays.

Not protected against: nothing is said of directions below the noise, nor of how classes overlap.

>>> covariance_length((1, 8, 8), n_classes=10, frequencies=4)
1370
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.fft import dct

from secure_fed_diffusion.data.images import ImageSet
from secure_fed_diffusion.dp.grid import IntegerGrid

COUNT_SHARE = 0.25  # the count weighs a quarter of the clip norm
_LEAST_COUNT = 1.0  # records: a class of fewer, by its noisy count, varies as the others do together
_COUNT_STDDEVS = 4.0  # and so does one whose count may well be noise
_CHUNK_VALUES = 1 << 22  # of the rows that are held at once

Floats = npt.NDArray[np.float64]


def covariance_length(image_shape: tuple[int, int, int], *, n_classes: int, frequencies: int) -> int:
    """Return how many coordinates the sum has."""
    size = image_shape[0] * frequencies**2
    return n_classes * (size * (size + 1) // 2 + 1)


def low_frequencies(image_shape: tuple[int, int, int], frequencies: int) -> Floats:
    """Return the orthonormal rows (c k², c h w) of each channel's k x k lowest cosine frequencies."""
    colours, height, width = image_shape
    vertical, horizontal = _cosines(height, frequencies), _cosines(width, frequencies)
    return np.kron(np.eye(colours), np.kron(vertical, horizontal))


def _cosines(side: int, frequencies: int) -> Floats:
    """Return the lowest rows of the orthonormal cosine transform: (frequencies, side)."""
    rows: Floats = dct(np.eye(side), norm="ortho", axis=0)[:frequencies]
    return rows


def covariance_sum(
    images: ImageSet, means: npt.NDArray[np.float32], frequencies: int, grid: IntegerGrid
) -> npt.NDArray[np.int64]:
    """Return the sum of the records' rows on `grid`, each clipped and rounded by itself: (length,).

    `means` (n_classes, c, h, w) are as announced: any finite numbers.
    """
    blocks = _empty(means, frequencies, np.int64)
    for label, rows in _by_class(images, means, frequencies, grid.clip_norm):
        blocks[label] += grid.round(rows).sum(axis=0)  # what is zero of a row, all other classes, stays so
    return blocks.ravel()


def covariance_mean(
    images: ImageSet, means: npt.NDArray[np.float32], frequencies: int, clip_norm: float
) -> Floats:
    """Return the mean of the records' rows, none of them clipped: (length,)."""
    blocks = _empty(means, frequencies, np.float64)
    for label, rows in _by_class(images, means, frequencies, clip_norm):
        blocks[label] += rows.sum(axis=0)
    return blocks.ravel() / max(1, len(images))


def _empty(means: npt.NDArray[np.float32], frequencies: int, dtype: type) -> npt.NDArray[Any]:
    length = covariance_length(means.shape[1:], n_classes=len(means), frequencies=frequencies)
    return np.zeros((len(means), length // len(means)), dtype=dtype)


def _by_class(
    images: ImageSet, means: npt.NDArray[np.float32], frequencies: int, clip_norm: float
) -> Iterator[tuple[int, Floats]]:
    """Yield, by class and in chunks, the part of each record's row that is not zero.

    Its shape is (n, m (m + 1) / 2 + 1).  A record's numbers are computed by itself: a product of matrices
    would round by how many records stand beside it.
    """
    colours, height, width = means.shape[1:]
    vertical, horizontal = _cosines(height, frequencies), _cosines(width, frequencies)
    first, second = np.triu_indices(colours * frequencies**2)
    weight = np.where(first == second, 1.0, math.sqrt(2.0))
    chunk = max(1, _CHUNK_VALUES // (len(first) + 1))
    for label, mean in enumerate(means.astype(np.float64)):
        members = np.flatnonzero(images.labels == label)
        for start in range(0, len(members), chunk):
            part = images.images[members[start : start + chunk]]
            rows = np.empty((len(part), len(first) + 1))
            for row, image in zip(rows, part, strict=True):
                z = (vertical @ (image / 255.0 - mean) @ horizontal.T).reshape(-1)
                np.multiply(z[first] * z[second], weight, out=row[:-1])
            rows[:, -1] = COUNT_SHARE * clip_norm
            yield label, rows


def estimate_factors(
    totals: Floats,
    *,
    n_classes: int,
    image_shape: tuple[int, int, int],
    frequencies: int,
    clip_norm: float,
    noise_stddev: float,
) -> npt.NDArray[np.float32]:
    """Turn the noisy sum, in the rows' unit, into factors F (n_classes, r, c h w): covariances are FᵀF.

    `noise_stddev`: of the noise in `totals`, in the same unit.  r is the most directions that any class has
    left; where a class has fewer, rows are zero.  A class whose count is below one record, or might be noise,
    gets the covariance of all others together.
    """
    basis = low_frequencies(image_shape, frequencies)
    parts = totals.reshape(n_classes, -1)
    present = parts[:, -1] >= max(_LEAST_COUNT * COUNT_SHARE * clip_norm, _COUNT_STDDEVS * noise_stddev)
    if not present.any():
        return np.zeros((n_classes, 0, basis.shape[1]), dtype=np.float32)
    together, among = parts[present].sum(axis=0), math.sqrt(present.sum())
    factors = []
    for part, own in zip(parts, present, strict=True):
        block, stddev = (part, noise_stddev) if own else (together, noise_stddev * among)
        count = block[-1] / (COUNT_SHARE * clip_norm)
        factors.append(_factor(block[:-1] / count, stddev / count, len(basis)))
    rank = max(len(factor) for factor in factors)
    padded = np.stack([np.pad(factor, ((0, rank - len(factor)), (0, 0))) for factor in factors])
    return (padded @ basis).astype(np.float32)


def _factor(triangle: Floats, noise_stddev: float, size: int) -> Floats:
    """Return the directions (r, size) above the noise, each as long as its standard deviation.

    `triangle` is the noisy covariance's upper one, as in a row; `noise_stddev` that of each of its entries.
    """
    first, second = np.triu_indices(size)
    covariance = np.zeros((size, size))
    covariance[first, second] = triangle / np.where(first == second, 1.0, math.sqrt(2.0))
    covariance[second, first] = covariance[first, second]
    edge = noise_stddev * math.sqrt(2.0 * size)
    values, vectors = np.linalg.eigh(covariance)
    kept = values > max((1.0 + 2.0 * size ** (-2.0 / 3.0)) * edge, 1e-9)  # the edge itself varies by m^(-2/3)
    shown = values[kept][::-1]
    true = (shown + np.sqrt(shown**2 - edge**2)) / 2.0
    return vectors.T[kept][::-1] * np.sqrt(true)[:, np.newaxis]
