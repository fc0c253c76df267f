"""Are the samples like real images, and are all kinds of real images among them?

Both sets are taken as balls in feature space, one around each point up to its k-th nearest neighbour of
its own set (the point itself not counted).  With real X and fake Y:

    precision   share of Y inside some ball of X                  (Kynkäänniemi et al. 2019, 1904.06991)
    recall      share of X inside some ball of Y                  (the same with the sides exchanged)
    density     mean over Y of the balls of X around it, / k      (Naeem et al. 2020, 2002.09797, eq. 4)
    coverage    share of X whose ball holds at least one of Y     (the same, eq. 5)

k = 3 for the first two and 5 for the others, as in their papers; "inside" is strictly inside, as in
`prdc`.  Density may exceed 1.  Recall and coverage rise with the number of samples: compare equal numbers
only, and with the same figures of real images.  None of them sees whether samples are copies: a model
that memorised scores well.

Distances are computed in blocks of rows: 10,000 × 10,000 of them never stand in memory at once.

>>> import numpy as np
>>> line = np.arange(20.0)[:, None]
>>> figures = NeighbourReference(line).figures(line[:8] + 0.25)
>>> figures["precision"], figures["coverage"]  # no sample is odd; half of the real points have one near
(1.0, 0.55)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.neighbors import NearestNeighbors

from secure_fed_diffusion.errors import DataError

Floats = npt.NDArray[np.float64]

PRECISION_K = 3
DENSITY_K = 5
_BLOCK_ROWS = 512


class NeighbourReference:
    """The real side: features (n, d), whose balls are measured once."""

    def __init__(self, real: Floats, *, precision_k: int = PRECISION_K, density_k: int = DENSITY_K) -> None:
        self._precision_k, self._density_k = precision_k, density_k
        self._real = real
        radii = squared_radii(real, max(precision_k, density_k))
        self._narrow, self._wide = radii[:, precision_k - 1], radii[:, density_k - 1]

    def figures(self, fake: Floats) -> dict[str, float]:
        """Return precision, recall, density and coverage of `fake` (m, d), by name.

        Raises:
            DataError: there are no more samples than neighbours asked for.
        """
        fake_radii = squared_radii(fake, self._precision_k)[:, -1]
        real_squares = (self._real**2).sum(axis=1)[None]
        likely, balls = 0, 0
        reached = np.zeros(len(self._real), dtype=bool)
        nearest = np.full(len(self._real), np.inf)
        for start in range(0, len(fake), _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            squared = euclidean_distances(fake[block], self._real, squared=True, Y_norm_squared=real_squares)
            likely += int((squared < self._narrow).any(axis=1).sum())
            balls += int((squared < self._wide).sum())
            reached |= (squared < fake_radii[block, None]).any(axis=0)
            np.minimum(nearest, squared.min(axis=0), out=nearest)
        return {
            "precision": likely / len(fake),
            "recall": float(reached.mean()),
            "density": balls / (self._density_k * len(fake)),
            "coverage": float((nearest < self._wide).mean()),
        }


def squared_radii(features: Floats, k: int) -> Floats:
    """Return the squared distances (n, k) from each row to its k nearest others, ascending."""
    if len(features) <= k:
        raise DataError(f"expected more than {k} images to find {k} neighbours of each, got {len(features)}")
    distances, _ = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(features).kneighbors()
    return np.asarray(distances, dtype=np.float64) ** 2
