"""The real test images in one feature space: embedded once a run, then compared with one set after another.

>>> import numpy as np
>>> features = np.random.default_rng(0).standard_normal((60, 3))
>>> sorted(Reference(features).figures(features[::2]))
['coverage', 'density', 'fid', 'kid', 'precision', 'recall']
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion.evaluation.fid import frechet_distance
from secure_fed_diffusion.evaluation.kid import KernelReference
from secure_fed_diffusion.evaluation.neighbours import NeighbourReference

Floats = npt.NDArray[np.float64]
Timer = Callable[[str], AbstractContextManager[object]]


class Reference:
    """Features (n, d) of real images; what a metric needs of them alone is computed when first asked for."""

    def __init__(self, features: Floats) -> None:
        self.features = features

    def figures(self, fake: Floats, timed: Timer = nullcontext) -> dict[str, float]:
        """Return FID, KID, precision, recall, density and coverage of features (m, d), by family."""
        with timed("fid"):
            figures = {"fid": frechet_distance(self.features, fake)}
        with timed("kid"):
            figures["kid"] = self._kernel.distance(fake)
        with timed("neighbours"):
            return figures | self._neighbours.figures(fake)

    @cached_property
    def _kernel(self) -> KernelReference:
        return KernelReference(self.features)

    @cached_property
    def _neighbours(self) -> NeighbourReference:
        return NeighbourReference(self.features)
