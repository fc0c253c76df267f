"""The malicious server: it may send any frame to anyone, choose cohorts and parameters, lie and stop.

>>> ADVERSARY.name
'malicious_server'
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion.secagg import SecAggParams
from threat_models.adversary import Adversary
from threat_models.claim import View

Array = npt.NDArray[Any]

OURS = "secure_fed_diffusion"
FLOWER = "flwr SecAgg+"


@dataclass(frozen=True)
class ReleasedSum(View):
    """The decoded sum of a round whose ring the server proposed; None where the terms were refused."""

    total: npt.NDArray[np.float64] | None


@dataclass(frozen=True)
class RepeatedRound(View):
    """The victim's masked vectors of a round that the server ran again; fewer where the client refused."""

    vectors: tuple[Array, ...]


@dataclass(frozen=True, slots=True)
class Frame:
    """One message as it passed: bytes, or a peer library's record as plain values."""

    sender: int | str
    receiver: int | str
    phase: str
    content: Any
    round: int = 0


@dataclass(frozen=True)
class Exchange(View):
    """All frames of a secure sum, in order, with what the server itself made and what clients told it.

    `own_secrets` are private keys that the server put in the place of clients', (sealing, masking) by client;
    `told` are shares (mask key, self mask) by holder, then by owner, and `told_inputs` vectors, of clients
    that work with it; `threshold` is how many shares make a secret; `round` is the one that it is after.
    """

    protocol: str
    victim: int
    threshold: int
    frames: tuple[Frame, ...]
    params: SecAggParams | None = None
    session_id: bytes = b""
    round: int = 0
    participants: tuple[int, ...] = ()
    own_secrets: Mapping[int, tuple[bytes, bytes]] = field(default_factory=dict)
    told: Mapping[int, Mapping[int, tuple[int, int]]] = field(default_factory=dict)
    told_inputs: Mapping[int, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class ImprintedSum(View):
    """What came back for a model whose weights the server chose, and the draws of every record.

    `gradient` (d,) is one client's, or a sum over clients; all zero where the client refused the model.
    `record_timesteps` (n,) and `noise_images` (n, pixels) are handed to it: more than it has.  Two thresholds
    whose gradients differ by less than `floor` have no image between them.
    """

    gradient: npt.NDArray[np.float64]
    record_timesteps: npt.NDArray[np.int64]
    noise_images: npt.NDArray[np.float64]
    floor: float


@dataclass(frozen=True)
class SumOverModels(View):
    """The sum of a round for which clients may have been shown different models; None where they refused.

    `others` is the sum of the other clients' updates, where they tell; None where not.
    """

    total: npt.NDArray[np.float64] | None
    others: npt.NDArray[np.float64] | None


ADVERSARY = Adversary(
    name="malicious_server",
    title="Malicious server",
    capabilities=(
        "sends any bytes to any client at any step, different ones to different clients",
        "proposes parameters, cohorts and models; invents dropouts; repeats rounds",
        "makes a client's process stop and start again",
    ),
    views=(ReleasedSum, RepeatedRound, Exchange, SumOverModels, ImprintedSum),
    assets=("one client's update", "the sum that everybody trains on"),
    assumptions=(
        "each client holds a roster of signing keys that the server did not choose (profile active)",
        "each client holds its own policy",
        "at least a threshold of the cohort is honest",
    ),
    non_claims=("it can always stop a round: availability is not promised",),
)
