"""The attack that most claims on the secure sum share: take off every mask that one has the means for.

It works from frames, from keys that the adversary made and from what its accomplices told it.  A self mask
goes with t shares of its seed; a pairwise mask goes with t shares of either end's key, with a private key
that the adversary holds, or with a public key of low order.  What is left is its best guess; with one mask
left over, that guess is uniform on the ring.

`read_input` is after one client's vector, `read_sum` after the sum over some clients less what accomplices
put in.  A peer library's transcript goes to its own reader and the same rules.

Not tried: breaking AES, X25519 or HKDF; a client's memory.

Source: Bonawitz et al., CCS 2017, section 4 (which secrets open what).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion.errors import FrameError
from secure_fed_diffusion.secagg import SecAggParams, codec, keys, masks, seal, shamir
from secure_fed_diffusion.secagg.encoding import reduce_in_place
from secure_fed_diffusion.secagg.messages import MaskedInput, ShareDelivery, Shares, UnmaskShares, proof_bytes
from secure_fed_diffusion.secagg.phases import Kind
from threat_models.adversaries.malicious_server import OURS, Exchange, Frame

Vector = npt.NDArray[np.uint64]
NOTHING: Vector = np.zeros(0, dtype=np.uint64)
"""The guess of an adversary that got no masked vector."""


def read_input(view: Exchange) -> Vector:
    """Return the best guess at the victim's vector."""
    if view.protocol != OURS:
        from threat_models.peers.flower_secagg_plus import read_input as read_peer

        return read_peer(view)
    return Knowledge(view).strip((view.victim,))


def read_sum(view: Exchange) -> Vector:
    """Return the best guess at the sum over all whose masked vectors are there, less the accomplices' own."""
    know = Knowledge(view)
    guess = know.strip(sorted(know.masked))
    ring = np.uint64(2**know.params.modulus_bits - 1)
    for v, vector in view.told_inputs.items():
        if v in know.masked and len(guess):
            guess = guess - vector.astype(np.uint64)
    return guess & ring


@dataclass(slots=True)
class Opened:
    """What is known of one client's two secrets: shares by holder."""

    mask_key: dict[int, int] = field(default_factory=dict)
    seed: dict[int, int] = field(default_factory=dict)


