"""Cells of a sweep side by side, within the cores and the memory that they were given.

A cell that fails is noted and the others go on.  Ctrl-C asks every run to stop, waits, and leaves a sweep
that `--resume` continues.  How much memory a cell takes is what the largest so far took; before the first has
grown, `FIRST_GUESS_GIB`.

Not protected against: a cell that grows beyond every earlier one after others were started beside it.
"""

from __future__ import annotations

import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from secure_fed_diffusion.sweep import estimate
from secure_fed_diffusion.sweep.process import Place, Running, attempts

FIRST_GUESS_GIB = 1.5
_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How far a sweep is; what its display shows."""

    cells: int
    done: int  # finished, those of an earlier call included
    failed: int
    running: tuple[tuple[str, int, int, float], ...]  # name, rounds done, rounds, seconds
    seconds_left: float | None  # by the cells that are done; None before the first
    seconds_guessed: float  # the same by nominal rates where nothing was learned yet


class Display(Protocol):
    """Who is told how a sweep goes."""

    def standing(self, standing: Standing) -> None:
        """Take how far the sweep is."""

    def ended(self, name: str, seconds: float, error: str | None, standing: Standing) -> None:
        """Take the end of one cell."""


@dataclass(slots=True, kw_only=True)
class Pool:
    """The cells that are left, those that run, and what became of the others.

    `places` are run; what cells of `known` took, the rest of the grid, tells how long these will.
    """

    places: Sequence[Place]
    known: Sequence[Place] = ()
    jobs: int
    memory_gib: float
    display: Display
    failures: dict[str, str] = field(default_factory=dict)
    _clock: estimate.Clock = field(default_factory=estimate.Clock)
    _waiting: list[Place] = field(default_factory=list)
    _running: list[Running] = field(default_factory=list)
    _largest_gib: float = 0.0
    _measured: bool = False  # a cell ended in this call, so the largest is of a whole run

    def run(self) -> dict[str, str]:
        """Run all cells that are not finished; return the errors of those that failed, by name.

        Raises:
            KeyboardInterrupt: somebody stopped the sweep; every run was stopped first.
        """
        self._waiting = [place for place in self.places if not place.finished]
        self._clock = clock_of(self.known or self.places)
        with _stoppable():
            try:
                while self._waiting or self._running:
                    self._start_what_fits()
                    time.sleep(_POLL_SECONDS)
                    self._take_back()
                    self.display.standing(self._standing())
            finally:
                self._stop()
        return self.failures

    def _start_what_fits(self) -> None:
        while self._waiting and len(self._running) < self.jobs and self._memory_allows():
            self._running.append(Running.start(self._waiting.pop(0)))

    def _memory_allows(self) -> bool:
        """One cell always runs; another is begun if all of them at the largest size seen still fit."""
        for running in self._running:
            self._largest_gib = max(self._largest_gib, running.resident_gib())
        if not self._running:
            return True
        each = self._largest_gib if self._measured else max(FIRST_GUESS_GIB, self._largest_gib)
        return (len(self._running) + 1) * each <= self.memory_gib

    def _take_back(self) -> None:
        for running in [each for each in self._running if each.process.poll() is not None]:
            self._running.remove(running)
            self._largest_gib = max(self._largest_gib, _largest_child_gib())
            name, error = running.place.cell.name, running.error()
            self._measured |= error is None
            running.note("finished" if error is None else "failed", error)
            if error is None:
                earlier = attempts(running.place.root)[name][:-1]
                self._learn(running.place, running.seconds + sum(each["seconds"] for each in earlier))
            else:
                self.failures[name] = error
            self.display.ended(name, running.seconds, error, self._standing())

    def _learn(self, place: Place, taken: float) -> None:
        self._clock.learn(estimated=estimate.seconds(place.settings), taken=taken)

    def _standing(self) -> Standing:
        left = [estimate.seconds(place.settings) for place in self._waiting]
        for running in self._running:
            share = running.place.rounds_done / max(1, running.place.rounds)
            left.append(max(0.05, 1.0 - share) * estimate.seconds(running.place.settings))
        at_once = max(1, min(self.jobs, len(left)))
        guessed = self._clock.seconds(sum(left)) / at_once
        return Standing(
            cells=len(self.places),
            done=len(self.places) - len(self._waiting) - len(self._running) - len(self.failures),
            failed=len(self.failures),
            running=tuple(
                (each.place.cell.name, each.place.rounds_done, each.place.rounds, each.seconds)
                for each in self._running
            ),
            seconds_left=guessed if self._clock.learned else None,
            seconds_guessed=guessed,
        )

    def _stop(self) -> None:
        """Stop whatever still runs: after Ctrl-C, or after an error of the sweep itself."""
        for running in self._running:
            running.ask_to_stop()
        for running in self._running:
            running.end()
            running.note("stopped", None)
        self._running.clear()


def clock_of(places: Sequence[Place]) -> estimate.Clock:
    """Return what the finished cells teach about how long others will take."""
    clock = estimate.Clock()
    took = attempts(places[0].root) if places else {}
    for place in places:
        past = took.get(place.cell.name, ())
        if place.finished and past:
            taken = sum(float(each["seconds"]) for each in past)
            clock.learn(estimated=estimate.seconds(place.settings), taken=taken)
    return clock


def _largest_child_gib() -> float:
    """Return the most memory that any finished run held."""
    found = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return found / (1 << 30 if sys.platform == "darwin" else 1 << 20)


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM, and a terminal that is closed, stop a sweep as Ctrl-C does, where signals can be taken."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    names = ("SIGINT", "SIGTERM", "SIGHUP")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]

    def interrupt(_number: int, _frame: object) -> None:
        for number in numbers:  # once: the runs are given their time to stop
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
