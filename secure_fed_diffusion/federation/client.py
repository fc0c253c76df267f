"""What one institution does in a round: answer frames, by its own plan, policy and ledger.

`Client.handle` takes the server's frame and returns the answer.  The order is the guarantee: the charge
is on disk before the contribution is computed, and the contribution leaves only after both.  The cohort,
the clip, the noise and the ring come from this client's plan, never from a frame; a frame that
contradicts them raises and nothing is sent.

Not protected against: a plan that its owner did not read; a host that is rolled back as a whole.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion import secagg
from secure_fed_diffusion.entropy import Entropy, system
from secure_fed_diffusion.errors import FrameError, PhaseError, PolicyError
from secure_fed_diffusion.federation.contribution import Contributor
from secure_fed_diffusion.federation.heads import Witness, attach
from secure_fed_diffusion.federation.messages import ANNOUNCE, Announcement, encode_plain, unwrap
from secure_fed_diffusion.federation.schedule import Round


class Purse(Protocol):
    """The part of a ledger that a client needs."""

    def charge(self, client_id: int, *, round: int, attempt: int, mechanism: str, steps: int = 1) -> None:  # noqa: A002
        """Write a charge, synced, or refuse it before anything is written."""


class Client:
    """One institution: a state machine over the frames of one run."""

    def __init__(
        self,
        run_id: str,
        contributor: Contributor,
        purse: Purse,
        *,
        witness: Witness | None = None,
        roster: secagg.Roster | None = None,
        signer: secagg.SigningKey | None = None,
        entropy: Entropy = system,
    ) -> None:
        self._run_id = run_id
        self._contributor = contributor
        self._plan = contributor.plan
        self._purse = purse
        self._witness = witness
        self._roster = roster
        self._signer = signer
        self._entropy = entropy
        self._round: Round | None = None
        self._announcement: Announcement | None = None
        self._secagg: secagg.Client | None = None

    @property
    def client_id(self) -> int:
        """Which client this is."""
        return self._contributor.client_id

    def handle(self, frame: bytes) -> bytes:
        """Answer one frame of the server.

        Raises:
            SecureAggregationError: the frame is malformed, out of order or outside this client's policy.
            LedgerError: a peer's signed head contradicts an earlier one, or this client's own ledger.
            BudgetExceededError: the ledger does not cover the round; nothing was sent.
        """
        if frame[:1] == bytes([ANNOUNCE]):
            return self._open(Announcement.decode(frame, self._plan.dimension))
        phase, inner = unwrap(frame)
        if self._secagg is None:
            raise PhaseError(f"client {self.client_id} is in no round")
        if phase != "masked_input":
            steps = {
                "choose": self._secagg.choose,
                "share_keys": self._secagg.share_keys,
                "consistency": self._secagg.consistency,
                "unmask": self._secagg.unmask,
            }
            return steps[phase](inner)
        if self._secagg.phase != phase:
            raise PhaseError(f"client {self.client_id} is in phase {self._secagg.phase}, not {phase}")
        return self._witnessed(self._secagg.masked_input(inner, self._contribute()))

    def _witnessed(self, frame: bytes) -> bytes:
        """Put the head of the ledger that holds this frame's charge before it."""
        return attach(self._witness.testify() if self._witness else None, frame)

    def _open(self, announcement: Announcement) -> bytes:
        """Begin an attempt: check it against the plan, and forget any earlier one."""
        self._secagg = self._round = self._announcement = None
        if not 1 <= announcement.round <= len(self._plan.rounds):
            raise FrameError(f"expected a round in 1..{len(self._plan.rounds)}, got {announcement.round}")
        planned = self._plan.rounds[announcement.round - 1]
        if self.client_id not in planned.cohort:
            raise PolicyError(
                f"client {self.client_id} is not in the planned cohort of round {planned.number}"
            )
        if self._witness is not None:
            self._witness.hear(announcement.heads)
        self._round, self._announcement = planned, announcement
        if not self._plan.masked:
            return self._witnessed(encode_plain(self._contribute()))
        session = self._plan.session(
            self._run_id,
            announcement.round,
            announcement.attempt,
            announcement.model_digest,
            roster=self._roster,
        )
        self._secagg = secagg.Client(
            session,
            self.client_id,
            policy=self._plan.policy(),
            entropy=self._entropy,
            signer=self._signer if session.params.signed else None,
        )
        return self._secagg.advertise()

    def _contribute(self) -> npt.NDArray[np.uint64]:
        """Charge, then compute: at most once an attempt."""
        planned, announcement = self._round, self._announcement
        if planned is None or announcement is None:
            raise PhaseError(f"client {self.client_id} has already answered this attempt")
        self._round = self._announcement = None
        release = self._plan.releases[planned.release]
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
