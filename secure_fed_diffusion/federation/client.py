"""What one institution does in a round: answer frames, by its own plan, policy and ledger.

`Client.handle` takes the server's frame and returns the answer.  The order is the guarantee: the charge
is on disk before the contribution is computed, the contribution before the state, and the answer leaves
after all three.  The cohort, the clip, the noise, the ring and who takes part in a set-up come from this
client's plan, never from a frame; a frame that contradicts them raises and nothing is sent.

A client with `files` may be put down after any frame and taken up by another process.  Killed at any point,
it meets the same frame again with the same bytes, or raises and is out of the round: the ledger takes no
charge twice, the latch no second answer to a step.  A client whose state alone is put back is caught by
those two; one whose whole folder is, by the head that it signed, if the server shows that.

Not protected against: a plan that its owner did not read; a host that is rolled back as a whole while the
server keeps its head from it.
"""

from __future__ import annotations

from hashlib import sha256

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion import secagg
from secure_fed_diffusion.entropy import Entropy, system
from secure_fed_diffusion.errors import FrameError, PhaseError, PolicyError
from secure_fed_diffusion.federation.heads import Witness, attach
from secure_fed_diffusion.federation.messages import (
    ANNOUNCE,
    ROUND,
    SETUP,
    Announcement,
    Opening,
    SetupCall,
    announced_round,
    encode_plain,
    unwrap,
)
from secure_fed_diffusion.federation.ports import Contribution, Deferred, Files, Purse
from secure_fed_diffusion.federation.schedule import Round
from secure_fed_diffusion.federation.state import Standing
from secure_fed_diffusion.secagg.phases import FAILED, ROUND_START


