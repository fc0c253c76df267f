"""The transition table: every step of every profile, as data.

Theory of operation.  A key set-up (`advertise`, under the sparse active profile `choose`, `share_keys`)
is followed by one round, or by as many as the set-up pays for; each begins at `masked_input`.  In each
phase every client that is still in takes one server frame (none in the first phase) and answers with
one frame; the server collects the answers, closes the phase, and sends each remaining client the frame
that opens the next.  A client that does not answer before the phase closes is out of the round; if it
had shared its keys it may be back in the next one.  Which message opens a phase and which one answers
it stands in `PROFILES` and nowhere else: the machines, the README's diagrams and the tests of every
illegal (phase, message) pair read it from here.

A `Machine` is one party's place in that table.  It is marked as failed BEFORE a step acts and moves
on only once the step returns, so any exception leaves it failed, and no step can run twice.

`semi_honest` protects against a server that follows the protocol and looks at everything.  `active`
adds signatures over a pinned roster and `consistency`, the step in which clients sign the survivor set
before they unmask.  `active_sparse` is what `active` becomes with `n_neighbours`: each client chooses
its own neighbours after the server committed to the adverts.  `unsafe_unmasked` hides NOTHING and is
for tests.  A verifiable sum ends with `verify`, which the server's machine does not have.

Source: Bonawitz et al., CCS 2017, figure 4 (with the steps marked for active adversaries under
`active`); Bell et al., CCS 2020, section 5 (`choose`); the form of the table follows h11.

>>> [step.phase for step in PROFILES["active"]]
['advertise', 'share_keys', 'masked_input', 'consistency', 'unmask']
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
ROUND_START = "masked_input"
SETUP_PHASES = ("advertise", "choose", "share_keys")


class Kind(IntEnum):
    """What a frame holds; its number on the wire."""

    ADVERT = 1
    ADVERT_LIST = 2
    SHARES = 3
    SHARE_DELIVERY = 4
    MASKED_INPUT = 5
    SURVIVORS = 6
    CONSISTENCY = 7
    CONSISTENCY_LIST = 8
    UNMASK_SHARES = 9
    COMMITMENT = 10
    CHOICE = 11
    RESULT = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One phase of a profile: what opens it at the client, and what the client answers, if anything."""

    phase: str
    receives: Kind | None
    sends: Kind | None


_ADVERTISE = Step(phase="advertise", receives=None, sends=Kind.ADVERT)
_CHOOSE = Step(phase="choose", receives=Kind.COMMITMENT, sends=Kind.CHOICE)
_SHARE_KEYS = Step(phase="share_keys", receives=Kind.ADVERT_LIST, sends=Kind.SHARES)
_MASKED_INPUT = Step(phase="masked_input", receives=Kind.SHARE_DELIVERY, sends=Kind.MASKED_INPUT)
_CONSISTENCY = Step(phase="consistency", receives=Kind.SURVIVORS, sends=Kind.CONSISTENCY)
_UNMASK_SIGNED = Step(phase="unmask", receives=Kind.CONSISTENCY_LIST, sends=Kind.UNMASK_SHARES)
VERIFY = Step(phase="verify", receives=Kind.RESULT, sends=None)

PROFILES: Mapping[str, tuple[Step, ...]] = MappingProxyType(
    {
        "semi_honest": (
            _ADVERTISE,
            _SHARE_KEYS,
            _MASKED_INPUT,
            Step(phase="unmask", receives=Kind.SURVIVORS, sends=Kind.UNMASK_SHARES),
        ),
        "active": (_ADVERTISE, _SHARE_KEYS, _MASKED_INPUT, _CONSISTENCY, _UNMASK_SIGNED),
        "active_sparse": (_ADVERTISE, _CHOOSE, _SHARE_KEYS, _MASKED_INPUT, _CONSISTENCY, _UNMASK_SIGNED),
        "unsafe_unmasked": (Step(phase="masked_input", receives=None, sends=Kind.MASKED_INPUT),),
    }
)


class Machine:
    """One party's place in its steps; it moves forward, begins further rounds, or fails for good."""

    __slots__ = ("_index", "_steps", "phase")

    def __init__(self, steps: tuple[Step, ...]) -> None:
        self._steps = steps
        self._index = 0
        self.phase = steps[0].phase

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
        self._enter(self._index + 1)

    def begin_round(self, *, after_failure: bool = False) -> None:
        """Go (back) to the first step of a round, from any step of one.

        Raises:
            PhaseError: the set-up is not complete, or the machine has failed; it stays as it is.
        """
        first = next(index for index, step in enumerate(self._steps) if step.phase == ROUND_START)
        if (self.phase == FAILED and not after_failure) or self._index < first:
            raise PhaseError(f"no round can begin: the machine stands at {self.phase}")
        self._enter(first)

    def resume(self, phase: str) -> None:
        """Take up the place that a snapshot names.

        Raises:
            PhaseError: no such place, or a failed one.
        """
        places = (*(step.phase for step in self._steps), DONE)
        if phase not in places:
            raise PhaseError("a snapshot of a machine that failed, or of another profile")
        self._enter(places.index(phase))

    def _enter(self, index: int) -> None:
        self._index = index
        self.phase = self._steps[index].phase if index < len(self._steps) else DONE

    @property
    def current(self) -> Step | None:
        """The step that is due; None when the machine is done or failed."""
        return None if self.phase in (DONE, FAILED) else self._steps[self._index]


def diagram(steps: tuple[Step, ...]) -> str:
    """Draw the state diagram of a profile's steps in Mermaid."""
    lines = ["stateDiagram-v2", f"    [*] --> {steps[0].phase}"]
    for step, following in zip(steps, [*(s.phase for s in steps[1:]), DONE], strict=True):
        opens = step.receives.name if step.receives is not None else "nothing"
        answer = step.sends.name if step.sends is not None else "nothing"
        lines.append(f"    {step.phase} --> {following}: takes {opens}, sends {answer}")
        lines.append(f"    {step.phase} --> {FAILED}: any exception")
    if steps[0].phase != ROUND_START:
        lines.append(f"    {DONE} --> {ROUND_START}: another round of the same set-up")
    return "\n".join([*lines, f"    {DONE} --> [*]", f"    {FAILED} --> [*]"])
