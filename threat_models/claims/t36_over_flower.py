"""T36: T7 over Flower: the frames are those that the server-side engine saw come back.

Plan, policy and client are a federation's own, behind the ClientApp that a SuperNode runs; the messages are
Flower's, through its protobuf both ways.  The server shows each client two survivor lists in turn.  The
SuperLink between the two ends is replaced by a table in memory.
"""

from __future__ import annotations

from contextlib import nullcontext

from threat_models.adversaries.malicious_server import Exchange
from threat_models.claim import Arm, Claim, NotInstalledError, Staged, Tags, Threshold
from threat_models.staging.reading import read_input
from threat_models.staging.recorded_round import VICTIM, coordinates_read
from threat_models.weakened.keys_and_lists import without_one_answer_a_round
from threat_models.weakened.patching import without

N_CLIENTS, THRESHOLD = 7, 5


def stage(arm: Arm, seed: int) -> Staged[Exchange]:
    """Run a round up to its survivor list, and show two of them."""
    try:
        from threat_models.staging.federation_round import plan_of
        from threat_models.staging.flower_round import FlowerRound
    except ImportError:
        raise NotInstalledError("flwr is not installed") from None
    with without(without_one_answer_a_round) if arm is Arm.OFF else nullcontext():
        a_round = FlowerRound(plan_of(N_CLIENTS, THRESHOLD, min_survivors=THRESHOLD), seed)
        a_round.run_to("consistency")
        told = a_round.tell(range(1, THRESHOLD + 1)) if arm is Arm.DROPPED else {}
        everyone = set(a_round.session.cohort)
        for survivors in (everyone, everyone - {VICTIM}):
            a_round.unmask_after(dict.fromkeys(sorted(everyone - {VICTIM}), survivors))
        return a_round.staged(told=told)


CLAIM = Claim(
    id="T36",
    title="Both kinds of share, over Flower",
    adversary="malicious_server",
    asset="one client's vector",
    statement="What T7 promises holds for an institution that is asked by Flower's messages.",
    defence="one signed survivor list a round; shares burned before the reply",
    dropped_assumption="at most 2t − holders − 1 holders of the victim's shares work with the server",
    view=Exchange,
    stage=stage,
    attack=read_input,
    judge=coordinates_read,
    metric="share of the victim's coordinates read exactly",
    threshold=Threshold(succeeds=0.99, fails=0.01),
    source="T7, over flwr 1.41",
    tags=Tags(stride=("Information disclosure",), linddun=("Data disclosure",)),
)
