"""The coordinator of one round, sans I/O: client frames in, at most one sum out.

    while server.phase != "done":  receive(client_id, frame) for what arrives;  advance()

`receive` either takes a frame whole or raises and changes nothing: a malformed, replayed, late or
foreign frame costs nobody but its sender.  `advance` closes the phase: who has not been heard is
out.  It streams: masked inputs are added to one accumulator as they come.

Guarantees: `total` is the sum modulo 2^modulus_bits of the vectors of exactly `survivors`, if the
clients follow the protocol; every recovered secret is checked against what its owner advertised.

Not protected against: a client that sends a wrong vector, which no one can tell from a right one.

Source: Bonawitz et al., CCS 2017, figure 4; Bell et al., CCS 2020, algorithm 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from ..errors import FrameError, PhaseError, SecureAggregationError, TooFewClientsError
from . import codec, keys, masks
from .encoding import RingVector, reduce_in_place, ring_dtype
from .messages import Advert, AdvertList, MaskedInput, ShareDelivery, Shares, Survivors, UnmaskShares
from .phases import Kind, Machine, Step
from .recovery import Recovery
from .session import Session

_NAMED_AT_MOST = 20


class Server:
    """A one-shot machine; `total` and `survivors` are there once `phase` is "done"."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._machine = Machine(session.params.profile)
        self._expected: frozenset[int] = frozenset(session.cohort)
        self._silent: frozenset[int] = frozenset()
        self._adverts: dict[int, Advert] = {}
        self._advertised_keys: set[bytes] = set()
        self._shares: dict[int, Shares] = {}
        self._sharers: frozenset[int] = frozenset()
        self._accumulator: RingVector = np.zeros(
            session.params.dimension, dtype=ring_dtype(session.params.modulus_bits)
        )
        self._inputs: set[int] = set()
        self._unmask_shares: dict[int, UnmaskShares] = {}
        self._recovery = Recovery(threshold=session.params.threshold)
        self._take: dict[Kind, Callable[[int, memoryview], None]] = {
            Kind.ADVERT: self._take_advert,
            Kind.SHARES: self._take_shares,
            Kind.MASKED_INPUT: self._take_masked_input,
            Kind.UNMASK_SHARES: self._take_unmask_shares,
        }
        self._close: dict[str, Callable[[], dict[int, bytes]]] = {
            "advertise": self._close_advertise,
            "share_keys": self._close_share_keys,
            "masked_input": self._close_masked_input,
            "unmask": self._close_unmask,
        }

    @property
    def phase(self) -> str:
        """The phase whose client frames are being collected, "done" or "failed"."""
        return self._machine.phase

    @property
    def heard(self) -> tuple[int, ...]:
        """The clients whose frame of this phase was taken."""
        return tuple(sorted(self._heard()))

    @property
    def expected(self) -> tuple[int, ...]:
        """The clients that are still in, heard in this phase or not."""
        return tuple(sorted(self._expected))

    @property
    def total(self) -> RingVector:
        """The sum modulo 2^modulus_bits, shape (dimension,).

        Raises:
            PhaseError: the round is not done.
        """
        self._require_done()
        return self._accumulator

    @property
    def survivors(self) -> tuple[int, ...]:
        """The clients whose vectors are in `total`, ascending, also those gone before `unmask`.

        Raises:
            PhaseError: the round is not done.
        """
        self._require_done()
        return tuple(sorted(self._inputs))

    def receive(self, client_id: int, frame: codec.Buffer) -> None:
        """Take one client's frame; `client_id` is whom the transport says it came from.

        Raises:
            FrameError: not a valid frame of this session, phase and client; `culprits` names it.
            PhaseError: out of order, a duplicate, or from a client that is out.
        """
        step = self._machine.current
        if step is None:
            raise PhaseError(f"the server is {self.phase}: it takes no frames")
        if client_id not in self._expected:
            raise PhaseError(
                f"client {client_id} is not in phase {step.phase}: not of the cohort, or dropped before",
                culprits=(client_id,),
            )
        if client_id in self._heard():
            raise PhaseError(f"client {client_id} sent a second frame in {step.phase}", culprits=(client_id,))
        try:
            payload = self._unpack(step, client_id, frame)
            self._take[step.sends](client_id, payload)
        except SecureAggregationError as error:
            raise type(error)(f"client {client_id}, {step.phase}: {error}", culprits=(client_id,)) from None

    def advance(self) -> dict[int, bytes]:
        """Close the phase; return the frame for each client that is still in, or {} after the last.

        Raises:
            TooFewClientsError: below the threshold; `culprits` are those who fell silent, in any phase.
            RecoveryError: a client's shares do not give what it advertised.
            PhaseError: the round is done or has failed.
        """
        if self._machine.current is None:
            raise PhaseError(f"the server is {self.phase}: it has no phase to close")
        self._silent |= self._expected.difference(self._heard())
        with self._machine.step(self.phase) as step:
            return self._close[step.phase]()

    # One `_take` for each kind: check everything, then change the state in one go.

    def _unpack(self, step: Step, client_id: int, frame: codec.Buffer) -> memoryview:
        found = codec.peek_kind(frame)
        if found is not step.sends:
            raise PhaseError(f"expected {step.sends.name}, got {found.name}")
        return codec.unpack(frame, step.sends, session_id=self.session.id, client_id=client_id)

    def _take_advert(self, client_id: int, payload: memoryview) -> None:
        advert = Advert.decode(payload)
        public_keys = {advert.cipher_key, advert.mask_key}
        if not public_keys.isdisjoint(self._advertised_keys):
            raise FrameError("another client advertised this public key")
        self._adverts[client_id] = advert
        self._advertised_keys |= public_keys

    def _take_shares(self, client_id: int, payload: memoryview) -> None:
        shares = Shares.decode(payload)
        if shares.sealed.keys() != self._present_neighbours(client_id, self._expected):
            raise FrameError("shares for other clients than its neighbours that advertised")
        self._shares[client_id] = shares

    def _take_masked_input(self, client_id: int, payload: memoryview) -> None:
        masked = MaskedInput.decode(payload, self.session.params).vector
        self._accumulator += masked
        self._inputs.add(client_id)

    def _take_unmask_shares(self, client_id: int, payload: memoryview) -> None:
        shares = UnmaskShares.decode(payload)
        owners = {client_id} | self._present_neighbours(client_id, self._sharers)
        of_survivors, of_dropped = owners & self._inputs, owners - self._inputs
        if shares.self_mask.keys() != of_survivors or shares.mask_key.keys() != of_dropped:
            raise FrameError("expected one share for each client that shared with it, of the kind due")
        self._unmask_shares[client_id] = shares

    def _heard(self) -> Iterable[int]:
        by_phase = {
            "advertise": self._adverts.keys(),
            "share_keys": self._shares.keys(),
            "masked_input": self._inputs,
            "unmask": self._unmask_shares.keys(),
        }
        return by_phase.get(self.phase, ())

    # One `_close` for each phase.

    def _close_advertise(self) -> dict[int, bytes]:
        present = self._viable("advertise", frozenset(self._adverts))
        self._expected = present
        return {
            v: self._pack(
                Kind.ADVERT_LIST,
                v,
                AdvertList(
                    adverts={u: self._adverts[u] for u in self._present_neighbours(v, present)}
                ).encode(),
            )
            for v in sorted(present)
        }

    def _close_share_keys(self) -> dict[int, bytes]:
        present = self._viable("share_keys", frozenset(self._shares))
        self._expected = self._sharers = present
        frames = {}
        for v in sorted(present):
            sealed = {u: self._shares[u].sealed[v] for u in self._present_neighbours(v, present)}
            frames[v] = self._pack(Kind.SHARE_DELIVERY, v, ShareDelivery(sealed=sealed).encode())
        return frames

    def _close_masked_input(self) -> dict[int, bytes]:
        survivors = frozenset(self._inputs)
        self._require_recoverable("masked_input", survivors)
        self._require_connected("masked_input", survivors)
        self._expected = survivors
        payload = Survivors.among(self.session.cohort, survivors).encode()
        return {v: self._pack(Kind.SURVIVORS, v, payload) for v in sorted(survivors)}

    def _close_unmask(self) -> dict[int, bytes]:
        owners = self._require_recoverable("unmask", frozenset(self._unmask_shares))
        plus: list[bytes] = []
        minus: list[bytes] = []
        for owner in owners:
            if owner in self._inputs:
                minus.append(self._self_mask_key(owner))
                continue
            mask_key = self._mask_key(owner)
            for peer in sorted(self._present_neighbours(owner, frozenset(self._inputs))):
                key = keys.pair_mask_key(
                    mask_key,
                    self._adverts[peer].mask_key,
                    session_id=self.session.id,
                    own_id=owner,
                    peer_id=peer,
                )
                (minus if peer < owner else plus).append(key)  # undo what the peer did
        masks.apply(self._accumulator, plus=plus, minus=minus)
        reduce_in_place(self._accumulator, self.session.params.modulus_bits)
        self._unmask_shares.clear()
        return {}

    # What the phases share.

    def _present_neighbours(self, client_id: int, present: frozenset[int]) -> frozenset[int]:
        return present.intersection(self.session.graph.neighbours(client_id))

    def _dropped_that_matter(self) -> set[int]:
        """Those who shared keys but sent no input, and whose masks are in a survivor's input."""
        survivors = frozenset(self._inputs)
        return {v for v in self._sharers - survivors if self._present_neighbours(v, survivors)}

    def _require_recoverable(self, phase: str, present: frozenset[int]) -> list[int]:
        """Return whose secrets the sum needs, once `present` holds enough shares of each."""
        self._require_enough(phase, len(present))
        owners = sorted(self._inputs | self._dropped_that_matter())
        for owner in owners:
            n_holders = self.session.graph.n_holders(owner, present)
            self._require_enough(phase, n_holders, f"holders of client {owner}'s shares")
        return owners

    def _viable(self, phase: str, present: frozenset[int]) -> frozenset[int]:
        """Leave out those whose secrets could not be recovered, if enough clients remain."""
        self._require_enough(phase, len(present))
        viable = self.session.graph.viable(present, self.session.params.threshold)
        self._require_enough(phase, len(viable), "clients with enough holders")
        self._require_connected(phase, viable)
        return viable

    def _require_enough(self, phase: str, n_present: int, whom: str = "clients") -> None:
        threshold = self.session.params.threshold
        if n_present < threshold:
            raise self._too_few(f"{phase}: expected threshold={threshold} {whom}, {n_present} left")

    def _require_connected(self, phase: str, present: frozenset[int]) -> None:
        """A graph in pieces would show the sum of each piece; the clients refuse it too."""
        if not self.session.graph.is_connected(Survivors.among(self.session.cohort, present).present):
            raise self._too_few(f"{phase}: the graph of the {len(present)} clients left fell apart")

    def _too_few(self, message: str) -> TooFewClientsError:
        named = _named(self._silent)
        return TooFewClientsError(f"{message}; missing: {named}", culprits=tuple(sorted(self._silent)))

    def _self_mask_key(self, owner: int) -> bytes:
        session_id, commitment = self.session.id, self._shares[owner].commitment

        def matches(seed: bytes) -> bool:
            return keys.commit_seed(seed, session_id=session_id, client_id=owner) == commitment

        shares = {v: reply.self_mask[owner] for v, reply in self._replies_about(owner)}
        seed = self._recovery.secret(owner, shares, matches=matches)
        return keys.self_mask_key(seed, session_id=session_id, client_id=owner)

    def _mask_key(self, owner: int) -> keys.PrivateKey:
        public = self._adverts[owner].mask_key

        def matches(secret: bytes) -> bool:
            return keys.PrivateKey(secret).public == public

        shares = {v: reply.mask_key[owner] for v, reply in self._replies_about(owner)}
        return keys.PrivateKey(self._recovery.secret(owner, shares, matches=matches))

    def _replies_about(self, owner: int) -> list[tuple[int, UnmaskShares]]:
        holders = sorted((owner, *self.session.graph.neighbours(owner)))
        return [(v, self._unmask_shares[v]) for v in holders if v in self._unmask_shares]

    def _pack(self, kind: Kind, client_id: int, payload: bytes) -> bytes:
        return codec.pack(kind, session_id=self.session.id, client_id=client_id, payload=payload)

    def _require_done(self) -> None:
        if self.phase != "done":
            raise PhaseError(f"no sum: the server stands at {self.phase}")


def _named(client_ids: frozenset[int]) -> str:
    listed = sorted(client_ids)
    more = f" and {len(listed) - _NAMED_AT_MOST} more" if len(listed) > _NAMED_AT_MOST else ""
    return ", ".join(map(str, listed[:_NAMED_AT_MOST])) + more if listed else "none"
