"""The network: whoever sits between a client and the server, and stores, drops, alters and repeats frames.

>>> ADVERSARY.name
'network'
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from threat_models.adversaries.malicious_server import Exchange
from threat_models.adversary import Adversary
from threat_models.claim import View

Array = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Refusals(View):
    """For each frame that it put in, whether the other end took it for good."""

    accepted: tuple[bool, ...]


@dataclass(frozen=True)
class Aftermath(View):
    """What each round that it meddled with came to: the total taken for good, None where there was none."""

    totals: tuple[Array | None, ...]


@dataclass(frozen=True)
class Wire(Exchange):
    """All frames of a round as they travelled, read and not touched."""


ADVERSARY = Adversary(
    name="network",
    title="Network",
    capabilities=(
        "reads, drops, delays, repeats and alters every frame between a client and the server",
        "keeps the frames of earlier rounds and sends them again",
    ),
    views=(Refusals, Aftermath, Wire),
    assets=("one client's update", "the sum that everybody trains on"),
    assumptions=("the engine's transport may add TLS; nothing here relies on it",),
    non_claims=("it sees who talks to whom, when, and how many bytes", "it can cut anybody off"),
)
