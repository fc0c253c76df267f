"""T31c: whoever reads an open wire learns the sum, as the server does.

Not promised: the masks of the protocol keep single inputs from the server, not the sum from a listener; that
is TLS's part.  Off is a round without masks, on the profile active.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from threat_models.adversaries.network import Wire
from threat_models.claim import Arm, Claim, Staged, Tags, Threshold
from threat_models.staging.reading import Vector, read_sum
from threat_models.staging.recorded_round import RecordedRound, Truth, coordinates_read


def stage(arm: Arm, seed: int) -> Staged[Wire]:
    """Run a round with one dropout and listen; the truth is the sum that the server gets."""
    case = "unsafe_unmasked" if arm is Arm.OFF else "active"
    a_round = RecordedRound.of_seed(case, seed).finish(dropouts={4: "masked_input"})
    heard = a_round.exchange()
    wire = Wire(**{entry.name: getattr(heard, entry.name) for entry in dataclasses.fields(heard)})
    return Staged(wire, Truth(a_round.server.total.astype(np.uint64)))


def attack(view: Wire) -> Vector:
    """Do what the server does."""
    return read_sum(view)


CLAIM = Claim(
    id="T31c",
    title="An open wire",
    adversary="network",
    asset="the sum",
    statement="Not promised: whoever reads all frames on an open wire learns the sum. Use TLS.",
    defence="none in the protocol; TLS is the engine's",
    dropped_assumption=None,
    view=Wire,
    stage=stage,
    attack=attack,
    judge=coordinates_read,
    metric="share of the sum's coordinates read exactly",
    threshold=Threshold(succeeds=0.99, fails=0.01),
    promised=False,
    source="secagg/README.md, who learns what",
    tags=Tags(stride=("Information disclosure",), linddun=("Data disclosure",)),
)
