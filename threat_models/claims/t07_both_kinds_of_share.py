"""T7: a server that asks for both kinds of share of one client, first as a survivor, then as a dropout.

Both secrets of a client open its vector.  The clients sign and answer one list of survivors a round, and
their shares leave their memory before the reply does, so the second list gets silence.  The third arm has t
holders of the victim's shares on the server's side: then no list is needed.
"""

from __future__ import annotations

from contextlib import nullcontext

from threat_models.adversaries.malicious_server import Exchange
from threat_models.claim import Arm, Claim, Staged, Tags, Threshold
from threat_models.peers import flower_secagg_plus as flower
from threat_models.staging.reading import read_input
from threat_models.staging.recorded_round import VICTIM, RecordedRound, coordinates_read
from threat_models.weakened.keys_and_lists import without_one_answer_a_round
from threat_models.weakened.patching import without

N_CLIENTS, THRESHOLD = 7, 5


def stage(arm: Arm, seed: int) -> Staged[Exchange]:
    """Show all clients but the victim two lists in turn: with it, and without it."""
    with without(without_one_answer_a_round) if arm is Arm.OFF else nullcontext():
        a_round = RecordedRound.of_seed("active", seed, n_clients=N_CLIENTS, threshold=THRESHOLD)
        a_round.run_to("consistency")
        accomplices = range(1, THRESHOLD + 1) if arm is Arm.DROPPED else ()
        told = a_round.tell(accomplices)
        everyone = set(a_round.session.cohort)
        for survivors in (everyone, everyone - {VICTIM}):
            a_round.unmask_after(dict.fromkeys(sorted(everyone - {VICTIM}), survivors))
        return a_round.staged(told=told)


CLAIM = Claim(
    id="T7",
    title="Both kinds of share of one client",
    adversary="malicious_server",
    asset="one client's vector",
    statement="A server never gets both secrets of a client, whatever lists it shows and however often.",
    defence="one signed survivor list a round; shares burned before the reply",
    dropped_assumption="at most 2t − holders − 1 holders of the victim's shares work with the server",
    view=Exchange,
    stage=stage,
    attack=read_input,
    judge=coordinates_read,
    metric="share of the victim's coordinates read exactly",
    threshold=Threshold(succeeds=0.99, fails=0.01),
    source="Bonawitz et al., CCS 2017, section 6; threats_and_audit, T7",
    tags=Tags(stride=("Information disclosure",), linddun=("Data disclosure",)),
    peers={flower.NAME: flower.both_kinds_of_share},
)
