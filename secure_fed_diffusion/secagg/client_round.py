"""One round at one client: mask, agree on the survivors, unmask, and check what comes out.

Holds what the round alone needs, taken off the keyring for good: the client's own two secrets until
the masked input is made, then the shares of others until one list of survivors is answered.  `Client`
frames, signs and orders the steps; nothing here looks at a frame's header.

Guarantees: shares leave the object before the reply is built; which kind is revealed follows from one
survivor list, as its complement; under `active` from a list that at least `threshold` holders signed.

Not protected against: the caller running two copies of it (see `Client.snapshot`).

Source: Bonawitz et al., CCS 2017, figure 4, rounds 2 to 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import (
    FrameError,
    PhaseError,
    PolicyError,
    TooFewClientsError,
    VerificationError,
)
from . import codec, keys, masks
from .encoding import RingVector, centred, reduce_in_place
from .keyring import RoundSecrets, shares_from_dict, shares_to_dict
from .messages import Consistency, ConsistencyList, MaskedInput, Result, Survivors, UnmaskShares
from .phases import Kind
from .policy import Policy
from .seal import SharePair
from .session import Session, Slot
from .tag import PRIME, TagKey, wide


@dataclass(slots=True, kw_only=True, repr=False)
class ClientRound:
    """One round's state; `held` are shares by owner, `holders` who holds this client's own."""

    session: Session
    slot: Slot
    client_id: int
    policy: Policy
    mask_publics: Mapping[int, bytes]
    holders: frozenset[int]
    held: dict[int, SharePair]
    own: RoundSecrets | None = None
    tag_key: TagKey | None = None
    survivors: Survivors | None = None

    def masked_input(self, masked: RingVector) -> codec.Buffer:
        """Mask a vector of the ring in place, and its tag where sums are verifiable; the masks are used."""
        params = self.session.params
        tag = 0 if self.tag_key is None else self._tag(masked)
        own, self.own = self.own, None
        if own is None:
            raise PhaseError("this round's masks are used or burned")
        mask_key = keys.PrivateKey(own.mask_key)
        pair_keys = {
            peer: keys.pair_mask_key(
                mask_key, public, slot_id=self.slot.id, own_id=self.client_id, peer_id=peer
            )
            for peer, public in self.mask_publics.items()
        }
        # The lower id adds, the higher one subtracts: the pair cancels in the sum.
        plus = [key for peer, key in pair_keys.items() if peer > self.client_id]
        plus.append(keys.self_mask_key(own.seed, slot_id=self.slot.id, client_id=self.client_id))
        minus = [key for peer, key in pair_keys.items() if peer < self.client_id]
        masks.apply(masked, plus=[key.stream for key in plus], minus=[key.stream for key in minus])
        reduce_in_place(masked, params.modulus_bits)
        if self.tag_key is not None:
            tag = (tag + sum(wide(key.tag) for key in plus) - sum(wide(key.tag) for key in minus)) % PRIME
        return MaskedInput(vector=masked, tag=tag).encode(params)

    def consistency(self, payload: memoryview) -> bytes:
        """Check the survivor list and return its digest, to be signed."""
        self.survivors = self._check(Survivors.decode(payload, self.session.params.n_clients))
        return Consistency(digest=self.survivors.digest()).encode()

    def unmask(self, payload: memoryview) -> bytes:
        """Reveal one share for each client that shared: its self mask's if it survived, else its key's."""
        held, self.held = self.held, {}
        if self.session.roster is None:
            self.survivors = self._check(Survivors.decode(payload, self.session.params.n_clients))
        else:
            self._check_signatures(ConsistencyList.decode(payload).signatures)
        survivors = self._known_survivors()
        return UnmaskShares(
            self_mask={owner: pair.self_mask for owner, pair in held.items() if owner in survivors},
            mask_key={owner: pair.mask_key for owner, pair in held.items() if owner not in survivors},
        ).encode()

    def verify(self, payload: memoryview) -> RingVector:
        """Return the total that the server shows, if its tag is that of the survivors' sum."""
        params = self.session.params
        shown = Result.decode(payload, params)
        if self.tag_key is None or self.survivors is None:
            raise PhaseError("this round's total cannot be checked")
        total = centred(shown.vector, params.modulus_bits)
        tag_key, self.tag_key = self.tag_key, None
        if not tag_key.accepts(total, sorted(self._ids(self.survivors)), shown.tag):
            raise VerificationError(
                "the total that the server shows is not the sum of the announced survivors' inputs: the "
                "server, or a client that sent a false tag"
            )
        return shown.vector.copy()  # not a view of the transport's buffer

    def _tag(self, vector: RingVector) -> int:
        """Return the tag of this client's own integers, before any mask."""
        if self.tag_key is None:
            raise PhaseError("this round has no tags")
        return self.tag_key.tag(self.client_id, centred(vector, self.session.params.modulus_bits))

    def _check(self, survivors: Survivors) -> Survivors:
        """Refuse a survivor list outside this client's policy, or one whose sum would come in pieces."""
        ids = self._ids(survivors)
        self.policy.check_survivors(len(ids))
        if self.client_id not in ids:
            raise PolicyError("the survivor list leaves out this client, whose input was delivered")
        strangers = sorted(ids - set(self.slot.participants))
        if strangers:
            raise PolicyError(f"the survivor list names clients that were not asked: {strangers}")
        masked_with = self.mask_publics.keys()
        if not self.session.params.client_chosen_graph:
            neighbours = set(self.session.graph.neighbours(self.client_id))
            silent = sorted(ids & neighbours - masked_with)
            if silent:
                raise PolicyError(f"the survivor list names clients that shared no keys: {silent}")
            if not self.session.graph.is_connected(survivors.present):
                raise TooFewClientsError("the survivors' graph fell apart: partial sums would be readable")
        self._require_holders(len(ids & self.holders), "survived")
        return survivors

    def _check_signatures(self, signatures: Mapping[int, bytes]) -> None:
        """Insist that at least `threshold` holders signed the list that this client signed."""
        survivors = self._known_survivors()
        roster = self.session.roster
        if self.survivors is None or roster is None:
            raise PhaseError("this client has signed no survivor list")
        for signatory, signature in signatures.items():
            signed = codec.signed_bytes(
                Kind.CONSISTENCY,
                session_id=self.slot.id,
                client_id=signatory,
                payload=self.survivors.digest(),
            )
            if signatory not in survivors or not roster.verify(signatory, signed, signature):
                raise FrameError(f"client {signatory} did not sign the survivor list that this client saw")
        self._require_holders(len(signatures.keys() & self.holders), "signed the survivor list")

    def _known_survivors(self) -> frozenset[int]:
        if self.survivors is None:
            raise PhaseError("this client knows no survivor list")
        return self._ids(self.survivors)

    def _ids(self, survivors: Survivors) -> frozenset[int]:
        here = zip(self.session.cohort, survivors.present, strict=True)
        return frozenset(v for v, present in here if present)

    def _require_holders(self, n_holders: int, what: str) -> None:
        threshold = self.session.params.threshold
        if n_holders < threshold:
            raise TooFewClientsError(
                f"client {self.client_id}: expected threshold={threshold} holders, {n_holders} {what}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return what a snapshot needs, as JSON types: as secret as a private key.

        The own secrets are left out: they are used once a round exists.
        """
        return {
            "mask_publics": {peer: public.hex() for peer, public in self.mask_publics.items()},
            "holders": sorted(self.holders),
            "held": shares_to_dict(self.held),
            "tag_key": None if self.tag_key is None else self.tag_key.secret.hex(),
            "survivors": None if self.survivors is None else self.survivors.encode().hex(),
        }

    @classmethod
    def from_dict(
        cls, saved: Mapping[str, Any], *, session: Session, slot: Slot, client_id: int, policy: Policy
    ) -> ClientRound:
        """Return the round that `to_dict` wrote."""
        tag_key, survivors = saved["tag_key"], saved["survivors"]
        return cls(
            session=session,
            slot=slot,
            client_id=client_id,
            policy=policy,
            mask_publics={int(peer): bytes.fromhex(public) for peer, public in saved["mask_publics"].items()},
            holders=frozenset(saved["holders"]),
            held=shares_from_dict(saved["held"]),
            tag_key=None if tag_key is None else TagKey(bytes.fromhex(tag_key), slot.id),
            survivors=None
            if survivors is None
            else Survivors.decode(bytes.fromhex(survivors), session.params.n_clients),
        )
