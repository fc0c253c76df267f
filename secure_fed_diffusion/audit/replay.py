"""A7, replay: run a query on two neighbouring data sets with the same randomness, and compare what it did.

If a query is what its sensitivity says, then with every random byte frozen, (1) it takes the same steps on
a data set and on its neighbour, (2) its answers differ by at most the sensitivity, and (3) it gives the
same answer twice.  `replay` records the bytes on the first data set and plays them on the second; a query
that asks for other amounts, takes other steps or raises has a control flow that depends on the data.

One pair of neighbours shows a violation or shows nothing: a pass is no proof, so choose pairs that hurt
(a record that is huge, infinite, NaN, the only one, the last of a batch).  Timing is not compared.

Source: Cebere et al. 2026, "Privacy in Theory, Bugs in Practice" (arXiv 2602.17454), section 4.

>>> def total(data, entropy, event):
...     event("clip")
...     return np.clip(np.array(data), -3, 3).sum(axis=0, keepdims=True)
>>> replay(total, [1, 2, 9], [1, 2], sensitivity=3).passed
True
>>> replay(total, [1, 2, 9], [1, 2], sensitivity=2).finding
'the answers differ by more than the declared sensitivity 2'
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion.entropy import Entropy, system
from secure_fed_diffusion.errors import ConfigError

Event = Callable[[str], None]
"""`event(name)` notes a step; names must hold nothing of the data."""

Data = TypeVar("Data")
Query = Callable[[Data, Entropy, Event], npt.NDArray[Any]]
"""`query(data, entropy, event)` returns an integer vector and draws all its randomness from `entropy`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What came of one pair of neighbours; `finding` is None where nothing was found."""

    sensitivity: int
    distance: float | None  # ‖q(D) − q(D')‖₂, where both gave an answer of one shape
    steps: tuple[str, ...]  # on D
    finding: str | None

    @property
    def passed(self) -> bool:
        """Whether this pair shows no violation."""
        return self.finding is None


class _DifferentDraw(Exception):
    """The query asked for other randomness than the recorded."""


def replay(
    query: Query[Data], data: Data, neighbour: Data, *, sensitivity: int, entropy: Entropy = system
) -> Replay:
    """Run `query` on `data` twice and on `neighbour` once, with the bytes of the first time.

    Guarantees: the comparison with `sensitivity` is exact, in integers.

    Raises:
        ConfigError: the sensitivity is negative, or the answer on `data` is no integer vector.
    """
    if sensitivity < 0:
        raise ConfigError(f"expected a sensitivity >= 0, got {sensitivity}", key="sensitivity")
    tape: list[bytes] = []

    def record(n_bytes: int) -> bytes:
        tape.append(entropy(n_bytes))
        return tape[-1]

    steps: list[str] = []
    answer = query(data, record, steps.append)
    if answer.dtype.kind not in "iu":
        raise ConfigError(f"expected an integer vector, got {answer.dtype}", key="query")
    answer = answer.copy()  # a query may reuse its buffer
    again, _, finding = _played(query, data, tape, steps)
    if finding is None and again is not None and not np.array_equal(answer, again):
        finding = "the same data and randomness gave another answer"
    if finding is not None:
        return Replay(
            sensitivity=sensitivity, distance=None, steps=tuple(steps), finding=f"on the same data: {finding}"
        )
    other, _, finding = _played(query, neighbour, tape, steps)
    distance = None
    if other is not None and other.dtype.kind in "iu" and other.shape == answer.shape:
        squared = _squared_distance(answer, other)
        distance = math.sqrt(squared)
        if finding is None and squared > sensitivity**2:
            finding = f"the answers differ by more than the declared sensitivity {sensitivity}"
    elif finding is None:
        finding = "the answers differ in shape or type"
    return Replay(sensitivity=sensitivity, distance=distance, steps=tuple(steps), finding=finding)


def _played(
    query: Query[Data], data: Data, tape: list[bytes], expected: list[str]
) -> tuple[npt.NDArray[Any] | None, list[str], str | None]:
    """Return the answer, its steps, and how they differ from `expected`."""
    position, steps = 0, list[str]()

    def play(n_bytes: int) -> bytes:
        nonlocal position
        if position == len(tape) or len(tape[position]) != n_bytes:
            raise _DifferentDraw
        position += 1
        return tape[position - 1]

    try:
        answer = query(data, play, steps.append)
    except _DifferentDraw:
        return None, steps, f"draw {position + 1} of randomness depends on the data"
    except Exception as error:  # whatever a query raises on one of two neighbours tells them apart
        return None, steps, f"{type(error).__name__} was raised, which it was not before"
    if position != len(tape):
        return answer, steps, f"{position} draws of randomness instead of {len(tape)}"
    if steps != expected:
        pairs = zip(steps, expected, strict=False)
        first = next((i for i, (one, two) in enumerate(pairs) if one != two), min(len(steps), len(expected)))
        return answer, steps, f"step {first + 1} depends on the data"
    return answer, steps, None


def _squared_distance(one: npt.NDArray[Any], two: npt.NDArray[Any]) -> int:
    """Return ‖one − two‖₂² in Python's integers, which do not overflow."""
    differences = (int(x) - int(y) for x, y in zip(one.flat, two.flat, strict=True))
    return sum(value * value for value in differences)