class Knowledge:
    """Everything that follows from a view of our own protocol."""

    def __init__(self, view: Exchange) -> None:
        if view.params is None:
            raise FrameError("a view of our protocol needs its parameters")
        self.view = view
        self.params: SecAggParams = view.params
        self.publics: dict[int, dict[int, tuple[bytes, ...]]] = {}  # as each client was told, then by peer
        self.own_publics: dict[int, tuple[bytes, ...]] = {}
        self.peers: dict[int, frozenset[int]] = {}
        self.masked: dict[int, tuple[bytes, Vector]] = {}  # round id, vector
        self.shares: dict[int, Opened] = {}
        for frame in view.frames:
            self._take(frame)
        for holder, by_owner in view.told.items():
            for owner, (mask_key, seed) in by_owner.items():
                self._opened(owner).mask_key[holder] = mask_key
                self._opened(owner).seed[holder] = seed

    def strip(self, client_ids: Iterable[int]) -> Vector:
        """Add the masked vectors of these clients and take off each mask that can be worked out."""
        chosen = [v for v in client_ids if v in self.masked]
        if not chosen:
            return NOTHING
        total = np.sum([self.masked[v][1] for v in chosen], axis=0, dtype=np.uint64)
        ring = np.ascontiguousarray(total, dtype=self.masked[chosen[0]][1].dtype)
        plus: list[bytes] = []
        minus: list[bytes] = []
        for v in chosen:
            slot_id = self.masked[v][0]
            if (seed := self._secret(self._opened(v).seed)) is not None:
                minus.append(keys.self_mask_key(seed, slot_id=slot_id, client_id=v).stream)
            for peer in self._masked_with(v):
                if peer in chosen and self.masked[peer][0] == slot_id:
                    continue  # the pair cancels in the sum
                if (stream := self._pair_stream(v, peer, slot_id)) is not None:
                    (minus if peer > v else plus).append(stream)
        masks.apply(ring, plus=plus, minus=minus)
        reduce_in_place(ring, self.params.modulus_bits)
        return ring.astype(np.uint64)

    def _masked_with(self, client_id: int) -> Iterator[int]:
        asked = self.view.participants
        yield from sorted(v for v in self.peers.get(client_id, ()) if not asked or v in asked)

    def _pair_stream(self, client_id: int, peer: int, slot_id: bytes) -> bytes | None:
        """Return the key of the mask between two clients, if either end or a bad point gives it away."""
        number = self.view.round
        peer_public = self.publics[client_id][peer][1 + number]
        context = struct.pack("<II", min(client_id, peer), max(client_id, peer))
        if _is_low_order(peer_public):
            return keys._mask_key(bytes(32), keys.LABEL_PAIR_MASK, slot_id, context).stream
        ends = (
            (client_id, self._secret(self._opened(client_id).mask_key), peer, peer_public),
            (peer, self._mask_secret(peer), client_id, self.own_publics[client_id][1 + number]),
        )
        for own, secret, other, public in ends:
            if secret is not None:
                private = keys.PrivateKey(secret)
                return keys.pair_mask_key(private, public, slot_id=slot_id, own_id=own, peer_id=other).stream
        return None

    def _mask_secret(self, client_id: int) -> bytes | None:
        if client_id in self.view.own_secrets:
            return self.view.own_secrets[client_id][1]
        return self._secret(self._opened(client_id).mask_key)

    def _secret(self, shares: dict[int, int]) -> bytes | None:
        threshold = self.view.threshold
        if len(shares) < threshold:
            return None
        first = dict(list(shares.items())[:threshold])
        return (shamir.combine(first, threshold=threshold) % 2**256).to_bytes(32, "little")

    def _opened(self, owner: int) -> Opened:
        return self.shares.setdefault(owner, Opened())

    def _take(self, frame: Frame) -> None:
        kind, payload = self._payload(frame)
        if isinstance(frame.sender, int):
            self._take_from_client(frame.sender, frame, kind, payload)
        elif isinstance(frame.receiver, int):
            self._take_from_server(frame.receiver, kind, payload)

    def _take_from_client(self, sender: int, frame: Frame, kind: Kind, payload: memoryview) -> None:
        if kind is Kind.ADVERT:
            self.own_publics[sender] = tuple(
                bytes(payload[i : i + keys.KEY_BYTES]) for i in range(0, len(payload), keys.KEY_BYTES)
            )
        elif kind is Kind.SHARES:
            self._open_sealed(sender, Shares.decode(payload, self.params))
        elif kind is Kind.MASKED_INPUT and frame.round == self.view.round:
            vector = MaskedInput.decode(payload, self.params).vector
            self.masked[sender] = (bytes(frame.content[18 : codec.HEADER_BYTES]), vector.copy())
        elif kind is Kind.UNMASK_SHARES and frame.round == self.view.round:
            shares = UnmaskShares.decode(payload)
            for owner, share in shares.self_mask.items():
                self._opened(owner).seed[sender] = share
            for owner, share in shares.mask_key.items():
                self._opened(owner).mask_key[sender] = share

    def _take_from_server(self, receiver: int, kind: Kind, payload: memoryview) -> None:
        if kind is Kind.ADVERT_LIST:  # read by hand: a decoder would refuse what some servers put in
            width = keys.KEY_BYTES * (1 + self.params.n_rounds)
            rows = codec.Reader(payload).table(width=width + proof_bytes(self.params))
            self.publics[receiver] = {
                v: tuple(row[i : i + keys.KEY_BYTES] for i in range(0, width, keys.KEY_BYTES))
                for v, row in rows.items()
            }
        elif kind is Kind.SHARE_DELIVERY and receiver not in self.peers:
            delivery = ShareDelivery.decode(payload, self.params)
            self.peers[receiver] = frozenset(delivery.sealed) | frozenset(delivery.masks_only)

    def _open_sealed(self, sender: int, shares: Shares) -> None:
        """Open what was sealed under a key of the adversary's, or under a point of low order."""
        for peer, sealed in shares.sealed.items():
            key = self._opening_key(sender, peer)
            if key is None:
                continue
            opened = seal.unseal(
                key,
                sealed,
                session_id=self.view.session_id,
                sender=sender,
                receiver=peer,
                n_rounds=self.params.n_rounds,
            )
            pair = opened.pairs[self.view.round]
            self._opened(sender).mask_key[peer] = pair.mask_key
            self._opened(sender).seed[peer] = pair.self_mask

    def _opening_key(self, sender: int, peer: int) -> bytes | None:
        public = self.publics[sender][peer][0]
        if _is_low_order(public):
            return zero_seal_keys(sender, peer, session_id=self.view.session_id)[0]
        if peer not in self.view.own_secrets:
            return None
        _, from_sender = keys.seal_keys(
            keys.PrivateKey(self.view.own_secrets[peer][0]),
            self.own_publics[sender][0],
            session_id=self.view.session_id,
            own_id=peer,
            peer_id=sender,
        )
        return from_sender

    def _payload(self, frame: Frame) -> tuple[Kind, memoryview]:
        payload = memoryview(frame.content)[codec.HEADER_BYTES :]
        if self.params.signed and isinstance(frame.sender, int):
            payload = codec.split_signature(payload)[0]
        return codec.peek_kind(frame.content), payload


def zero_seal_keys(own_id: int, peer_id: int, *, session_id: bytes) -> tuple[bytes, bytes]:
    """Return the sealing keys (to the peer, from the peer) that follow from a shared secret of zero."""
    context = struct.pack("<II", min(own_id, peer_id), max(own_id, peer_id))
    both = keys.derive(
        bytes(32), label=keys.LABEL_SEAL, session_id=session_id, context=context, n_bytes=2 * keys.KEY_BYTES
    )
    upwards, downwards = both[: keys.KEY_BYTES], both[keys.KEY_BYTES :]
    return (upwards, downwards) if own_id < peer_id else (downwards, upwards)


def _is_low_order(public: bytes) -> bool:
    return int.from_bytes(public, "little") in keys._LOW_ORDER
