"""T14c: a server that proposes a cohort of the victim and one accomplice, and subtracts.

The client's policy is its own and never travels: cohorts, thresholds and rings outside it are refused before
a key exists.  Dropped: its owner made it loose.  At a peer that has no such policy the server proposes a
cohort of one.
"""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np

from secure_fed_diffusion import secagg
from secure_fed_diffusion.errors import PolicyError
from threat_models.adversaries.malicious_server import OURS, Exchange
from threat_models.claim import Arm, Claim, Staged, Tags, Threshold
from threat_models.peers import flower_secagg_plus as flower
from threat_models.staging.reading import Vector, read_input, read_sum
from threat_models.staging.recorded_round import VICTIM, RecordedRound, Refusal, Truth, coordinates_read
from threat_models.staging.secagg_round import make_params, make_session, make_vectors
from threat_models.weakened.keys_and_lists import without_a_policy
from threat_models.weakened.patching import without

ACCOMPLICE = 1
LOOSE = secagg.Policy(min_cohort=2, min_survivors=2, colluders=0)


def stage(arm: Arm, seed: int) -> Staged[Exchange]:
    """Propose two clients, threshold 2; the other one works for the server."""
    policy = LOOSE if arm is Arm.DROPPED else secagg.Policy()
    with without(without_a_policy) if arm is Arm.OFF else nullcontext():
        try:
            a_round = RecordedRound.of_seed("active", seed, policy=policy, n_clients=2, threshold=2)
        except PolicyError as error:
            return _refused(seed, error)
        a_round.finish()
        inputs = {ACCOMPLICE: a_round.vectors[ACCOMPLICE].astype(np.uint64)}
        return a_round.staged(told_inputs=inputs)


def attack(view: Exchange) -> Vector:
    """Subtract the accomplice's vector from the sum; a sum of one is read as it is."""
    return read_sum(view) if view.protocol == OURS else read_input(view)


def _refused(seed: int, error: PolicyError) -> Staged[Exchange]:
    params = make_params(2, 2, dimension=64)
    vector = make_vectors(make_session(params), seed)[VICTIM].astype(np.uint64)
    refusal = Refusal(VICTIM, "advertise", type(error).__name__, str(error), ())
    view = Exchange(protocol=OURS, victim=VICTIM, threshold=params.threshold, frames=(), params=params)
    return Staged(view, Truth(vector, (refusal,)))


CLAIM = Claim(
    id="T14c",
    title="Weak terms",
    adversary="malicious_server",
    asset="one client's vector",
    statement=(
        "A server cannot talk a client into a cohort, a threshold or a ring outside the client's own policy."
    ),
    defence="a policy that belongs to the client: minimum cohort, survivors, threshold, ring",
    dropped_assumption="the client's owner did not loosen its policy",
    view=Exchange,
    stage=stage,
    attack=attack,
    judge=coordinates_read,
    metric="share of the victim's coordinates read exactly",
    threshold=Threshold(succeeds=0.99, fails=0.01),
    source="secure_aggregation, section 2, weakness 3; threats_and_audit, T14",
    tags=Tags(stride=("Information disclosure",), linddun=("Data disclosure",)),
    peers={flower.NAME: flower.cohort_of_one},
)
