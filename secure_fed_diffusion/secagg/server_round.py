"""One round at the server: add up masked inputs, agree on the survivors, take the masks off.

It streams: a masked input is added to one accumulator as it comes, and dropped.  Which secrets the sum
needs follows from who shared keys and whose input came: the self mask of each survivor, the pairwise
masks of everyone who shared and sent nothing.

Guarantees: at most one kind of share is asked for of any client; every recovered secret is checked
against what its owner published; the total is exact, or an error is raised.

Not protected against: false inputs.

Source: Bonawitz et al., CCS 2017, figure 4, rounds 2 to 4.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import FrameError, TooFewClientsError
from . import codec, keys, masks
from .encoding import RingVector, reduce_in_place, ring_dtype
from .graph import AnyGraph
from .messages import Advert, ConsistencyList, MaskedInput, Result, Shares, Survivors, UnmaskShares
from .phases import Kind, Step
from .recovery import Recovery
from .session import Session, Slot
from .tag import PRIME, wide

_NAMED_AT_MOST = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySetup:
    """What the set-up left: the graph, the adverts, the shares, and who of the participants shared."""

    session: Session
    graph: AnyGraph
    adverts: Mapping[int, Advert]
    shares: Mapping[int, Shares]
    sharers: frozenset[int]
    recovery: Recovery


class ServerRound:
    """One round's state; `inputs` are the clients whose vectors are in the accumulator."""

    def __init__(self, setup: KeySetup, slot: Slot) -> None:
        params = setup.session.params
        self.slot = slot
        self.inputs: set[int] = set()
        self._setup = setup
        self._params = params
        self._accumulator: RingVector = np.zeros(params.dimension, dtype=ring_dtype(params.modulus_bits))
        self._tag = 0
        self._signatures: dict[int, bytes] = {}
        self._unmask_shares: dict[int, UnmaskShares] = {}

    @property
    def total(self) -> RingVector:
        """The accumulator, to be read alone: the sum, once the masks are off."""
        total = self._accumulator.view()
        total.flags.writeable = False
        return total

    def heard(self, phase: str) -> Collection[int]:
        """The clients whose frame of this phase was taken."""
        by_phase: dict[str, Collection[int]] = {
            "masked_input": self.inputs,
            "consistency": self._signatures,
            "unmask": self._unmask_shares,
        }
        return by_phase.get(phase, ())

    def masked_with(self, client_id: int) -> frozenset[int]:
        """The clients that this one shares a mask with, if it was given the shares that were sent to it."""
        return self._setup.sharers.intersection(self._setup.graph.neighbours(client_id))

    def take(self, step: Step, client_id: int, payload: memoryview, signature: bytes) -> None:
        """Take one client's answer: check everything, then change the state in one go."""
        if step.sends is Kind.MASKED_INPUT:
            masked = MaskedInput.decode(payload, self._params)
            self._accumulator += masked.vector
            self._tag = (self._tag + masked.tag) % PRIME
            self.inputs.add(client_id)
        elif step.sends is Kind.CONSISTENCY:
            if payload != self._survivors().digest():
                raise FrameError("the client signed another survivor list")
            self._signatures[client_id] = signature
        else:
            shares = UnmaskShares.decode(payload)
            owners = self._setup.sharers.intersection(self._setup.graph.wards(client_id))
            of_survivors, of_dropped = owners & self.inputs, owners - self.inputs
            if shares.self_mask.keys() != of_survivors or shares.mask_key.keys() != of_dropped:
                raise FrameError("expected one share for each client that shared with it, of the kind due")
            self._unmask_shares[client_id] = shares

    def close(self, step: Step, silent: frozenset[int]) -> dict[int, bytes]:
        """Close a phase; return the frames that open the next."""
        if step.phase == "masked_input":
            return self._close_masked_input(step, silent)
        if step.phase == "consistency":
            return self._close_consistency(silent)
        return self._close_unmask(silent)

    def _close_masked_input(self, step: Step, silent: frozenset[int]) -> dict[int, bytes]:
        if step.receives is None:  # profile unsafe_unmasked: there is nothing to take off
            require_enough(self._setup.session, "masked_input", len(self.inputs), silent)
            reduce_in_place(self._accumulator, self._params.modulus_bits)
            return {}
        survivors = frozenset(self.inputs)
        self._require_recoverable("masked_input", survivors, silent)
        require_connected(self._setup.session, self._setup.graph, "masked_input", survivors, silent)
        payload = self._survivors().encode()
        return {v: self._pack(Kind.SURVIVORS, v, payload) for v in sorted(survivors)}

    def _close_consistency(self, silent: frozenset[int]) -> dict[int, bytes]:
        """Give each client that signed the signatures of the holders of its shares."""
        signed = frozenset(self._signatures)
        self._require_recoverable("consistency", signed, silent)
        frames = {}
        for v in sorted(signed):
            holders = signed.intersection(self._setup.graph.holders(v))
            listed = ConsistencyList(signatures={u: self._signatures[u] for u in holders})
            frames[v] = self._pack(Kind.CONSISTENCY_LIST, v, listed.encode())
        return frames

    def _close_unmask(self, silent: frozenset[int]) -> dict[int, bytes]:
        replied = frozenset(self._unmask_shares)
        owners = self._require_recoverable("unmask", replied, silent)
        plus: list[keys.MaskKey] = []
        minus: list[keys.MaskKey] = []
        for owner in owners:
            if owner in self.inputs:
                minus.append(self._self_mask_key(owner))
                continue
            mask_key = self._mask_key(owner)
            for peer in sorted(self.inputs.intersection(self._setup.graph.neighbours(owner))):
                key = keys.pair_mask_key(
                    mask_key,
                    self._setup.adverts[peer].mask_keys[self.slot.number],
                    slot_id=self.slot.id,
                    own_id=owner,
                    peer_id=peer,
                )
                (minus if peer < owner else plus).append(key)  # undo what the peer did
        masks.apply(self._accumulator, plus=[key.stream for key in plus], minus=[key.stream for key in minus])
        reduce_in_place(self._accumulator, self._params.modulus_bits)
        self._unmask_shares.clear()
        if not self._params.verifiable:
            return {}
        taken_off = sum(wide(key.tag) for key in plus) - sum(wide(key.tag) for key in minus)
        result = Result(vector=self._accumulator, tag=(self._tag + taken_off) % PRIME).encode(self._params)
        return {v: self._pack(Kind.RESULT, v, result) for v in sorted(replied)}

    def _survivors(self) -> Survivors:
        return Survivors.among(self._setup.session.cohort, self.inputs)

    def _require_recoverable(self, phase: str, present: frozenset[int], silent: frozenset[int]) -> list[int]:
        """Return whose secrets the sum needs, once `present` holds enough shares of each."""
        session, graph = self._setup.session, self._setup.graph
        require_enough(session, phase, len(present), silent)
        dropped = self._setup.sharers - self.inputs
        dropped_that_matter = {v for v in dropped if not self.inputs.isdisjoint(graph.neighbours(v))}
        owners = sorted(self.inputs | dropped_that_matter)
        for owner in owners:
            n_holders = graph.n_holders(owner, present)
            require_enough(session, phase, n_holders, silent, f"holders of client {owner}'s shares")
        return owners

    def _self_mask_key(self, owner: int) -> keys.MaskKey:
        session_id, number = self._setup.session.id, self.slot.number
        commitment = self._setup.shares[owner].commitments[number]

        def matches(seed: bytes) -> bool:
            found = keys.commit_seed(seed, session_id=session_id, client_id=owner, number=number)
            return found == commitment

        shares = {v: reply.self_mask[owner] for v, reply in self._replies_about(owner)}
        seed = self._setup.recovery.secret(owner, shares, matches=matches)
        return keys.self_mask_key(seed, slot_id=self.slot.id, client_id=owner)

    def _mask_key(self, owner: int) -> keys.PrivateKey:
        public = self._setup.adverts[owner].mask_keys[self.slot.number]

        def matches(secret: bytes) -> bool:
            return keys.PrivateKey(secret).public == public

        shares = {v: reply.mask_key[owner] for v, reply in self._replies_about(owner)}
        return keys.PrivateKey(self._setup.recovery.secret(owner, shares, matches=matches))

    def _replies_about(self, owner: int) -> list[tuple[int, UnmaskShares]]:
        holders = sorted(self._setup.graph.holders(owner))
        return [(v, self._unmask_shares[v]) for v in holders if v in self._unmask_shares]

    def _pack(self, kind: Kind, client_id: int, payload: codec.Buffer) -> bytes:
        return codec.pack(kind, session_id=self.slot.id, client_id=client_id, payload=payload)


