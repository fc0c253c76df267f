"""Two masked vectors of one client: what they share, and how much of a difference was read.

>>> x = np.array([[1, 2], [5, 9]], dtype=np.uint32)
>>> share_read(difference((x[0], x[1])), difference((x[0], x[1])))
1.0
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Ring = npt.NDArray[np.uint32]
NOTHING: Ring = np.zeros(0, dtype=np.uint32)


def difference(vectors: tuple[npt.NDArray[Any], ...]) -> Ring:
    """Return the second less the first modulo 2^32; nothing where there are no two."""
    if len(vectors) < 2:
        return NOTHING
    found: Ring = vectors[1].astype(np.uint32) - vectors[0].astype(np.uint32)
    return found


def share_read(guess: Ring, truth: Any) -> float:
    """Return which part of the coordinates was found exactly; by luck 2^-32 of them."""
    return float(np.mean(guess == truth)) if len(guess) else 0.0
