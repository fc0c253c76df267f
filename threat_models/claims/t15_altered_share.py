"""T15: a network that alters what one client sealed for another.

One byte of one sealed share is flipped on its way to every client.  Each receiver refuses it and names the
client whose share does not open.  Dropped: that client is on the attacker's side and seals a false share
itself, which nobody can tell before it is needed (T15b says what comes of it then).
"""

from __future__ import annotations

from contextlib import nullcontext

from secure_fed_diffusion.secagg import keys, seal
from secure_fed_diffusion.secagg.messages import ShareDelivery
from secure_fed_diffusion.secagg.phases import FAILED
from threat_models.adversaries.network import Refusals
from threat_models.claim import Arm, Claim, Counts, Staged, Tags, Threshold
from threat_models.staging import forging
from threat_models.staging.recorded_round import RecordedRound
from threat_models.weakened.keys_and_lists import without_authentication_of_sealed_shares
from threat_models.weakened.patching import without

N_CLIENTS, THRESHOLD = 15, 9


def stage(arm: Arm, seed: int) -> Staged[Refusals]:
    """Alter the share that client v+1 sealed for client v, for every v; the truth is who was named."""
    with without(without_authentication_of_sealed_shares) if arm is Arm.OFF else nullcontext():
        a_round = RecordedRound.of_seed("active", seed, n_clients=N_CLIENTS, threshold=THRESHOLD)
        a_round.run_to("share_keys")
        publics = {v: client._setup._own_advert().cipher_key for v, client in a_round.clients.items()}
        rings = {v: client._setup.keyring.cipher_key for v, client in a_round.clients.items()}
        a_round.run_to("masked_input")
        accepted = []
        for v in a_round.session.cohort:
            owner = (v + 1) % N_CLIENTS
            sealed = dict(forging.delivery_of(a_round, v).sealed)
            if arm is Arm.DROPPED:
                sealed[owner] = _sealed_again(a_round, owner, v, rings[owner], publics[v])
            else:
                place = seed % len(sealed[owner])
                flipped = bytes([sealed[owner][place] ^ 1])
                sealed[owner] = sealed[owner][:place] + flipped + sealed[owner][place + 1 :]
            a_round.ask(v, "masked_input", forging.delivery_frame(a_round, v, ShareDelivery(sealed=sealed)))
            accepted.append(a_round.clients[v].phase != FAILED)
        return Staged(Refusals(accepted=tuple(accepted)), tuple(a_round.refusals))


def _sealed_again(a_round: RecordedRound, owner: int, holder: int, cipher_key: bytes, public: bytes) -> bytes:
    """Seal shares of nothing, as their owner can."""
    session_id = a_round.session.id
    to_holder, _ = keys.seal_keys(
        keys.PrivateKey(cipher_key), public, session_id=session_id, own_id=owner, peer_id=holder
    )
    false = seal.Entrusted((seal.SharePair(1, 2),))
    return seal.seal(to_holder, false, session_id=session_id, sender=owner, receiver=holder)


def attack(view: Refusals) -> tuple[bool, ...]:
    """Which of the altered shares were taken for good."""
    return view.accepted


def judge(guess: tuple[bool, ...], truth: object) -> Counts:
    """How many of how many."""
    return Counts(sum(guess), len(guess))


CLAIM = Claim(
    id="T15",
    title="A sealed share altered on its way",
    adversary="network",
    asset="the shares that the sum is opened with",
    statement="A sealed share that was altered on its way is refused, and its sealer is named.",
    defence="AES-256-GCM over the share, its session, sender and receiver",
    dropped_assumption="the client that sealed the share does not work for the attacker",
    view=Refusals,
    stage=stage,
    attack=attack,
    judge=judge,
    metric="altered shares taken for good",
    threshold=Threshold(succeeds=0.9, fails=0.1),
    source="secure_aggregation, section 2, weakness 10; threats_and_audit, T15",
    tags=Tags(stride=("Tampering",)),
)
