"""T12b: a server that shows one client another model in a later round of the same set-up.

The others get a dead model, whose updates are zero, so the sum would be the victim's update alone.  The
digest of the model is in the id of each round and the id is in every mask: the victim's masks and the others'
do not cancel.
"""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np

from threat_models.adversaries.malicious_server import Exchange
from threat_models.claim import Arm, Claim, Staged, Tags, Threshold
from threat_models.staging import forging
from threat_models.staging.reading import Vector, read_input, read_sum
from threat_models.staging.recorded_round import VICTIM, RecordedRound, coordinates_read
from threat_models.weakened.keys_and_lists import without_the_model_in_the_session
from threat_models.weakened.patching import without

N_CLIENTS, THRESHOLD = 7, 5
LIVE, DEAD = b"live".ljust(32), b"dead".ljust(32)


def stage(arm: Arm, seed: int) -> Staged[Exchange]:
    """Begin round 1 with the dead model, at the victim with the live one; then relabel and carry on."""
    with without(without_the_model_in_the_session) if arm is Arm.OFF else nullcontext():
        a_round = RecordedRound.of_seed(
            "active", seed, n_clients=N_CLIENTS, threshold=THRESHOLD, n_rounds=2
        ).finish()
        a_round.begin_apart(1, {VICTIM: {"model_digest": LIVE}}, model_digest=DEAD)
        shown = {v: LIVE if v == VICTIM else DEAD for v in a_round.inbox}
        adverts = a_round.server.commitment
        slots = {
            v: a_round.session.slot(1, model_digest=digest, commitment=adverts).id
            for v, digest in shown.items()
        }
        a_round.vectors = {v: x if v == VICTIM else np.zeros_like(x) for v, x in a_round.vectors.items()}
        for v, frame in a_round.inbox.items():
            a_round.ask(v, "masked_input", forging.relabelled(frame, slots[v]))
        told = a_round.tell(range(1, THRESHOLD + 1) if arm is Arm.DROPPED else ())
        others = sorted(set(a_round.session.cohort) - {VICTIM})
        a_round.unmask_after(dict.fromkeys(others, a_round.session.cohort))
        return a_round.staged(told=told)


def attack(view: Exchange) -> Vector:
    """Add everything up; with enough accomplices, open the victim's vector by itself."""
    return read_input(view) if len(view.told) >= view.threshold else read_sum(view)


CLAIM = Claim(
    id="T12b",
    title="Another model for one client",
    adversary="malicious_server",
    asset="one client's vector",
    statement=("A client that was shown another model than the others adds nothing readable to the sum."),
    defence="H(model) in the id of each round, and the id in every mask",
    dropped_assumption="at most 2t − holders − 1 holders of the victim's shares work with the server",
    view=Exchange,
    stage=stage,
    attack=attack,
    judge=coordinates_read,
    metric="share of the victim's coordinates read exactly",
    threshold=Threshold(succeeds=0.99, fails=0.01),
    source="Pasquini et al., arXiv 2111.07380",
    tags=Tags(stride=("Spoofing", "Information disclosure"), linddun=("Data disclosure",)),
)
