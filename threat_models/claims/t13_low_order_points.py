"""T13: a server that puts points of low order in the place of the peers' public keys.

Every key that is agreed with such a point follows from a secret of zero, so the server opens the sealed
shares and draws the masks itself.  The client refuses the points on sight.  The third arm is the profile
semi_honest, in which keys are not signed, and a server that substitutes sound keys of its own.
"""

from __future__ import annotations

from contextlib import nullcontext

from secure_fed_diffusion.secagg import keys
from secure_fed_diffusion.secagg.messages import Advert
from threat_models.adversaries.malicious_server import Exchange
from threat_models.claim import Arm, Claim, Staged, Tags, Threshold
from threat_models.staging.middle import own_keys, play_every_peer
from threat_models.staging.reading import read_input
from threat_models.staging.recorded_round import VICTIM, RecordedRound, coordinates_read
from threat_models.weakened.keys_and_lists import without_the_check_of_points
from threat_models.weakened.patching import without

LOW_ORDER = tuple(u.to_bytes(32, "little") for u in sorted(keys._LOW_ORDER))
PEERS = (1, 2)


def stage(arm: Arm, seed: int) -> Staged[Exchange]:
    """Give the victim bad points, or sound keys of the server's own, and go on as long as it does."""
    with without(without_the_check_of_points) if arm is Arm.OFF else nullcontext():
        a_round = RecordedRound.of_seed("semi_honest", seed, n_clients=3, threshold=2, real=(VICTIM,))
        if arm is Arm.DROPPED:
            secrets = own_keys(PEERS, seed)
            play_every_peer(a_round, secrets=secrets)
            return a_round.staged(own_secrets=secrets)
        points = {v: Advert(cipher_key=LOW_ORDER[v], mask_keys=(LOW_ORDER[v + 2],)) for v in PEERS}
        play_every_peer(a_round, adverts=points)
        return a_round.staged()


CLAIM = Claim(
    id="T13",
    title="Points of low order",
    adversary="malicious_server",
    asset="one client's vector",
    statement=(
        "A public key that leaves no secret to agree on is refused before anything is sealed under it."
    ),
    defence="refusal of points of low order and of encodings that are not canonical",
    dropped_assumption="the keys are the peers' own (profile active signs them, semi_honest does not)",
    view=Exchange,
    stage=stage,
    attack=read_input,
    judge=coordinates_read,
    metric="share of the victim's coordinates read exactly",
    threshold=Threshold(succeeds=0.99, fails=0.01),
    source="RFC 7748, section 6.1; threats_and_audit, T13",
    tags=Tags(stride=("Spoofing", "Information disclosure"), linddun=("Data disclosure",)),
)
