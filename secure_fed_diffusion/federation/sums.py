"""The secure sums of a run at the server: a key set-up for each attempt, or one for several rounds.

With `secagg.rounds_per_setup` = R > 1 a set-up of all clients (exchanges `advertise` and `share_keys`) pays
for R attempts at rounds of one release.  Each attempt uses up one slot, in order; the frame that opens it
carries model and slot together, so a round begins at `masked_input`.  Slots and set-ups are never used
again, and none outlives this process.  A new set-up is made when the slots are used up, when another
release is due, when too few of a round's cohort are in it, or when a secret of it proved false.

Not protected against: what the server does here binds nobody; each client keeps its own count of slots, and
takes cohort, participants and parameters from its own plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from secure_fed_diffusion import secagg
from secure_fed_diffusion.entropy import Entropy, system
from secure_fed_diffusion.errors import PhaseError, RecoveryError
from secure_fed_diffusion.federation.messages import (
    NONCE_BYTES,
    Announcement,
    SetupCall,
    Shown,
    announcements,
    openings,
    show_nothing,
    wrap,
)
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.schedule import ReleaseName
from secure_fed_diffusion.secagg.phases import ROUND_START


@dataclass(slots=True)
class _Setup:
    """A set-up for several rounds: who is in it, as far as each client's last answer shows.

    `slot` is the last one that was used up; slot 0 carries nothing, it is bound to the set-up itself.
    """

    release: ReleaseName
    machine: secagg.Server
    members: set[int] = field(default_factory=set)
    slot: int = 0


class SecureSums:
    """One secure sum at a time: `open`, then `take` the answers until it returns {}."""

    def __init__(
        self, run_id: str, plan: Plan, *, roster: secagg.Roster | None = None, entropy: Entropy = system
    ) -> None:
        self._run_id, self._plan, self._roster, self._entropy = run_id, plan, roster, entropy
        self._setup: _Setup | None = None
        self._machine: secagg.Server | None = None
        self._announcement: Announcement | None = None
        self._shown: Shown = show_nothing
        self._left_out: tuple[int, ...] = ()

    @property
    def machine(self) -> secagg.Server:
        """The secure sum under way, or the last one.

        Raises:
            PhaseError: none was opened.
        """
        if self._machine is None:
            raise PhaseError("no sum was opened")
        return self._machine

    @property
    def left_out(self) -> tuple[int, ...]:
        """The clients of the round's cohort that are not in its set-up, and so not asked; () before it."""
        return self._left_out

    def open(self, announcement: Announcement, shown: Shown = show_nothing) -> Mapping[int, bytes]:
        """Begin an attempt at a round; return the first frame for each client that is asked.

        `shown` says which signed heads travel with the model, to each its own.
        """
        plan, planned = self._plan, self._plan.rounds[announcement.round - 1]
        self._announcement, self._shown, self._left_out = announcement, shown, ()
        if plan.rounds_per_setup > 1:
            if self._setup is not None and self._is_fit(self._setup, planned.release, planned.cohort):
                return self._open_slot(self._setup)
            return self._begin_setup(planned.release)
        session = plan.session(
            self._run_id,
            announcement.round,
            announcement.attempt,
            announcement.model_digest,
            roster=self._roster,
        )
        self._machine = secagg.Server(session)
        return announcements(announcement, planned.cohort, shown)

    def receive(self, client_id: int, frame: bytes) -> None:
        """Take one client's frame of the current phase.

        Raises:
            SecureAggregationError: it is none, and its sender is out of the round.
        """
        machine = self.machine
        machine.receive(client_id, frame)
        if self._setup is not None and machine.phase == ROUND_START:
            self._setup.members.add(client_id)

    def advance(self) -> Mapping[int, bytes]:
        """Close the phase; return the frames that open the next, or {} once the sum is known.

        Raises:
            TooFewClientsError: below the threshold.
            RecoveryError: a secret of the set-up proved false; the set-up is given up.
        """
        machine = self.machine
        try:
            frames = machine.advance()
        except RecoveryError:
            self._setup = None
            raise
        if self._setup is not None and not self._setup.slot and machine.phase == ROUND_START:
            self._setup.members.update(frames)
            return self._open_slot(self._setup)
        return {client_id: wrap(machine.phase, frame) for client_id, frame in frames.items()}

    def _begin_setup(self, release: ReleaseName) -> Mapping[int, bytes]:
        call = SetupCall(release, self._entropy(NONCE_BYTES))
        session = self._plan.setup_session(self._run_id, release, call.nonce, roster=self._roster)
        self._machine = secagg.Server(session)
        self._setup = _Setup(release, self._machine)
        return dict.fromkeys(session.cohort, call.encode())

    def _is_fit(self, setup: _Setup, release: ReleaseName, cohort: tuple[int, ...]) -> bool:
        """Tell whether the next slot can carry a sum that the plan would release."""
        least = max(self._plan.federation.min_survivors, self._plan.secure_sum.threshold)
        return (
            setup.release == release
            and setup.slot < self._plan.slots(release)
            and len(setup.members.intersection(cohort)) >= least
        )

    def _open_slot(self, setup: _Setup) -> Mapping[int, bytes]:
        """Use up the next slot for the round that is announced."""
        announcement = self._announcement
        if announcement is None:
            raise PhaseError("no round was announced")
        self._machine = setup.machine
        setup.slot += 1
        cohort = self._plan.rounds[announcement.round - 1].cohort
        frames = setup.machine.begin(setup.slot, model_digest=announcement.binding, participants=cohort)
        self._left_out = tuple(client_id for client_id in cohort if client_id not in frames)
        setup.members.difference_update(frames)  # until they answer
        return openings(setup.slot, announcement, frames, self._shown)
