"""All clients in this process: frames go from hand to hand, and a rehearsed loss is a frame not delivered.

The clock is read here, not in the protocol.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from secure_fed_diffusion.errors import SecureFedDiffusionError

Handler = Callable[[bytes], bytes]
Absent = Callable[[int, int, str], bool]
"""`absent(round, client_id, phase)`: is this client gone before it answers this phase?"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replies:
    """What came back: frames, refusals by client, and the seconds that the clients took together."""

    frames: dict[int, bytes]
    refusals: dict[int, SecureFedDiffusionError]
    client_seconds: float


class Engine(Protocol):
    """Anything that carries frames."""

    def exchange(self, frames: Mapping[int, bytes], *, round: int, phase: str) -> Replies:  # noqa: A002
        """Deliver one frame to each client and gather the answers of those that gave one."""


@dataclass(slots=True)
class InProcessEngine:
    """Calls each client's handler in turn."""

    handlers: Mapping[int, Handler]
    absent: Absent = field(default=lambda round, client_id, phase: False)  # noqa: A006

    def exchange(self, frames: Mapping[int, bytes], *, round: int, phase: str) -> Replies:  # noqa: A002
        """Deliver and gather; a client that raises one of our own errors has refused to answer."""
        answers: dict[int, bytes] = {}
        refusals: dict[int, SecureFedDiffusionError] = {}
        started = time.perf_counter()
        for client_id, frame in frames.items():
            if self.absent(round, client_id, phase):
                continue
            try:
                answers[client_id] = self.handlers[client_id](frame)
            except SecureFedDiffusionError as error:
                refusals[client_id] = error
        return Replies(frames=answers, refusals=refusals, client_seconds=time.perf_counter() - started)
