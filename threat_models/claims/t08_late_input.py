"""T8: an input that arrives after its client was declared dropped, when everyone has given out its mask key.

The pairwise masks of a dropped client are public to the server by design; the self mask is what keeps a late
vector closed, and no honest holder gives out its seed once it has counted the client as dropped.
"""

from __future__ import annotations

from contextlib import nullcontext

from threat_models.adversaries.malicious_server import Exchange
from threat_models.claim import Arm, Claim, Staged, Tags, Threshold
from threat_models.staging.reading import read_input
from threat_models.staging.recorded_round import VICTIM, RecordedRound, coordinates_read
from threat_models.weakened.masks_and_seeds import without_self_masks
from threat_models.weakened.patching import without

N_CLIENTS, THRESHOLD = 7, 5


def stage(arm: Arm, seed: int) -> Staged[Exchange]:
    """Hold the victim's masked input back until the others have unmasked without it."""
    with without(without_self_masks) if arm is Arm.OFF else nullcontext():
        a_round = RecordedRound.of_seed("active", seed, n_clients=N_CLIENTS, threshold=THRESHOLD)
        a_round.run_to("masked_input")
        frames = a_round.answers()  # the victim's too: it is on the wire, and late
        told = a_round.tell(range(1, THRESHOLD + 1) if arm is Arm.DROPPED else ())
        del frames[VICTIM]
        a_round.close(frames)
        a_round.finish()
        return a_round.staged(told=told)


CLAIM = Claim(
    id="T8",
    title="An input that comes late",
    adversary="malicious_server",
    asset="one client's vector",
    statement=("A vector that arrives after its client was counted as dropped stays closed."),
    defence="a self mask under the pairwise ones",
    dropped_assumption="at most 2t − holders − 1 holders of the victim's shares work with the server",
    view=Exchange,
    stage=stage,
    attack=read_input,
    judge=coordinates_read,
    metric="share of the victim's coordinates read exactly",
    threshold=Threshold(succeeds=0.99, fails=0.01),
    source="Bonawitz et al., CCS 2017, section 4.0.3; threats_and_audit, T8",
    tags=Tags(stride=("Information disclosure",), linddun=("Data disclosure",)),
)
