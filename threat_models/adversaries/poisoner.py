"""The poisoner: a client that sends whatever does the most harm to the model.

>>> ADVERSARY.name
'poisoner'
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from threat_models.adversary import Adversary
from threat_models.claim import View


@dataclass(frozen=True)
class Published(View):
    """The total that came of a round with its input, None where the round ended without one."""

    total: npt.NDArray[np.integer[Any]] | None


@dataclass(frozen=True)
class OwnContribution(View):
    """What the poisoner would send if it were honest, as integers of a ring of `modulus_bits` bits."""

    honest: npt.NDArray[np.int64]
    modulus_bits: int


ADVERSARY = Adversary(
    name="poisoner",
    title="Poisoner",
    capabilities=("sends any vector of the ring as its input", "trains on data of its choice"),
    views=(Published, OwnContribution),
    assets=("the model's quality",),
    assumptions=("it is one client of the cohort, or a few",),
    non_claims=(
        "a bound that its own software checks binds no poisoner: masking hides the vector that breaks it",
        "no proof of a norm bound is sent with a masked vector",
    ),
)
