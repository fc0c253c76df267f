"""The observer of what a run publishes: the model, its samples, the metrics and the ledgers of ε.

>>> ADVERSARY.name
'model_observer'
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from threat_models.adversary import Adversary
from threat_models.claim import View


@dataclass(frozen=True)
class PublishedLedgers(View):
    """Ledgers as published, and for comparison one of the whole data set and one of its neighbour."""

    published: tuple[bytes, ...]
    whole: bytes
    neighbour: bytes


@dataclass(frozen=True)
class ModelAndCandidates(View):
    """A released model's weights (d,) and candidates: images uint8 (n, c, h, w) with their labels (n,)."""

    weights: npt.NDArray[np.float32]
    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]


ADVERSARY = Adversary(
    name="model_observer",
    title="Observer of the released model",
    capabilities=(
        "has the weights, the samples, the metrics and the ledgers, and unlimited queries",
        "has candidate images of which some were trained on",
    ),
    views=(PublishedLedgers, ModelAndCandidates),
    assets=("whether an image was trained on", "what a training image looks like"),
    assumptions=("it sees no update and no sum, only what the run released",),
    non_claims=("without DP a model that trained long enough gives its members away",),
)
