"""Whole key set-ups with all their rounds, over a network that a test may spoil.

`Epoch` holds every party; `play` runs one round of it (the set-up with the first) and says how it ended.
A `Wire` stands between the parties: it sees every frame and hands on what it likes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from secure_fed_diffusion import secagg
from secure_fed_diffusion.errors import SecureAggregationError
from secure_fed_diffusion.secagg.phases import DONE, ROUND_START
from secure_fed_diffusion.secagg.simulate import answer

from .rounds import fixed_entropy, model_of, signing_key


class Wire:
    """An honest network; the server's frames go down, the clients' go up."""

    def down(self, number: int, phase: str, client_id: int, frame: bytes) -> list[bytes]:
        """The frames that the client is given instead, in order."""
        return [frame]

    def up(self, number: int, phase: str, frames: Mapping[int, bytes]) -> list[tuple[int, bytes, bool]]:
        """The frames that the server is given instead: under which name, and whether it may take it."""
        return [(v, frame, True) for v, frame in frames.items()]


@dataclass
class Outcome:
    """How a round ended: with a total over survivors, or with an error."""

    total: np.ndarray | None = None
    survivors: tuple[int, ...] = ()
    error: SecureAggregationError | None = None
    refused: list[SecureAggregationError] = field(default_factory=list)
    taken_in_error: list[str] = field(default_factory=list)
    verified: dict[int, bool] = field(default_factory=dict)


class Epoch:
    """All parties of one key set-up; a client that raises an error is one that fell silent."""

    def __init__(self, session: secagg.Session, *, label: str = "trace", wire: Wire | None = None) -> None:
        self.session = session
        self.wire = wire or Wire()
        policy = secagg.Policy.accepting(self.session.params)
        self.clients = {
            v: secagg.Client(
                self.session,
                v,
                policy=policy,
                entropy=fixed_entropy(f"{label} {v}"),
                signer=signing_key(v) if session.params.signed else None,
            )
            for v in self.session.cohort
        }
        self.server = secagg.Server(self.session)
        self.errors: dict[int, SecureAggregationError] = {}

    def play(
        self,
        number: int,
        vectors: Mapping[int, np.ndarray],
        *,
        gone: Mapping[int, str] | None = None,
        participants: tuple[int, ...] | None = None,
    ) -> Outcome:
        """Play round `number`; `gone` maps a client to the phase before which it vanishes."""
        outcome = Outcome()
        try:
            inbox = self._open(number, participants, outcome)
            while self.server.phase != DONE:
                inbox = self._phase(number, inbox, vectors, gone or {}, outcome)
        except SecureAggregationError as error:
            outcome.error = error
            return outcome
        outcome.total, outcome.survivors = self.server.total.copy(), self.server.survivors
        self._verify(number, inbox, gone or {}, outcome)
        return outcome

    def _open(self, number: int, participants: tuple[int, ...] | None, outcome: Outcome) -> dict[int, bytes]:
        if number == 0:
            return dict.fromkeys(self.session.cohort, b"")
        digest = model_of(number)
        inbox = self.server.begin(number, model_digest=digest, participants=participants)
        entered = {}
        for v, frame in inbox.items():
            try:
                self.clients[v].begin(number, model_digest=digest, participants=participants)
                entered[v] = frame
            except SecureAggregationError as error:  # it stays out of this round
                self.errors[v] = error
        return entered

    def _phase(
        self,
        number: int,
        inbox: Mapping[int, bytes],
        vectors: Mapping[int, np.ndarray],
        gone: Mapping[int, str],
        outcome: Outcome,
    ) -> dict[int, bytes]:
        phase = self.server.phase
        phases = [step.phase for step in self.session.params.steps]
        frames = {}
        for v, server_frame in inbox.items():
            if v in gone and phases.index(gone[v]) <= phases.index(phase):
                continue
            for given in self.wire.down(number, phase, v, server_frame):
                try:
                    frames[v] = answer(self.clients[v], phase, given, vectors[v])
                except SecureAggregationError as error:
                    self.errors[v] = error
        for sender, frame, welcome in self.wire.up(number, phase, frames):
            try:
                self.server.receive(sender, frame)
            except SecureAggregationError as error:
                outcome.refused.append(error)
            else:
                if not welcome:
                    outcome.taken_in_error.append(f"round {number}, {phase}, client {sender}")
        return self.server.advance()

    def _verify(
        self, number: int, inbox: Mapping[int, bytes], gone: Mapping[int, str], outcome: Outcome
    ) -> None:
        for v, server_frame in inbox.items():
            if gone.get(v) == "verify":
                continue
            for given in self.wire.down(number, "verify", v, server_frame):
                try:
                    shown = self.clients[v].verify(given)
                    outcome.verified[v] = bool(np.array_equal(shown, outcome.total))
                except SecureAggregationError as error:
                    self.errors[v] = error


def round_phases(params: secagg.SecAggParams) -> tuple[str, ...]:
    """The phases of a round, without those of the set-up."""
    phases = [step.phase for step in params.steps]
    return tuple(phases[phases.index(ROUND_START) :])
