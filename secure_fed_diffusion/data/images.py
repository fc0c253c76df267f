"""Labelled images, the one form in which every set leaves its loader.

>>> ImageSet(np.zeros((3, 1, 2, 2), dtype=np.uint8), np.arange(3)).subset([2, 0]).labels.tolist()
[2, 0]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion.errors import DataError


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """Labelled images: `images` uint8 (n, c, h, w), `labels` int64 (n,)."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != np.uint8:
            raise DataError(
                f"expected uint8 images (n, c, h, w), got {self.images.dtype} {self.images.shape}"
            )
        if self.labels.shape != (len(self.images),) or self.labels.dtype != np.int64:
            raise DataError(
                f"expected {len(self.images)} int64 labels, got {self.labels.dtype} {self.labels.shape}"
            )

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, indices: npt.NDArray[np.integer[Any]] | Sequence[int] | slice) -> ImageSet:
        """Return the records at `indices`, in that order."""
        return ImageSet(self.images[indices], self.labels[indices])
