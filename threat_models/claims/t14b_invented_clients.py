"""T14b: a server that fills the cohort with clients of its own, and subtracts what it put in.

Off is the profile semi_honest, which has no roster: any ids may stand in a cohort.  Under `active` a client
takes part only with institutions that its roster lists.  Dropped: the server's own clients were enrolled.
"""

from __future__ import annotations

import numpy as np

from secure_fed_diffusion import secagg
from secure_fed_diffusion.errors import ConfigError
from threat_models.adversaries.malicious_server import OURS, Exchange
from threat_models.claim import Arm, Claim, Staged, Tags, Threshold
from threat_models.staging.reading import read_sum
from threat_models.staging.recorded_round import VICTIM, RecordedRound, Refusal, Truth, coordinates_read
from threat_models.staging.secagg_round import make_params, make_roster, make_session, make_vectors

N_CLIENTS = 5
ENROLLED = (VICTIM, 10, 11, 12, 13)  # the institutions whose keys the victim pinned
INVENTED = (1, 2, 3, 4)


def stage(arm: Arm, seed: int) -> Staged[Exchange]:
    """Ask the victim into a cohort whose other members are all the server's."""
    case = "semi_honest" if arm is Arm.OFF else "active"
    roster = {Arm.ON: make_roster(ENROLLED), Arm.DROPPED: make_roster((*ENROLLED, *INVENTED))}.get(arm)
    try:
        a_round = RecordedRound.of_seed(case, seed, roster=roster, policy=secagg.Policy())
    except ConfigError as error:  # the victim has no key for these members: it makes no session
        return _refused(seed, error)
    a_round.finish()
    inputs = {v: a_round.vectors[v].astype(np.uint64) for v in INVENTED}
    return a_round.staged(told_inputs=inputs)


def _refused(seed: int, error: ConfigError) -> Staged[Exchange]:
    params = make_params(N_CLIENTS, 4, dimension=64)
    vector = make_vectors(make_session(params), seed)[VICTIM].astype(np.uint64)
    refusal = Refusal(VICTIM, "advertise", type(error).__name__, str(error), ())
    view = Exchange(protocol=OURS, victim=VICTIM, threshold=params.threshold, frames=(), params=params)
    return Staged(view, Truth(vector, (refusal,)))


CLAIM = Claim(
    id="T14b",
    title="Invented clients",
    adversary="malicious_server",
    asset="one client's vector",
    statement=("A server cannot fill a cohort with clients that the institutions did not enrol."),
    defence="a pinned roster: no session with a member that it does not list",
    dropped_assumption="each entry of the roster is an institution of its own (no Sybils were enrolled)",
    view=Exchange,
    stage=stage,
    attack=read_sum,
    judge=coordinates_read,
    metric="share of the victim's coordinates read exactly",
    threshold=Threshold(succeeds=0.99, fails=0.01),
    source="Douceur, IPTPS 2002; threats_and_audit, T14",
    tags=Tags(stride=("Spoofing", "Information disclosure"), linddun=("Data disclosure",)),
)
