"""Confidence intervals of a share, for the attack figures.

Clopper and Pearson 1934: never too narrow for independent trials.  Where trials share what decides
them (two samples with the same nearest image), `effective_size` says how many independent ones they are
worth (Kish 1965).

>>> [round(end, 3) for end in clopper_pearson(0, 10)], effective_size(np.array([2, 2]))
([0.0, 0.308], 2.0)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

from secure_fed_diffusion.errors import DataError

Interval = tuple[float, float]


def clopper_pearson(successes: float, trials: float, level: float = 0.95) -> Interval:
    """Return the interval of a share; both counts may be effective ones, so no integers."""
    if not 0 <= successes <= trials or trials <= 0:
        raise DataError(f"expected 0 <= successes <= trials, got {successes} of {trials}")
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(beta.ppf(tail, successes, trials - successes + 1))
    high = 1.0 if successes == trials else float(beta.ppf(1 - tail, successes + 1, trials - successes))
    return low, high


def effective_size(cluster_sizes: npt.NDArray[np.integer[Any]]) -> float:
    """Return (Σ c)² / Σ c²: the number of clusters, less what their unequal sizes cost."""
    sizes = cluster_sizes.astype(np.float64)
    return float(sizes.sum() ** 2 / (sizes**2).sum())
