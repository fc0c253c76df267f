"""The curious server: it runs the protocol as written, keeps everything, and computes.

Its views are what a coordinator of a federation has in its memory: frames, sums, logs of who took part, and,
where secure aggregation is off, single updates.

>>> ADVERSARY.name
'curious_server'
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from threat_models.adversary import Adversary
from threat_models.claim import View

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class SumsAndCandidates(View):
    """Decoded sums, (set-ups, rounds, d), and for every client two updates of which it sent one."""

    sums: npt.NDArray[np.float64]
    first: npt.NDArray[np.float64]
    second: npt.NDArray[np.float64]


@dataclass(frozen=True)
class TwoSums(View):
    """Sums of two rounds, who took part in each, and the plan's noise; a seed only if it leaked."""

    with_victim: npt.NDArray[np.float64]
    without_victim: npt.NDArray[np.float64]
    logs: tuple[tuple[int, ...], ...]
    noise_multiplier: float
    generator_seed: int | None


@dataclass(frozen=True)
class SumsAndLog(View):
    """Sums of many rounds, and who took part in each: rounds x clients, 0 or 1."""

    sums: npt.NDArray[np.float64]
    participation: npt.NDArray[np.float64]


@dataclass(frozen=True)
class MaskedVectors(View):
    """One client's masked vectors, ring elements, in the order in which they came."""

    vectors: tuple[Array, ...]


@dataclass(frozen=True)
class PairMaskedVector(View):
    """A vector under the mask that two clients share, its self mask off, and their public mask keys.

    Where masks have 32-bit seeds, `search_from` is the first of the slice of them that is searched, and
    `first_value` what is under the mask of the first value: it travels in clear.
    """

    vector: Array
    own_id: int
    peer_id: int
    own_public: bytes
    peer_public: bytes
    round_id: bytes
    search_from: int | None = None
    first_value: int = 0


@dataclass(frozen=True)
class ClientFrames(View):
    """What one client sent in a round, in order; the sum's count and others' own counts where they told."""

    frames: tuple[bytes, ...]
    count_coordinate: int | None
    told_counts: Mapping[int, int]


@dataclass(frozen=True)
class OneUpdate(View):
    """One client's gradient of one record as it is sent, its masks off, and what the plan tells everybody.

    Time step and noise image are handed to it, which is more than it has.  `noise_label` names the generator
    of the client's noise where the server can run it again; None where that is the operating system's.
    """

    weights: npt.NDArray[np.float32]
    gradient: npt.NDArray[np.float64]
    timestep: int
    noise_image: npt.NDArray[np.float64]
    timesteps: int
    noise_label: str | None
    noise_stddev: float
    grid_scale: float


@dataclass(frozen=True)
class ClassSums(View):
    """A round's class sums and counts: the sum, the victim's own vector where it travelled in the clear, and
    the sum of everybody else's where all others tell; None where not.
    """

    own: npt.NDArray[np.float64] | None
    total: npt.NDArray[np.float64]
    others: npt.NDArray[np.float64] | None
    clip_norm: float


@dataclass(frozen=True)
class SumsAndRecords(View):
    """Sums of class means or covariances, all records that may be in each but one, and that one: is it there?

    A row each: `others` is the exact sum of the other records' vectors, `candidates` one vector of the record
    in question; whoever has it has it `copies` times.
    """

    totals: npt.NDArray[np.float64]
    others: npt.NDArray[np.float64]
    candidates: npt.NDArray[np.float64]
    copies: int


ADVERSARY = Adversary(
    name="curious_server",
    title="Curious server",
    capabilities=(
        "runs the protocol as written and records every frame of every round",
        "knows the model, the configuration and who took part in which round",
        "has side knowledge: candidate updates, candidate images, unlimited offline computing short of "
        "breaking a 256-bit key",
    ),
    views=(
        SumsAndCandidates,
        TwoSums,
        SumsAndLog,
        MaskedVectors,
        PairMaskedVector,
        ClientFrames,
        OneUpdate,
        ClassSums,
        SumsAndRecords,
    ),
    assets=("one client's update", "one image", "who sent which update", "a client's size and losses"),
    assumptions=(
        "at least a threshold of clients is honest and does not share secrets with it",
        "the operating system of a client has a sound generator",
    ),
    non_claims=(
        "without noise it learns the exact sum, and whatever the sum says",
        "it always knows who took part",
    ),
)
