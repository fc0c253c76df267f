"""T7b: a server that lies about who dropped out, one list to one half of the clients, another to the other.

To one half the victim survived, to the other it dropped out, and two accomplices sign both lists.  With
t signatures needed over one list, and 2t more than holders and accomplices together, no split gives t shares
of both kinds; tests/secagg/test_survivor_lists.py tries every split.  Off: the client's policy leaves no room
for accomplices.  Dropped: one accomplice more than that.
"""

from __future__ import annotations

from secure_fed_diffusion import secagg
from threat_models.adversaries.malicious_server import Exchange
from threat_models.claim import Arm, Claim, Staged, Tags, Threshold
from threat_models.staging.reading import read_input
from threat_models.staging.recorded_round import VICTIM, RecordedRound, coordinates_read

N_CLIENTS = 5
PLAN = {  # threshold, accomplices, who is told that the victim survived (it always is)
    Arm.OFF: (3, 2, (VICTIM, 1)),
    Arm.ON: (4, 2, (VICTIM, 1)),
    Arm.DROPPED: (4, 3, (VICTIM,)),
}


def stage(arm: Arm, seed: int) -> Staged[Exchange]:
    """Show the two lists; accomplices are the clients with the highest ids."""
    threshold, n_accomplices, told_alive = PLAN[arm]
    policy = secagg.Policy(colluders=0 if arm is Arm.OFF else 2)
    a_round = RecordedRound.of_seed(
        "active", seed, policy=policy, n_clients=N_CLIENTS, threshold=threshold
    ).run_to("consistency")
    everyone = set(a_round.session.cohort)
    accomplices = sorted(everyone)[-n_accomplices:]
    told = a_round.tell(accomplices)
    lists = {v: everyone if v in told_alive else everyone - {VICTIM} for v in everyone - set(accomplices)}
    a_round.unmask_after(lists, signed_by=accomplices)
    return a_round.staged(told=told)


CLAIM = Claim(
    id="T7b",
    title="Two survivor lists",
    adversary="malicious_server",
    asset="one client's vector",
    statement=(
        "A server that shows two survivor lists, with as many accomplices as the policy names, opens no "
        "client's vector."
    ),
    defence="t signatures over one list, and a policy that asks for 2t > holders + colluders",
    dropped_assumption="no more accomplices than the policy names",
    view=Exchange,
    stage=stage,
    attack=read_input,
    judge=coordinates_read,
    metric="share of the victim's coordinates read exactly",
    threshold=Threshold(succeeds=0.99, fails=0.01),
    source="Bonawitz et al., CCS 2017, section 6; secure_aggregation, section 4",
    tags=Tags(stride=("Information disclosure",), linddun=("Data disclosure",)),
)
