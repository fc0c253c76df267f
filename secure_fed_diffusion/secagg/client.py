"""One client of one key set-up, sans I/O: server frames in, its own frames out.

    advertise() -> [choose(frame) ->] share_keys(frame)
        -> masked_input(frame, vector) -> [consistency(frame) ->] unmask(frame) [-> verify(frame)]

The second line is a round; a set-up of several rounds goes through it again after `begin`.  The machine
runs each step once, in this order; threads wait for one another.  An exception in a step fails it for good
and burns its secrets; start a new attempt with a new client.  A failed client is a dropout for the others.

Guarantees: `semi_honest` (the server and at most t - 1 holders of a client's shares, all following the
protocol) and `active` (they may do what they like, with 2t > holders + colluders): they learn of the
honest clients' vectors of a round their sum over one survivor set, which every client's policy accepts.
Under `active` on a sparse graph they may learn sums of pieces instead: the server says who of its neighbours
a client is to mask with, so pieces that mask among themselves alone have sums of their own (README.md).

Not protected against: under `semi_honest`, a server that invents clients or shows different lists to
different clients.  What the SUM says about a member is for differential privacy.

Source: Bonawitz et al., CCS 2017, figure 4; Bell et al., CCS 2020, algorithm 2 and section 5.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from threading import RLock
from typing import NoReturn

import numpy.typing as npt

from ..entropy import Entropy, system
from ..errors import ConfigError, FrameError, PhaseError
from . import codec, snapshot
from .answers import Answers, Latch
from .client_round import ClientRound
from .client_setup import ClientSetup
from .encoding import RingVector, to_ring
from .keyring import Keyring
from .messages import MaskedInput
from .params import require_integer
from .phases import FAILED, ROUND_START, Machine, Step
from .policy import SAFE_POLICY, Policy
from .session import MAX_ID, Session, Slot
from .signing import SigningKey


class Client:
    """A one-shot, fail-closed machine; `phase` is the step that is due, "done" or "failed".

    `signer` is the client's long-term key (profile `active`).  With a `latch`, no step is ever answered
    in two ways, by this object or by one that is restored from a `snapshot`.

    Raises:
        PolicyError: the session's parameters lie outside this client's policy.
        ConfigError: `client_id` is no id of the session's cohort, or `signer` is not its key on the roster.
    """

    def __init__(
        self,
        session: Session,
        client_id: int,
        *,
        policy: Policy = SAFE_POLICY,
        entropy: Entropy = system,
        signer: SigningKey | None = None,
        latch: Latch | None = None,
    ) -> None:
        policy.check(session.params)
        require_integer("client_id", client_id, 0, MAX_ID)  # "1" is client 1 to whoever reads it
        if client_id not in session.graph:
            raise ConfigError(f"client {client_id} is not in the cohort", key="client_id")
        self.session = session
        self.client_id = client_id
        self._policy = policy
        self._lock = RLock()
        self._answers = Answers(session, client_id, signer=signer, latch=latch)
        self._machine = Machine(session.params.steps)
        self._setup = ClientSetup(session, client_id, entropy)
        self._slot: Slot | None = None
        self._round: ClientRound | None = None

    @property
    def phase(self) -> str:
        """The step that is due, "done" or "failed"."""
        with self._lock:
            return self._machine.phase

    def advertise(self) -> bytes:
        """Make fresh key pairs, one for sealing and one for each round, and advertise the public halves."""
        with self._step("advertise") as step:
            return self._reply(step, self._setup.advertise())

    def choose(self, server_frame: bytes) -> bytes:
        """Take the server's commitment to the adverts; draw this client's neighbours by its own coins.

        Raises:
            PolicyError: the commitment leaves this client out.
            TooFewClientsError: fewer clients advertised than it needs.
        """
        with self._step("choose") as step:
            return self._reply(step, self._setup.choose(self._unpack(step, server_frame)))

    def share_keys(self, server_frame: bytes) -> bytes:
        """Take the neighbours' adverts; seal for each holder its shares of the mask keys and the seeds.

        Raises:
            FrameError: a bad frame, a client that is no neighbour, this client's own key reflected, an
                advert that nothing vouches for.
            TooFewClientsError: fewer holders than the threshold.
        """
        with self._step("share_keys") as step:
            return self._reply(step, self._setup.share_keys(self._unpack(step, server_frame)))

    def begin(
        self, number: int, *, model_digest: bytes | None = None, participants: Iterable[int] | None = None
    ) -> None:
        """Turn to round `number` of this set-up: what it is bound to comes from this client, not a frame.

        A round that this client was out of, or in the middle of, is left for good.

        Raises:
            PhaseError: the set-up is not complete, the client failed, or that round is used.
            ConfigError: no such round, or this client is not among the participants.
            TooFewClientsError: of the holders of its secrets fewer than the threshold take part.
        """
        with self._lock:
            slot = self.session.slot(
                number,
                model_digest=model_digest,
                participants=participants,
                commitment=self._setup.commitment,
            )
            if self.client_id not in slot.participants:
                raise ConfigError(f"client {self.client_id} is not among them", key="participants")
            if number not in self._setup.keyring.rounds:
                raise PhaseError(f"the secrets of round {number} of this set-up are used or burned")
            self._setup.check_participants(slot)
            self._machine.begin_round()
            self._slot, self._round = slot, None

    def require_addressed(self, server_frame: bytes) -> None:
        """Refuse a frame that is not for this client, step and round; unlike in a step, nothing changes.

        For a caller that pays before it answers: a frame that came late, or of another round, costs nothing.

        Raises:
            FrameError: of another kind, client or round.
            PhaseError: no step is due.
        """
        with self._lock:
            step = self._machine.current
            if step is None:
                raise PhaseError(f"the client is {self.phase}: no frame is due")
            if step.phase == ROUND_START and self._slot is None:
                self._slot = self.session.slot(commitment=self._setup.commitment)
            self._unpack(step, server_frame)

    def open_shares(self, server_frame: bytes) -> None:
        """Open the sealed shares of the frame that opens a round; `masked_input` is still due, with it.

        For a caller that pays for its input: where a client sealed garbage, the round fails here, before the
        payment.

        Raises:
            FrameError: a bad frame; shares that do not open name their sender.
            TooFewClientsError: fewer holders than the threshold shared, or take part.
        """
        with self._lock:
            with self._step(ROUND_START) as step:
                self._setup.check_participants(self._open(step, server_frame))
            self._machine.begin_round()

    def masked_input(self, server_frame: bytes, vector: npt.ArrayLike) -> bytes:
        """Take the sealed shares; return the vector under the self mask and the pairwise masks.

        `vector` has shape (dimension,) and integers in [0, 2^modulus_bits); it is not changed.

        Guarantees: the frame is uniform on the ring to whoever lacks the seed, or one pairwise key.
        Profile `unsafe_unmasked` takes no frame and masks nothing.

        Raises:
            FrameError: a bad frame; shares that do not open name their sender.
            TooFewClientsError: fewer holders than the threshold shared.
            ConfigError: the vector is not one of the ring, or too large for a verifiable sum; nothing has
                changed, and the step is still due.
        """
        params = self.session.params
        ring = to_ring(vector, params)  # before the step: nothing is burned for a vector that is none
        with self._step("masked_input") as step:
            slot = self._open(step, server_frame)
            if step.receives is None:  # profile unsafe_unmasked
                return self._reply(step, MaskedInput(vector=ring).encode(params))
            self._round = self._setup.take_round(slot, self._policy)
            return self._reply(step, self._round.masked_input(ring))

    def consistency(self, server_frame: bytes) -> bytes:
        """Take the survivor list, check it, and sign its digest.

        Raises:
            PolicyError: the list leaves this client out, is too short for its policy, or names a
                neighbour that never shared.
            TooFewClientsError: fewer holders than the threshold survived, or their graph fell apart.
        """
        with self._step("consistency") as step:
            return self._reply(step, self._in_round().consistency(self._unpack(step, server_frame)))

    def unmask(self, server_frame: bytes) -> bytes:
        """Return for each client that shared exactly one kind of share.

        Takes the survivor list, or under `active` the signatures over the list that this client signed.

        Guarantees: every share of the round is out of the machine before the reply leaves; the dropped
        are the complement of the one list that came; no client is answered for twice.

        Raises:
            PolicyError: the list leaves this client out, is too short for its policy, or names a
                neighbour that never shared.
            FrameError: a signature that is not one over the list that this client signed.
            TooFewClientsError: fewer holders than the threshold survived or signed, or their graph fell
                apart.
        """
        with self._step("unmask") as step:
            return self._reply(step, self._in_round().unmask(self._unpack(step, server_frame)))

    def verify(self, server_frame: bytes) -> RingVector:
        """Take the total that the server shows, and return it if it is the survivors' sum.

        Raises:
            VerificationError: it is not; the chance that a false one passes is at most 2^-60.
        """
        with self._step("verify") as step:
            return self._in_round().verify(self._unpack(step, server_frame))

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied: two copies could answer one step in two ways."""
        raise PhaseError("a client cannot be copied; with a latch, keep its `snapshot`")

    def snapshot(self) -> bytes:
        """Return all that `restore` needs to go on from here: as secret as a private key.

        Raises:
            PhaseError: the client failed, or has no latch: two copies of it could answer differently.
        """
        with self._lock:
            if not self._answers.latched or self.phase == FAILED:
                raise PhaseError("a snapshot needs a client with a latch that has not failed")
            slot = self._slot
            return snapshot.write(
                {
                    "session": self.session.id.hex(),
                    "client_id": self.client_id,
                    "phase": self.phase,
                    "setup": self._setup.to_dict(),
                    "slot": None if slot is None else [slot.number, slot.participants, slot.id.hex()],
                    "round": None if self._round is None else self._round.to_dict(),
                }
            )

    @classmethod
    def restore(
        cls,
        session: Session,
        client_id: int,
        saved_state: bytes,
        *,
        latch: Latch,
        policy: Policy = SAFE_POLICY,
        entropy: Entropy = system,
        signer: SigningKey | None = None,
    ) -> Client:
        """Return the client that wrote the snapshot; `latch` must be the one that it wrote to.

        Raises:
            FrameError: not a snapshot of this client in this session.
            ConfigError: no latch.
        """
        if latch is None:
            raise ConfigError("expected the latch that the snapshot's client wrote to, got None", key="latch")
        client = cls(session, client_id, policy=policy, entropy=entropy, signer=signer, latch=latch)
        with snapshot.as_frame_error():
            saved = snapshot.read(saved_state)
            if saved["session"] != session.id.hex() or saved["client_id"] != client_id:
                raise FrameError("a snapshot of another session or client")
            client._setup.load_dict(saved["setup"])
            if saved["slot"] is not None:
                number, participants, slot_id = saved["slot"]
                client._slot = slot = Slot(number, tuple(participants), bytes.fromhex(slot_id))
                if saved["round"] is not None:
                    client._round = ClientRound.from_dict(
                        saved["round"], session=session, slot=slot, client_id=client_id, policy=policy
                    )
            client._machine.resume(saved["phase"])
        return client

    def _open(self, step: Step, server_frame: bytes) -> Slot:
        """Open what the frame of a round holds, if its profile has any; return the round."""
        if self._slot is None:
            self._slot = self.session.slot(commitment=self._setup.commitment)
        if step.receives is not None:
            self._setup.open(self._unpack(step, server_frame))
        return self._slot

    def _in_round(self) -> ClientRound:
        if self._round is None:
            raise PhaseError("this client's secrets are burned")
        return self._round

    @contextmanager
    def _step(self, phase: str) -> Iterator[Step]:
        with self._lock:
            try:
                with self._machine.step(phase) as step:
                    yield step
            except BaseException:
                self._setup.keyring, self._round = Keyring(), None  # burned: Python cannot overwrite them
                raise

    def _unpack(self, step: Step, frame: bytes) -> memoryview:
        return self._answers.unpack(step, frame, slot=self._slot)

    def _reply(self, step: Step, payload: codec.Buffer) -> bytes:
        masked_with: Collection[int] = self._round.mask_publics.keys() if self._round else ()
        return self._answers.pack(step, payload, slot=self._slot, masked_with=masked_with)
