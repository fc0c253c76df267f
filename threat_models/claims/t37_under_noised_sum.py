"""T37: T7c against institutions: a server that asks a federation's clients for a sum with too little noise.

Plan, policy and client are a federation's own, behind the in-process engine: mode `distributed`, whose noise
is calibrated to six survivors of seven.  The server takes all seven contributions and announces five.  Off:
the institutions' plans allow five.  Dropped: t institutions hand over their shares.
"""

from __future__ import annotations

import dataclasses

from threat_models.adversaries.malicious_server import Exchange
from threat_models.claim import Arm, Claim, Staged, Tags, Threshold
from threat_models.staging.reading import Vector, read_sum
from threat_models.staging.recorded_round import coordinates_read
from threat_models.staging.secagg_round import plain_sum

N_CLIENTS, THRESHOLD, MIN_SURVIVORS = 7, 5, 6
KEPT = range(THRESHOLD)


def stage(arm: Arm, seed: int) -> Staged[Exchange]:
    """Announce five survivors to five institutions; the truth is the sum of their contributions."""
    from threat_models.staging.federation_round import FederationRound, plan_of

    least = THRESHOLD if arm is Arm.OFF else MIN_SURVIVORS
    a_round = FederationRound(plan_of(N_CLIENTS, THRESHOLD, min_survivors=least), seed)
    a_round.run_to("consistency")
    told = a_round.tell(range(1, THRESHOLD + 1)) if arm is Arm.DROPPED else {}
    a_round.unmask_after(dict.fromkeys(KEPT, KEPT))
    return a_round.staged(plain_sum(a_round.session, a_round.vectors, KEPT), told=told)


def attack(view: Exchange) -> Vector:
    """Add up the contributions of the short list and take off what was given away."""
    kept = tuple(
        frame
        for frame in view.frames
        if frame.phase != "masked_input" or frame.sender == "server" or frame.sender in KEPT
    )
    return read_sum(dataclasses.replace(view, frames=kept))


CLAIM = Claim(
    id="T37",
    title="A sum with too little noise",
    adversary="malicious_server",
    asset="the noise that the budget of mode distributed rests on",
    statement="No institution helps to open a sum of fewer contributions, and so of fewer noise shares, than "
    "its plan was calibrated to.",
    defence="min_survivors of each institution's own plan, which is its policy in the secure sum",
    dropped_assumption="at most 2t − holders − 1 holders of each client's shares work with the server",
    view=Exchange,
    stage=stage,
    attack=attack,
    judge=coordinates_read,
    metric="share of the short sum's coordinates read exactly",
    threshold=Threshold(succeeds=0.99, fails=0.01),
    source="integer_mechanism, section 6; this project",
    tags=Tags(stride=("Information disclosure", "Elevation of privilege"), linddun=("Data disclosure",)),
)
