"""T7c: a server that calls clients dropped whose inputs arrived, to get a sum with fewer noise shares.

What it would gain is the sum of five of seven inputs, which the noise was not calibrated to.  Each client's
own policy names the fewest inputs that it answers for; the protocol's threshold alone would allow five.
"""

from __future__ import annotations

import dataclasses

from secure_fed_diffusion import secagg
from threat_models.adversaries.malicious_server import Exchange
from threat_models.claim import Arm, Claim, Staged, Tags, Threshold
from threat_models.staging.reading import Vector, read_sum
from threat_models.staging.recorded_round import RecordedRound, coordinates_read
from threat_models.staging.secagg_round import plain_sum

N_CLIENTS, THRESHOLD, MIN_SURVIVORS = 7, 5, 6
KEPT = range(THRESHOLD)


def stage(arm: Arm, seed: int) -> Staged[Exchange]:
    """Take all seven inputs and announce five survivors; the truth is the sum of those five."""
    policy = secagg.Policy(min_survivors=2 if arm is Arm.OFF else MIN_SURVIVORS)
    a_round = RecordedRound.of_seed(
        "active", seed, policy=policy, n_clients=N_CLIENTS, threshold=THRESHOLD
    ).run_to("consistency")
    accomplices = range(1, THRESHOLD + 1) if arm is Arm.DROPPED else ()
    told = a_round.tell(accomplices)
    a_round.unmask_after(dict.fromkeys(KEPT, KEPT))
    short = plain_sum(a_round.session, a_round.vectors, KEPT)
    return a_round.staged(short, told=told)


def attack(view: Exchange) -> Vector:
    """Add up the inputs of the short list and take off what its clients, or accomplices, gave away."""
    kept = tuple(frame for frame in view.frames if frame.phase != "masked_input" or _is_kept(frame.sender))
    return read_sum(dataclasses.replace(view, frames=kept))


def _is_kept(sender: int | str) -> bool:
    return sender == "server" or sender in KEPT


CLAIM = Claim(
    id="T7c",
    title="A survivor list that is too short",
    adversary="malicious_server",
    asset="one client's vector",
    statement=(
        "No client helps to open a sum of fewer inputs, and so of fewer noise shares, than its policy names."
    ),
    defence="min_survivors of each client's own policy, checked before it signs",
    dropped_assumption="at most 2t − holders − 1 holders of each client's shares work with the server",
    view=Exchange,
    stage=stage,
    attack=attack,
    judge=coordinates_read,
    metric="share of the victim's coordinates read exactly",
    threshold=Threshold(succeeds=0.99, fails=0.01),
    source="integer_mechanism, section 6; this project",
    tags=Tags(stride=("Information disclosure",), linddun=("Data disclosure",)),
)
