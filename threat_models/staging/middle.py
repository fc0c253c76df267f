"""A server that plays every peer of one client: it answers for them with keys or points of its own choice.

Only the victim is a real client; nothing here needs a secret of anyone else.

Not for anything but claims.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256

from secure_fed_diffusion import secagg
from secure_fed_diffusion.secagg import choice, codec, keys, seal
from secure_fed_diffusion.secagg.messages import Advert, ShareDelivery
from secure_fed_diffusion.secagg.phases import Kind
from secure_fed_diffusion.secagg.session import NO_COMMITMENT
from threat_models.staging import forging
from threat_models.staging.reading import zero_seal_keys
from threat_models.staging.recorded_round import VICTIM, RecordedRound
from threat_models.staging.secagg_round import fixed_entropy

FILLER = seal.Entrusted((seal.SharePair(1, 2),))
"""Shares of nothing: the victim keeps them unread."""


def own_signer(client_id: int) -> secagg.SigningKey:
    """Return the server's own signing key for a client that it plays."""
    return secagg.SigningKey(sha256(f"the server as {client_id}".encode()).digest())


def own_keys(client_ids: Iterable[int], seed: int) -> dict[int, tuple[bytes, bytes]]:
    """Return private keys that the server made, (sealing, masking) by the client that it plays."""
    draw = fixed_entropy(f"middle {seed}")
    return {v: (draw(keys.KEY_BYTES), draw(keys.KEY_BYTES)) for v in client_ids}


def play_every_peer(
    a_round: RecordedRound,
    *,
    secrets: Mapping[int, tuple[bytes, bytes]] | None = None,
    adverts: Mapping[int, Advert] | None = None,
) -> None:
    """Take the victim through set-up and masked input as all its peers, as far as it goes along.

    With `secrets` the server knows the private halves; bare `adverts` are points of low order.
    """
    advert = a_round.ask(VICTIM, "advertise", b"")
    shown = dict(adverts or {}) or {
        v: Advert(cipher_key=keys.PrivateKey(sealing).public, mask_keys=(keys.PrivateKey(masking).public,))
        for v, (sealing, masking) in (secrets or {}).items()
    }
    signed = a_round.session.params.signed
    proofs = {
        v: forging.advert_signature(a_round, v, one, own_signer(v)) for v, one in shown.items() if signed
    }
    shares = a_round.ask(VICTIM, "share_keys", forging.adverts_frame(a_round, VICTIM, shown, proofs))
    if advert is None or shares is None:
        return
    victim_public = bytes(forging.payload_of(a_round, advert))[: keys.KEY_BYTES]
    sealed = {}
    for v in shown:
        to_victim = _key_to_victim(a_round, v, victim_public, secrets)
        sealed[v] = seal.seal(to_victim, FILLER, session_id=a_round.session.id, sender=v, receiver=VICTIM)
    payload = ShareDelivery(sealed=sealed).encode(a_round.session.params)
    known = {VICTIM: bytes(forging.payload_of(a_round, advert)), **{v: a.encode() for v, a in shown.items()}}
    bound_to = choice.tree_of(a_round.session.cohort, known).root if signed else NO_COMMITMENT
    slot_id = a_round.session.slot(commitment=bound_to).id
    frame = codec.pack(Kind.SHARE_DELIVERY, session_id=slot_id, client_id=VICTIM, payload=payload)
    a_round.ask(VICTIM, "masked_input", frame)


def _key_to_victim(
    a_round: RecordedRound, peer: int, victim_public: bytes, secrets: Mapping[int, tuple[bytes, bytes]] | None
) -> bytes:
    session_id = a_round.session.id
    if secrets is None:
        return zero_seal_keys(peer, VICTIM, session_id=session_id)[0]
    private = keys.PrivateKey(secrets[peer][0])
    return keys.seal_keys(private, victim_public, session_id=session_id, own_id=peer, peer_id=VICTIM)[0]
