"""The frames of a server that does not follow the protocol, well formed and rightly addressed.

All that is forged here a server could forge: it uses the frames that it saw, keys of its own and what
colluders tell it.  Functions that need more (a client's signing key) say so.

Not for anything but tests and claims.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from secure_fed_diffusion import secagg
from secure_fed_diffusion.secagg import codec, keys, masks, shamir
from secure_fed_diffusion.secagg.choice import MerkleTree, tree_of
from secure_fed_diffusion.secagg.messages import (
    Advert,
    AdvertList,
    Commitment,
    ConsistencyList,
    Result,
    ShareDelivery,
    Survivors,
    UnmaskShares,
)
from secure_fed_diffusion.secagg.phases import Kind
from secure_fed_diffusion.secagg.seal import SharePair
from secure_fed_diffusion.secagg.signing import SIGNATURE_BYTES
from threat_models.staging.secagg_round import Round, fixed_entropy, signing_key

HEADER = codec.HEADER_BYTES


def payload_of(a_round: Round, frame: codec.Buffer) -> memoryview:
    """What a client's frame carries, without header and signature."""
    payload = memoryview(frame)[HEADER:]
    return codec.split_signature(payload)[0] if a_round.session.params.signed else payload


def rewrapped(frame: bytes, payload: bytes) -> bytes:
    """The same header around another payload, its length corrected."""
    return frame[:10] + len(payload).to_bytes(8, "little") + frame[18:HEADER] + payload


def relabelled(frame: bytes, bound_to: bytes) -> bytes:
    """The same frame under the id of another session or round."""
    return frame[:18] + bound_to + frame[50:]


def round_id(a_round: Round) -> bytes:
    """The id of the round that the server has open."""
    return a_round.server._open().slot.id


def mask_publics_of(a_round: Round, number: int = 0) -> dict[int, bytes]:
    """Every client's public mask key of a round, which the server sees."""
    return {v: advert.mask_keys[number] for v, advert in a_round.server._setup._adverts.items()}


def mask_peers_of(a_round: Round, client_id: int) -> tuple[int, ...]:
    """Whom a client masks with, which the server knows."""
    return a_round.server._setup._graph.neighbours(client_id)


def committed_tree(a_round: Round, instead: Mapping[int, Advert] | None = None) -> MerkleTree:
    """The tree that the server committed to, with some of its adverts exchanged."""
    adverts = {**a_round.server._setup._adverts, **(instead or {})}
    return tree_of(a_round.session.cohort, {v: advert.encode() for v, advert in adverts.items()})


def survivor_frame(a_round: Round, client_id: int, ids: Iterable[int]) -> bytes:
    """Tell a client that these survived."""
    payload = Survivors.among(a_round.session.cohort, set(ids)).encode()
    return _in_round(a_round, Kind.SURVIVORS, client_id, payload)


def signature_of(a_round: Round, client_id: int, ids: Iterable[int], *, bound_to: bytes = b"") -> bytes:
    """What a colluding client gives the server for a survivor list of its choice."""
    return signing_key(client_id).sign(
        codec.signed_bytes(
            Kind.CONSISTENCY,
            session_id=bound_to or round_id(a_round),
            client_id=client_id,
            payload=Survivors.among(a_round.session.cohort, set(ids)).digest(),
        )
    )


def signature_in(frame: bytes) -> bytes:
    """The signature at the end of a client's frame."""
    return codec.split_signature(memoryview(frame)[HEADER:])[1]


def consistency_frame(a_round: Round, client_id: int, signatures: Mapping[int, bytes]) -> bytes:
    """Show a client these signatures over its survivor list."""
    payload = ConsistencyList(signatures=signatures).encode()
    return _in_round(a_round, Kind.CONSISTENCY_LIST, client_id, payload)


def adverts_of(a_round: Round, client_id: int) -> AdvertList:
    """What the server is about to give this client."""
    return AdvertList.decode(a_round.inbox[client_id][HEADER:], a_round.session.params)


def adverts_frame(
    a_round: Round, client_id: int, adverts: Mapping[int, Advert], proofs: Mapping[int, bytes] | None = None
) -> bytes:
    """Give a client these adverts, and what vouches for them."""
    payload = AdvertList(adverts=adverts, proofs=proofs or {}).encode(a_round.session.params)
    return codec.pack(Kind.ADVERT_LIST, session_id=a_round.session.id, client_id=client_id, payload=payload)


def commitment_frame(
    a_round: Round, client_id: int, present: Iterable[int], tree: MerkleTree | None = None
) -> bytes:
    """Tell a client that these advertised, under this tree's root (default: the server's)."""
    tree = tree or committed_tree(a_round)
    path = tree.path(a_round.session.graph.index(client_id))
    members = Survivors.among(a_round.session.cohort, set(present))
    payload = Commitment(root=tree.root, path=path, members=members).encode()
    return codec.pack(Kind.COMMITMENT, session_id=a_round.session.id, client_id=client_id, payload=payload)


