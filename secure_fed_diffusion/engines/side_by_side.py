"""Handlers that run side by side, as far as they wait for work that is done elsewhere.

Each handler runs until it asks for its piece of work (`ask`) or ends, one after the other and in their order:
what a handler does before it asks is done in that order, whatever is computed when.  What they asked for is
handed on in groups; if it is computed elsewhere the next handlers begin meanwhile.  At most `ahead` groups
are under way when another is begun, and a result is let go when its handler ends: what is held at once,
threads among it, does not grow with how many handlers there are.

What a handler does before `ask` is over before its group is handed on: a charge that is synced there is on
disk before anything is computed.

Not protected against: a handler that asks twice in one call, which is refused as a mistake of the program.

>>> def double(jobs):
...     done = Future()
...     done.set_result([2 * job for job in jobs])
...     return done
>>> beside = SideBySide(double, groups=[2])
>>> beside.run({c: lambda c=c: str(beside.ask(c)).encode() for c in range(3)})
{0: b'0', 1: b'2', 2: b'4'}
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from itertools import chain, repeat
from typing import Any

from secure_fed_diffusion.engines.workers import WorkerError
from secure_fed_diffusion.errors import PhaseError, SecureFedDiffusionError

Submit = Callable[[Sequence[Any]], "Future[Sequence[Any]]"]
"""Begin to compute the jobs of one group; the future holds their results, in order."""

Outcome = bytes | SecureFedDiffusionError


class Stopped(BaseException):
    """Ends a handler whose exchange was given up: what it charged stays charged, and nothing leaves it."""


class SideBySide:
    """Runs handlers: they are handed on in `groups` of so many at most, and `hands` go on at once after that.

    Groups behind the last of these are of its size.  `same` says of two jobs whether they go together;
    `begin` is called before the first handler of a `run`; `n` is how many compute.
    """

    def __init__(
        self,
        submit: Submit,
        *,
        groups: Sequence[int] = (1,),
        ahead: int = 1,
        hands: int = 1,
        same: Callable[[Any, Any], bool] = lambda first, other: True,
        begin: Callable[[], None] = lambda: None,
        n: int = 1,
    ) -> None:
        self.n = n
        self._submit, self._groups, self._ahead, self._hands = submit, tuple(groups), ahead, hands
        self._same, self._begin = same, begin
        self._here = threading.local()

    def ask(self, job: Any) -> Any:
        """Hand in a job from inside a handler, and wait for its result.

        Raises:
            SecureFedDiffusionError: what its computation raised.
            PhaseError: no handler of `run` is calling, or it has asked before.
        """
        walk: _Walk | None = getattr(self._here, "walk", None)
        if walk is None:
            raise PhaseError("work was asked for outside an exchange")
        return walk.ask(job)

    def run(self, calls: Mapping[int, Callable[[], bytes]]) -> dict[int, Outcome]:
        """Call all; return what each returned, or the error of ours that it raised, in their order.

        Raises:
            BaseException: any other error, a handler's or its work's, when no handler is left running.
        """
        self._begin()
        walks = {name: _Walk(call, self._here) for name, call in calls.items()}
        waiting: list[_Walk] = []
        under_way: deque[tuple[list[_Walk], Future[Sequence[Any]]]] = deque()
        sizes = chain(self._groups, repeat(self._groups[-1]))
        size = next(sizes)

        def hand_on() -> None:
            nonlocal size
            if waiting:
                size = next(sizes)
                under_way.append((list(waiting), self._submit([walk.job for walk in waiting])))
                waiting.clear()

        try:
            for walk in walks.values():
                if not walk.begin():
                    walk.require_no_accident()
                    continue
                if waiting and not self._same(waiting[0].job, walk.job):
                    hand_on()
                waiting.append(walk)
                if len(waiting) == size:
                    hand_on()
                while len(under_way) > self._ahead:
                    self._settle(*under_way.popleft())
            hand_on()
            while under_way:
                self._settle(*under_way.popleft())
        except BaseException:
            for walk in walks.values():
                walk.give_up()
            raise
        return {name: walk.outcome() for name, walk in walks.items()}

    def _settle(self, walks: Sequence[_Walk], done: Future[Sequence[Any]]) -> None:
        """Wait for a group's results and let its handlers end."""
        try:
            results: Sequence[Any] = done.result()
        except WorkerError:
            raise
        except SecureFedDiffusionError as error:
            results = [error] * len(walks)
        pairs = list(zip(walks, results, strict=True))
        for start in range(0, len(pairs), self._hands):
            part = pairs[start : start + self._hands]
            for walk, result in part:
                walk.answer(result)
            for walk, _ in part:
                walk.end()


class _Walk:
    """One handler's call, in a thread of its own that stands still while it waits."""

    def __init__(self, call: Callable[[], bytes], here: threading.local) -> None:
        self.job: Any = None
        self._call, self._here = call, here
        self._asked = False
        self._paused, self._answered = threading.Event(), threading.Event()
        self._answer: Any = None
        self._result: bytes | None = None
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def begin(self) -> bool:
        """Run until it asks (True) or ends (False)."""
        thread = threading.Thread(target=self._go, daemon=True)
        thread.start()
        self._thread = thread  # not before: one that could not start cannot be waited for either
        self._paused.wait()
        return self._asked

    def _go(self) -> None:
        self._here.walk = self
        try:
            self._result = self._call()
        except BaseException as error:  # told apart, and raised, by whoever runs the handlers
            self._error = error
        finally:
            self._paused.set()

    def ask(self, job: Any) -> Any:
        if self._asked:
            raise PhaseError("a handler asks for one piece of work in a call")
        self.job, self._asked = job, True
        self._paused.set()
        self._answered.wait()
        self.job = None  # its weights need not outlive the wait
        answer, self._answer = self._answer, None  # nor does its result outlive the call
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def answer(self, result: Any) -> None:
        self._answer = result
        self._answered.set()

    def end(self) -> None:
        """Wait until the call is over."""
        if self._thread is not None:
            self._thread.join()
        self.require_no_accident()

    def give_up(self) -> None:
        """End it, wherever it stands; one that has not begun does nothing."""
        if not self._answered.is_set():
            self.answer(Stopped())
        if self._thread is not None:
            self._thread.join()

    def require_no_accident(self) -> None:
        if self._error is not None and not isinstance(self._error, SecureFedDiffusionError):
            raise self._error

    def outcome(self) -> Outcome:
        if isinstance(self._error, SecureFedDiffusionError):
            return self._error
        if self._result is None:
            raise PhaseError("a handler that never ran")
        return self._result
