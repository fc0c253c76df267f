"""All clients in this process: frames go from hand to hand, and a rehearsed loss is a frame not delivered.

One after the other; or, with `beside`, side by side as far as they wait for what is computed elsewhere.  The
clock is read here, not in the protocol.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from secure_fed_diffusion.engines.side_by_side import SideBySide
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
    """Calls each client's handler: in turn, or by `beside`, which the handlers' own work is handed to."""

    handlers: Mapping[int, Handler]
    absent: Absent = field(default=lambda round, client_id, phase: False)  # noqa: A006
    beside: SideBySide | None = None

    def exchange(self, frames: Mapping[int, bytes], *, round: int, phase: str) -> Replies:  # noqa: A002
        """Deliver and gather; a client that raises one of our own errors has refused to answer."""
        started = time.perf_counter()
        calls = {c: partial(self._deliver, frames, c) for c in frames if not self.absent(round, c, phase)}
        outcomes = _in_turn(calls) if self.beside is None else self.beside.run(calls)
        answers = {c: answer for c, answer in outcomes.items() if not isinstance(answer, Exception)}
        refusals = {c: error for c, error in outcomes.items() if isinstance(error, Exception)}
        return Replies(frames=answers, refusals=refusals, client_seconds=time.perf_counter() - started)

    def _deliver(self, frames: Mapping[int, bytes], client_id: int) -> bytes:
        return self.handlers[client_id](frames[client_id])


def _in_turn(calls: Mapping[int, Callable[[], bytes]]) -> dict[int, bytes | SecureFedDiffusionError]:
    outcomes: dict[int, bytes | SecureFedDiffusionError] = {}
    for client_id, call in calls.items():
        try:
            outcomes[client_id] = call()
        except SecureFedDiffusionError as error:
            outcomes[client_id] = error
    return outcomes
