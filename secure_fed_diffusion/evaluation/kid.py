"""The kernel distance between two sets of images, in the features of an extractor.

    KID = mean k(x, x′) + mean k(y, y′) − 2 mean k(x, y)    over x ≠ x′ and y ≠ y′,   k(x, y) = (x·y / d + 1)³

(Bińkowski et al. 2018, arXiv 1801.01401, section 4 and eq. 4.)  Unlike FID it is unbiased, so sets of
different sizes compare, and small sets and those with fewer images than features are no problem; it may
be negative.  Customary is the mean over 100 random subsets of 1,000: the same expectation, since every
subset's estimate is unbiased, but more variance and a seed.  Here all pairs enter, in blocks, so memory
does not grow with their number, and what concerns the real images alone is computed once a run.

It compares three moments of the features; like FID it does not see copies of training images.

>>> import numpy as np
>>> KernelReference(np.array([[0.0], [2.0]])).distance(np.array([[1.0], [1.0]]))  # 1 + 8 - 2 (1 + 27) / 2
-19.0
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from secure_fed_diffusion.errors import DataError

Floats = npt.NDArray[np.float64]

_BLOCK_ROWS = 512


class KernelReference:
    """The real side: features (n, d), n >= 2, whose own kernel mean is computed once."""

    def __init__(self, real: Floats) -> None:
        self._real = torch.from_numpy(np.ascontiguousarray(real, dtype=np.float64))
        self._own_mean = _mean_of_pairs(self._real)

    def distance(self, fake: Floats) -> float:
        """Return the unbiased squared distance between the real features and `fake` (m, d), m >= 2."""
        other = torch.from_numpy(np.ascontiguousarray(fake, dtype=np.float64))
        if other.shape[1:] != self._real.shape[1:]:
            raise DataError(f"expected features (m, {self._real.shape[1]}), got {tuple(other.shape)}")
        across = _kernel_sum(other, self._real) / (len(other) * len(self._real))
        return self._own_mean + _mean_of_pairs(other) - 2 * across


def _mean_of_pairs(features: Tensor) -> float:
    """Return the mean kernel over ordered pairs of different rows."""
    n = len(features)
    if n < 2:
        raise DataError(f"KID needs at least 2 images on each side, got {n}")
    itself = float((features.square().sum(dim=1) / features.shape[1] + 1).pow(3).sum())
    return (_kernel_sum(features, features) - itself) / (n * (n - 1))


def _kernel_sum(rows: Tensor, columns: Tensor) -> float:
    """Return the sum of the kernel over all pairs, one block of rows after another."""
    total = 0.0
    for block in rows.split(_BLOCK_ROWS):
        inner = (block @ columns.T).div_(rows.shape[1]).add_(1)
        total += float(inner.pow_(3).sum())
    return total