def delivery_of(a_round: Round, client_id: int) -> ShareDelivery:
    """What the server is about to give this client."""
    return ShareDelivery.decode(a_round.inbox[client_id][HEADER:], a_round.session.params)


def delivery_frame(a_round: Round, client_id: int, delivery: ShareDelivery) -> bytes:
    """Give a client these sealed shares."""
    payload = delivery.encode(a_round.session.params)
    return _in_round(a_round, Kind.SHARE_DELIVERY, client_id, payload)


def result_frame(a_round: Round, client_id: int, total: np.ndarray, tag: int) -> bytes:
    """Show a client this total."""
    payload = Result(vector=total, tag=tag).encode(a_round.session.params)
    return _in_round(a_round, Kind.RESULT, client_id, bytes(payload))


def result_of(a_round: Round, client_id: int) -> Result:
    """The total that the server is about to show this client."""
    return Result.decode(memoryview(a_round.inbox[client_id])[HEADER:], a_round.session.params)


def unmask_shares_of(a_round: Round, frame: bytes) -> UnmaskShares:
    """The shares in a client's last answer."""
    return UnmaskShares.decode(payload_of(a_round, frame))


def masked_vector_of(a_round: Round, frame: bytes) -> np.ndarray:
    """A copy of the masked vector in a client's frame."""
    return Result.decode(payload_of(a_round, frame), a_round.session.params).vector.copy()


def shares_held_by(a_round: Round, client_ids: Iterable[int]) -> dict[int, dict[int, SharePair]]:
    """What colluding clients tell the server of the open round: shares by holder, then by owner."""
    return {v: dict(a_round.clients[v]._in_round().held) for v in client_ids}


def without_masks(
    a_round: Round,
    masked: np.ndarray,
    victim: int,
    *,
    mask_key: bytes,
    seed: bytes | None,
    publics: Mapping[int, bytes],
    slot_id: bytes,
) -> np.ndarray:
    """Take the masks off a vector, as whoever has these secrets of its client can; no seed, no self mask."""
    vector, private = masked.copy(), keys.PrivateKey(mask_key)
    minus, plus = [], []
    if seed is not None:
        minus.append(keys.self_mask_key(seed, slot_id=slot_id, client_id=victim).stream)
    for peer in mask_peers_of(a_round, victim):
        pair = keys.pair_mask_key(private, publics[peer], slot_id=slot_id, own_id=victim, peer_id=peer)
        (minus if peer > victim else plus).append(pair.stream)
    masks.apply(vector, plus=plus, minus=minus)
    return vector


def combined(shares: Mapping[int, int], threshold: int) -> bytes:
    """The 32-byte secret from the first `threshold` of these shares by holder."""
    first = dict(list(shares.items())[:threshold])
    return (shamir.combine(first, threshold=threshold) % 2**256).to_bytes(32, "little")


def fresh_advert(label: str) -> Advert:
    """An advert of keys that the server made."""
    draw = fixed_entropy(label)
    return Advert(cipher_key=keys.PrivateKey(draw(32)).public, mask_keys=(keys.PrivateKey(draw(32)).public,))


def advert_signature(a_round: Round, client_id: int, advert: Advert, key: secagg.SigningKey) -> bytes:
    """An advert's signature by a key of one's choice."""
    return key.sign(
        codec.signed_bytes(
            Kind.ADVERT, session_id=a_round.session.id, client_id=client_id, payload=advert.encode()
        )
    )


def signed_again(a_round: Round, client_id: int, frame: bytes, key: secagg.SigningKey) -> bytes:
    """The same frame of the open round, with whatever payload it has now, under a signature of this key."""
    payload = payload_of(a_round, frame)
    masked_with = a_round.clients[client_id]._round
    message = codec.signed_bytes(
        codec.peek_kind(frame),
        session_id=frame[18:HEADER],
        client_id=client_id,
        payload=payload,
        masked_with=masked_with.mask_publics.keys() if masked_with else (),
    )
    return frame[:HEADER] + bytes(payload) + key.sign(message)


def signed_payload(
    a_round: Round, client_id: int, frame: bytes, payload: codec.Buffer, key: secagg.SigningKey
) -> bytes:
    """Another payload under a client's header, signed with its key where the profile has signatures."""
    if not a_round.session.params.signed:
        return rewrapped(frame, bytes(payload))
    return signed_again(a_round, client_id, rewrapped(frame, bytes(payload) + bytes(SIGNATURE_BYTES)), key)


def _in_round(a_round: Round, kind: Kind, client_id: int, payload: bytes) -> bytes:
    return codec.pack(kind, session_id=round_id(a_round), client_id=client_id, payload=payload)