class Client:
    """One institution: a state machine over the frames of one run."""

    def __init__(
        self,
        run_id: str,
        contributor: Contribution,
        purse: Purse,
        *,
        witness: Witness | None = None,
        roster: secagg.Roster | None = None,
        signer: secagg.SigningKey | None = None,
        entropy: Entropy = system,
        files: Files | None = None,
    ) -> None:
        self._run_id = run_id
        self._contributor = contributor
        self._plan = contributor.plan
        self._purse = purse
        self._witness = witness
        self._roster = roster
        self._signer = signer
        self._entropy = entropy
        self._files = files
        self._round: Round | None = None  # announced, and not yet contributed to
        self._announcement: Announcement | None = None
        self._setup: SetupCall | None = None  # the set-up for several rounds that this client is in
        self._attempt: tuple[int, int, bytes] | None = None  # round, attempt, model: of a set-up for one
        self._secagg: secagg.Client | None = None
        self._answered, self._answer = b"", b""  # the digest of the last frame, and what was said to it

    @classmethod
    def taken_up(
        cls,
        files: Files,
        run_id: str,
        contributor: Contribution,
        purse: Purse,
        *,
        witness: Witness | None = None,
        roster: secagg.Roster | None = None,
        signer: secagg.SigningKey | None = None,
        entropy: Entropy = system,
    ) -> Client:
        """Return the client as it was put down in `files`, or a new one that is kept there.

        Guarantees: however often a client is taken up, at most one answer to each step leaves it, and at
        most one contribution to each charge.

        Raises:
            RunError: what lies there is damaged, or of another run, plan or client.
        """
        client = cls(
            run_id,
            contributor,
            purse,
            witness=witness,
            roster=roster,
            signer=signer,
            entropy=entropy,
            files=files,
        )
        saved = files.read()
        if saved is not None:
            client._load(saved, files.latch)
        return client

    @property
    def client_id(self) -> int:
        """Which client this is."""
        return self._contributor.client_id

    def handle(self, frame: bytes) -> bytes:
        """Answer one frame of the server; the last frame, come again, as it was answered before.

        Raises:
            SecureAggregationError: the frame is malformed, out of order or outside this client's policy.
            LedgerError: a peer's signed head contradicts an earlier one, or this client's own ledger.
            PrivacyError: the ledger does not cover the round, or was charged for it; nothing was sent.
            RunError: the ledger or the state cannot be written.
        """
        if self._files is None:
            return self._respond(frame)
        digest = sha256(frame).digest()
        if digest == self._answered:
            return self._answer
        try:
            answer = self._respond(frame)
        except BaseException:
            self._files.write(self.save())  # what was burned stays burned
            raise
        self._files.write(self._standing(digest, answer).encode(self._owner))
        self._answered, self._answer = digest, answer
        return answer

    def save(self) -> bytes:
        """Return all that `taken_up` needs to go on from here: as secret as a private key.

        Raises:
            PhaseError: the client was made without `files`, so two copies of it could answer differently.
        """
        if self._files is None:
            raise PhaseError(f"client {self.client_id} lives in memory alone: it has no latch")
        return self._standing(self._answered, self._answer).encode(self._owner)

    def _standing(self, answered: bytes, answer: bytes) -> Standing:
        standing = Standing(pending=self._announcement, answered=answered, answer=answer)
        if self._secagg is not None and self._secagg.phase != FAILED:
            standing.setup, standing.attempt = self._setup, self._attempt
            standing.machine = self._secagg.snapshot()
        return standing

    @property
    def _owner(self) -> dict[str, str | int]:
        return {"run": self._run_id, "plan": self._plan.digest, "client_id": self.client_id}

    def _load(self, saved: bytes, latch: secagg.Latch) -> None:
        standing = Standing.decode(saved, self._owner)
        self._setup, self._attempt, self._announcement = standing.setup, standing.attempt, standing.pending
        self._answered, self._answer = standing.answered, standing.answer
        if self._announcement is not None:
            self._round = self._planned(self._announcement.round)
        if standing.machine:
            session = self._session()
            self._secagg = secagg.Client.restore(
                session,
                self.client_id,
                standing.machine,
                latch=latch,
                policy=self._plan.policy(),
                entropy=self._entropy,
                signer=self._signer if session.params.signed else None,
            )

    def _respond(self, frame: bytes) -> bytes:
        """Dispatch a frame to its step, which it must be due for.

        One that is not changes nothing, but that the opening of a later slot leaves the round before.
        """
        several = self._plan.masked and self._plan.rounds_per_setup > 1
        kind = frame[0] if frame else None
        if kind in (ANNOUNCE, SETUP, ROUND) and several != (kind != ANNOUNCE):
            per_setup = self._plan.rounds_per_setup
            raise PolicyError(f"this client's plan has {per_setup} rounds a set-up: no frame like this")
        if kind == ANNOUNCE:
            return self._open(Announcement.decode(frame, self._plan.announced(announced_round(frame))))
        if kind == SETUP:
            return self._join(SetupCall.decode(frame))
        if kind == ROUND:
            return self._enter(Opening.decode(frame, self._plan.announced(announced_round(frame))))
        phase, inner = unwrap(frame)
        machine = self._secagg
        if machine is None:
            raise PhaseError(f"client {self.client_id} is in no round")
        if machine.phase != phase:
            raise PhaseError(f"client {self.client_id} is in phase {machine.phase}, not {phase}")
        machine.require_addressed(inner)
        if phase == ROUND_START:
            machine.open_shares(inner)  # before anything is charged: somebody may have sealed garbage
            return self._witnessed(machine.masked_input(inner, self._contribute()))
        steps = {
            "choose": machine.choose,
            "share_keys": machine.share_keys,
            "consistency": machine.consistency,
            "unmask": machine.unmask,
        }
        return steps[phase](inner)

    def _witnessed(self, frame: bytes) -> bytes:
        """Put the head of the ledger that holds this frame's charge before it."""
        return attach(self._witness.testify() if self._witness else None, frame)

    def _open(self, announcement: Announcement) -> bytes:
        """Begin an attempt: check it against the plan, and forget any earlier one."""
        planned = self._planned(announcement.round)
        if self._witness is not None:
            self._witness.hear(announcement.heads)
        self._leave()
        self._round, self._announcement = planned, announcement
        if not self._plan.masked:
            return self._witnessed(encode_plain(self._contribute()))
        self._attempt = announcement.round, announcement.attempt, announcement.model_digest
        self._secagg = self._machine(self._session())
        return self._secagg.advertise()

    def _join(self, call: SetupCall) -> bytes:
        """Begin a set-up for several rounds, and forget any earlier one with all its slots."""
        if call.release not in self._plan.releases:
            raise FrameError(f"this client's plan has no sums of {call.release}")
        self._leave()
        self._setup = call
        self._secagg = self._machine(self._session())
        return self._secagg.advertise()

    def _enter(self, opening: Opening) -> bytes:
        """Take an attempt and the slot of the set-up that it uses up; answer with the contribution.

        The slot must come after every one that was answered; who was told something else shares no mask.
        """
        announcement, machine, setup = opening.announcement, self._secagg, self._setup
        planned = self._planned(announcement.round)
        if machine is None or setup is None or setup.release != planned.release:
            raise PhaseError(f"client {self.client_id} is in no set-up for sums of {planned.release}")
        if opening.slot < 1:
            raise FrameError("slot 0 of a set-up carries no round")
        if self._witness is not None:
            self._witness.hear(announcement.heads)
        machine.begin(opening.slot, model_digest=announcement.binding, participants=planned.cohort)
        machine.require_addressed(opening.frame)
        machine.open_shares(opening.frame)
        self._round, self._announcement = planned, announcement
        return self._witnessed(machine.masked_input(opening.frame, self._contribute()))

    def _planned(self, number: int) -> Round:
        """Return what this client's plan says of a round that it is asked to take part in."""
        if not 1 <= number <= len(self._plan.rounds):
            raise FrameError(f"expected a round in 1..{len(self._plan.rounds)}, got {number}")
        planned = self._plan.rounds[number - 1]
        if self.client_id not in planned.cohort:
            raise PolicyError(f"client {self.client_id} is not in the planned cohort of round {number}")
        return planned

    def _leave(self) -> None:
        """Forget the round and the set-up under way."""
        self._secagg = self._setup = self._attempt = self._round = self._announcement = None

    def _session(self) -> secagg.Session:
        """Return the session of the set-up under way, made from this client's own plan."""
        if self._setup is not None:
            release, nonce = self._setup.release, self._setup.nonce
            return self._plan.setup_session(self._run_id, release, nonce, roster=self._roster)
        if self._attempt is None:
            raise PhaseError(f"client {self.client_id} is in no round")
        return self._plan.session(self._run_id, *self._attempt, roster=self._roster)

    def _machine(self, session: secagg.Session) -> secagg.Client:
        return secagg.Client(
            session,
            self.client_id,
            policy=self._plan.policy(),
            entropy=self._entropy,
            signer=self._signer if session.params.signed else None,
            latch=None if self._files is None else self._files.latch,
        )

    def _contribute(self) -> npt.NDArray[np.uint64]:
        """Make ready, charge, then compute: at most once an attempt, and no charge for what cannot be."""
        planned, announcement = self._round, self._announcement
        if planned is None or announcement is None:
            raise PhaseError(f"client {self.client_id} has already answered this attempt")
        self._round = self._announcement = None
        release = self._plan.releases[planned.release]
        if isinstance(self._contributor, Deferred):
            self._contributor.prepare()
        self._purse.charge(
            self.client_id,
            round=planned.number,
            attempt=announcement.attempt,
            mechanism=release.name,
            steps=release.steps,
        )
        vector = self._contributor.vector(
            release, announcement.weights, number=planned.number, attempt=announcement.attempt
        )
        ring = np.uint64((1 << release.modulus_bits) - 1)
        return vector & ring
