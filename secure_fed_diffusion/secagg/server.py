"""The coordinator of one key set-up, sans I/O: client frames in, at most one sum a round out.

    while server.phase != "done":  receive(client_id, frame) for what arrives;  advance()

`receive` either takes a frame whole or raises and changes nothing: a malformed, replayed, late or
foreign frame costs nobody but its sender.  `advance` closes the phase: who has not been heard is out of
the round.  `begin` opens a further round of the same set-up; whoever shared keys may be back in it.

Guarantees: `total` is the sum modulo 2^modulus_bits of the vectors of exactly `survivors`, if the
clients follow the protocol; every recovered secret is checked against what its owner advertised; under
`active` every frame that was taken bears its sender's signature.

Not protected against: a client that sends a wrong vector, which no one can tell from a right one.

Source: Bonawitz et al., CCS 2017, figure 4; Bell et al., CCS 2020, algorithm 2 and section 5.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from threading import RLock

from ..errors import FrameError, PhaseError, SecureAggregationError
from . import codec
from .encoding import RingVector
from .params import MAX_ROUNDS, require_integer
from .phases import DONE, ROUND_START, SETUP_PHASES, Machine, Step
from .server_round import ServerRound, require_enough
from .server_setup import ServerSetup
from .session import MAX_ID, Session, Slot


class Server:
    """A one-shot machine; `total` and `survivors` are there once `phase` is "done"."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._lock = RLock()
        self._machine = Machine(tuple(step for step in session.params.steps if step.sends is not None))
        self._expected: frozenset[int] = frozenset(session.cohort)
        self._silent: frozenset[int] = frozenset()
        self._silent_in_setup: frozenset[int] = frozenset()
        self._setup = ServerSetup(session)
        self._delivered: set[int] = set()
        self._round: ServerRound | None = None
        if self.phase == ROUND_START:  # profile unsafe_unmasked has no set-up
            self._setup.without_keys()
            self._enter(self._slot())

    @property
    def phase(self) -> str:
        """The phase whose client frames are being collected, "done" or "failed"."""
        with self._lock:
            return self._machine.phase

    @property
    def heard(self) -> tuple[int, ...]:
        """The clients whose frame of this phase was taken."""
        with self._lock:
            return tuple(sorted(self._heard()))

    @property
    def expected(self) -> tuple[int, ...]:
        """The clients that are still in, heard in this phase or not."""
        with self._lock:
            return tuple(sorted(self._expected))

    @property
    def total(self) -> RingVector:
        """The sum modulo 2^modulus_bits, shape (dimension,).

        Raises:
            PhaseError: the round is not done.
        """
        return self._done_round().total

    @property
    def survivors(self) -> tuple[int, ...]:
        """The clients whose vectors are in `total`, ascending, also those gone before `unmask`.

        Raises:
            PhaseError: the round is not done.
        """
        return tuple(sorted(self._done_round().inputs))

    @property
    def commitment(self) -> bytes:
        """The root over the adverts that this set-up's rounds are bound to (`Session.slot`), 32 bytes."""
        return self._setup.commitment

    @property
    def suspects(self) -> tuple[tuple[int, int], ...]:
        """Pairs (owner, holder) of a false share that was left out: one of the two lied, who is open.

        Unless more shares of that secret were false than were left out, and made to fit (`recovery`).
        """
        return tuple(sorted(self._setup.recovery.suspects))

    def receive(self, client_id: int, frame: codec.Buffer) -> None:
        """Take one client's frame; `client_id` is whom the transport says it came from.

        Any thread may call this, `advance` and `begin`: one waits for the other.

        Raises:
            FrameError: not a valid frame of this session, phase and client; `culprits` names it.
            PhaseError: out of order, a duplicate, or from a client that is out.
            ConfigError: `client_id` is no id.
        """
        with self._lock:
            self._receive(client_id, frame)

    def _receive(self, client_id: int, frame: codec.Buffer) -> None:
        step = self._machine.current
        if step is None:
            raise PhaseError(f"the server is {self.phase}: it takes no frames")
        require_integer("client_id", client_id, 0, MAX_ID)  # "1" and True are clients to whoever reads them
        if client_id not in self._expected:
            raise PhaseError(
                f"client {client_id} is not in phase {step.phase}: not of the cohort, or dropped before",
                culprits=(client_id,),
            )
        if client_id in self._heard():
            raise PhaseError(f"client {client_id} sent a second frame in {step.phase}", culprits=(client_id,))
        try:
            payload, signature = self._unpack(step, client_id, frame)
            part = self._setup if step.phase in SETUP_PHASES else self._open()
            part.take(step, client_id, payload, signature)
        except SecureAggregationError as error:
            raise type(error)(f"client {client_id}, {step.phase}: {error}", culprits=(client_id,)) from None

    def advance(self) -> dict[int, bytes]:
        """Close the phase; return the frame for each client that is still in, or {} after the last.

        Where sums are verifiable the last phase returns the total, for each client to check.

        Raises:
            TooFewClientsError: below the threshold; `culprits` are those who fell silent, in any phase.
            RecoveryError: a client's shares do not give what it advertised.
            PhaseError: the round is done or has failed.
        """
        with self._lock:
            return self._advance()

    def _advance(self) -> dict[int, bytes]:
        if self._machine.current is None:
            raise PhaseError(f"the server is {self.phase}: it has no phase to close")
        self._silent |= self._expected.difference(self._heard())
        with self._machine.step(self.phase) as step:
            if step.phase in SETUP_PHASES:
                frames = self._setup.close(step.phase, self._silent)
            else:
                frames = self._open().close(step, self._silent)
            if step.phase == SETUP_PHASES[-1]:
                frames = self._open_round(self._slot())
            self._expected = frozenset(frames)
            return frames

    def begin(
        self, number: int, *, model_digest: bytes | None = None, participants: Iterable[int] | None = None
    ) -> dict[int, bytes]:
        """Open round `number` of this set-up; return the frame for each participant that shared keys.

        Raises:
            PhaseError: the set-up is not complete, or the round does not come after the last.
            ConfigError: no such round, strangers, or too few participants.
            TooFewClientsError: too few of them shared keys.
        """
        with self._lock:
            return self._begin(number, model_digest, participants)

    def _begin(
        self, number: int, model_digest: bytes | None, participants: Iterable[int] | None
    ) -> dict[int, bytes]:
        if self._round is None:
            raise PhaseError(f"no round can begin: the server stands at {self.phase}")
        require_integer("round", number, 0, MAX_ROUNDS)
        if number <= self._round.slot.number:
            raise PhaseError(f"round {number} does not come after round {self._round.slot.number}")
        slot = self._slot(number, model_digest=model_digest, participants=participants)
        self._machine.begin_round(after_failure=True)  # of the round before: its secrets are not this one's
        return self._open_round(slot)

    def _unpack(self, step: Step, client_id: int, frame: codec.Buffer) -> tuple[memoryview, bytes]:
        found = codec.peek_kind(frame)
        if step.sends is None or found is not step.sends:
            raise PhaseError(f"expected {step.sends.name if step.sends else 'nothing'}, got {found.name}")
        bound_to = self.session.id if self._round is None else self._round.slot.id
        payload = codec.unpack(frame, step.sends, session_id=bound_to, client_id=client_id)
        if self.session.roster is None:
            return payload, b""
        payload, signature = codec.split_signature(payload)
        signed = codec.signed_bytes(
            found,
            session_id=bound_to,
            client_id=client_id,
            payload=payload,
            masked_with=self._round.masked_with(client_id) if self._round else (),
        )
        if not self.session.roster.verify(client_id, signed, signature):
            raise FrameError("the frame does not bear this client's signature")
        return payload, signature

    def _heard(self) -> Collection[int]:
        if self.phase in SETUP_PHASES:
            return self._setup.heard(self.phase)
        return self._round.heard(self.phase) if self._round else ()

    def _slot(
        self,
        number: int = 0,
        *,
        model_digest: bytes | None = None,
        participants: Iterable[int] | None = None,
    ) -> Slot:
        return self.session.slot(
            number,
            model_digest=model_digest,
            participants=participants,
            commitment=self._setup.commitment,
        )

    def _enter(self, slot: Slot) -> None:
        """Make the round; whoever shared keys is expected in it."""
        if self._round is None:
            self._silent_in_setup = self._silent
        else:
            self._delivered |= self._round.inputs
        self._expected = self._setup.sharers.intersection(slot.participants)
        # Whoever was left out for want of holders is missing as well, but did not fall silent.
        self._silent = self._silent_in_setup.intersection(slot.participants)
        self._round = self._setup.open_round(slot)

    def _open_round(self, slot: Slot) -> dict[int, bytes]:
        """Make the round; return the frame that opens it for each client."""
        self._enter(slot)
        require_enough(self.session, ROUND_START, len(self._expected), self._silent)
        return {
            v: self._setup.delivery(v, slot, delivered=v in self._delivered) for v in sorted(self._expected)
        }

    def _open(self) -> ServerRound:
        if self._round is None:
            raise PhaseError("no round is open")
        return self._round

    def _done_round(self) -> ServerRound:
        if self.phase != DONE or self._round is None:
            raise PhaseError(f"no sum: the server stands at {self.phase}")
        return self._round
