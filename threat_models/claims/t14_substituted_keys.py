"""T14: the server in the middle, which gives the victim keys of its own for every peer.

It opens the shares, seals shares of its own for the victim, and takes every mask off the one vector.  Under
`active` adverts are signed by keys on a roster that each client pinned.  Dropped: the roster was the server's
when it was pinned.
"""

from __future__ import annotations

from contextlib import nullcontext

from secure_fed_diffusion import secagg
from threat_models.adversaries.malicious_server import Exchange
from threat_models.claim import Arm, Claim, Staged, Tags, Threshold
from threat_models.peers import flower_secagg_plus as flower
from threat_models.staging.middle import own_keys, own_signer, play_every_peer
from threat_models.staging.reading import read_input
from threat_models.staging.recorded_round import VICTIM, RecordedRound, coordinates_read
from threat_models.staging.secagg_round import signing_key
from threat_models.weakened.keys_and_lists import without_signatures
from threat_models.weakened.patching import without

PEERS = (1, 2, 3, 4)


def stage(arm: Arm, seed: int) -> Staged[Exchange]:
    """Play every peer, under signatures of the server's own keys."""
    roster = None
    if arm is Arm.DROPPED:
        mine = {v: own_signer(v).public for v in PEERS}
        roster = secagg.Roster({VICTIM: signing_key(VICTIM).public, **mine})
    with without(without_signatures) if arm is Arm.OFF else nullcontext():
        a_round = RecordedRound.of_seed("active", seed, real=(VICTIM,), roster=roster)
        secrets = own_keys(PEERS, seed)
        play_every_peer(a_round, secrets=secrets)
        return a_round.staged(own_secrets=secrets)


CLAIM = Claim(
    id="T14",
    title="The server in the middle",
    adversary="malicious_server",
    asset="one client's vector",
    statement=("A server cannot put keys of its own in the place of a client's."),
    defence="adverts signed under a roster of public keys that each client pinned",
    dropped_assumption="the roster was the true one when it was pinned",
    view=Exchange,
    stage=stage,
    attack=read_input,
    judge=coordinates_read,
    metric="share of the victim's coordinates read exactly",
    threshold=Threshold(succeeds=0.99, fails=0.01),
    source="Bonawitz et al., CCS 2017, section 6.2; threats_and_audit, T14",
    tags=Tags(stride=("Spoofing", "Information disclosure"), linddun=("Data disclosure",)),
    peers={flower.NAME: flower.substituted_keys},
)
