"""The transition table: every step of every profile, as data.

Theory of operation.  A round is a fixed sequence of phases.  In each, every client that is still in
takes one server frame (none in the first phase) and answers with one frame; the server collects
the answers, closes the phase, and sends each remaining client the frame that opens the next.  A
client that does not answer before the phase closes is out for good.  Which message opens a phase
and which one answers it stands in `PROFILES` and nowhere else: the machines, the README's diagram
and the tests of every illegal (phase, message) pair read it from here.

A `Machine` is one party's place in that table.  It is marked as failed BEFORE a step acts and moves
on only once the step returns, so any exception leaves it failed, and no step can run twice.

`PHASES` names `consistency`, the step in which clients sign the survivor set before they unmask.
The profile `semi_honest` SKIPS it: it protects against a server that follows the protocol and looks
at everything, not against one that shows different survivor lists to different clients.

Source: Bonawitz et al., CCS 2017, figure 4 (without the steps marked for active adversaries);
the form of the table follows h11.

>>> [step.phase for step in PROFILES["semi_honest"]]
['advertise', 'share_keys', 'masked_input', 'unmask']
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType

from ..errors import PhaseError

PHASES = ("advertise", "share_keys", "masked_input", "consistency", "unmask")
DONE = "done"
FAILED = "failed"


class Kind(IntEnum):
    """What a frame holds; its number on the wire.  7 and 8 are kept for `consistency`."""

    ADVERT = 1
    ADVERT_LIST = 2
    SHARES = 3
    SHARE_DELIVERY = 4
    MASKED_INPUT = 5
    SURVIVORS = 6
    UNMASK_SHARES = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One phase of a profile: what opens it at the client, and what the client answers."""

    phase: str
    receives: Kind | None
    sends: Kind


PROFILES: Mapping[str, tuple[Step, ...]] = MappingProxyType(
    {
        "semi_honest": (
            Step(phase="advertise", receives=None, sends=Kind.ADVERT),
            Step(phase="share_keys", receives=Kind.ADVERT_LIST, sends=Kind.SHARES),
            Step(phase="masked_input", receives=Kind.SHARE_DELIVERY, sends=Kind.MASKED_INPUT),
            Step(phase="unmask", receives=Kind.SURVIVORS, sends=Kind.UNMASK_SHARES),
        ),
    }
)


class Machine:
    """One party's place in its profile; it moves forward, or fails for good."""

    __slots__ = ("_index", "_steps", "phase")

    def __init__(self, profile: str) -> None:
        self._steps = PROFILES[profile]
        self._index = 0
        self.phase = self._steps[0].phase

    @contextmanager
    def step(self, phase: str) -> Iterator[Step]:
        """Run one step, once: the machine stays failed unless the block ends without an exception.

        Raises:
            PhaseError: `phase` is not the one that is due; the machine is failed from then on.
        """
        due, self.phase = self.phase, FAILED
        if due != phase:
            raise PhaseError(f"step {phase} is not due: the machine stands at {due}")
        yield self._steps[self._index]
        self._index += 1
        self.phase = self._steps[self._index].phase if self._index < len(self._steps) else DONE

    @property
    def current(self) -> Step | None:
        """The step that is due; None when the machine is done or failed."""
        return None if self.phase in (DONE, FAILED) else self._steps[self._index]


def diagram(profile: str) -> str:
    """Draw the profile's state diagram in Mermaid, from the table."""
    steps = PROFILES[profile]
    lines = ["stateDiagram-v2", f"    [*] --> {steps[0].phase}"]
    for step, following in zip(steps, [*(s.phase for s in steps[1:]), DONE], strict=True):
        opens = step.receives.name if step.receives is not None else "nothing"
        lines.append(f"    {step.phase} --> {following}: takes {opens}, sends {step.sends.name}")
        lines.append(f"    {step.phase} --> {FAILED}: any exception")
    return "\n".join([*lines, f"    {DONE} --> [*]", f"    {FAILED} --> [*]"])