def require_enough(
    session: Session, phase: str, n_present: int, silent: frozenset[int], whom: str = "clients"
) -> None:
    """Refuse to go on below the threshold.

    Raises:
        TooFewClientsError: says how many of `whom` are left and who fell silent.
    """
    threshold = session.params.threshold
    if n_present < threshold:
        raise _too_few(f"{phase}: expected threshold={threshold} {whom}, {n_present} left", silent)


def require_connected(
    session: Session, graph: AnyGraph, phase: str, present: frozenset[int], silent: frozenset[int]
) -> None:
    """Refuse a graph in pieces, which would show the sum of each piece.

    Raises:
        TooFewClientsError: says how many clients are left and who fell silent.
    """
    if not graph.is_connected(Survivors.among(session.cohort, present).present):
        raise _too_few(f"{phase}: the graph of the {len(present)} clients left fell apart", silent)


def _too_few(message: str, silent: frozenset[int]) -> TooFewClientsError:
    named = sorted(silent)
    more = f" and {len(named) - _NAMED_AT_MOST} more" if len(named) > _NAMED_AT_MOST else ""
    listed = ", ".join(map(str, named[:_NAMED_AT_MOST])) + more if named else "none"
    return TooFewClientsError(f"{message}; missing: {listed}", culprits=tuple(named))
