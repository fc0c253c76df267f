"""Handlers side by side: what each does before it asks is done in order, and before anything is computed."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import pytest

from secure_fed_diffusion.engines.in_process import InProcessEngine
from secure_fed_diffusion.engines.side_by_side import SideBySide
from secure_fed_diffusion.engines.workers import WorkerError
from secure_fed_diffusion.errors import BudgetExceededError, ConfigError, PhaseError

Submit = Callable[[Sequence[Any]], "Future[Sequence[Any]]"]


def done(result: Any) -> Future[Sequence[Any]]:
    future: Future[Sequence[Any]] = Future()
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)
    return future


def later(function: Callable[[Sequence[Any]], Sequence[Any]]) -> Submit:
    """Return a submit that computes in a thread of its own, the first group last of all."""

    def submit(jobs: Sequence[Any]) -> Future[Sequence[Any]]:
        future: Future[Sequence[Any]] = Future()
        threading.Timer(0.05 if 0 in jobs else 0.0, lambda: future.set_result(function(jobs))).start()
        return future

    return submit


class Result:
    """Something that can be seen to be let go."""

    frame = b"frame"


def engine_of(beside: SideBySide, n: int, before: list[int], after: list[int]) -> InProcessEngine:
    def handler(client_id: int) -> Callable[[bytes], bytes]:
        def handle(frame: bytes) -> bytes:
            before.append(client_id)
            answer = beside.ask(client_id)
            after.append(client_id)
            return frame + bytes([answer])

        return handle

    return InProcessEngine({c: handler(c) for c in range(n)}, beside=beside)


@pytest.mark.parametrize("group", [1, 2, 3, 7, 10])
def test_every_handler_gets_its_own_result_and_begins_in_its_order(group: int) -> None:
    before: list[int] = []
    beside = SideBySide(later(lambda jobs: [2 * job for job in jobs]), groups=[group], ahead=2, hands=2)
    replies = engine_of(beside, 7, before, []).exchange(dict.fromkeys(range(7), b"x"), round=1, phase="any")
    assert replies.frames == {c: b"x" + bytes([2 * c]) for c in range(7)}
    assert list(replies.frames) == before == list(range(7))


@pytest.mark.parametrize("group", [1, 2, 5])
def test_nothing_is_handed_on_before_its_handlers_have_done_what_comes_before(group: int) -> None:
    before: list[int] = []
    seen: list[tuple[list[int], list[int]]] = []

    def submit(jobs: Sequence[int]) -> Future[Sequence[Any]]:
        seen.append((list(jobs), list(before)))
        return done(list(jobs))

    beside = SideBySide(submit, groups=[group])
    engine_of(beside, 5, before, []).exchange(dict.fromkeys(range(5), b""), round=1, phase="any")
    assert [job for jobs, _ in seen for job in jobs] == list(range(5))
    assert max(len(jobs) for jobs, _ in seen) == group
    for jobs, charged in seen:
        assert set(jobs) <= set(charged)


@pytest.mark.parametrize(
    ("groups", "handed_on"), [((3, 2), [3, 2, 2, 1]), ((1, 4), [1, 4, 3]), ((9,), [8]), ((5, 3, 7), [5, 3])]
)
def test_groups_have_the_sizes_that_were_asked_for(groups: tuple[int, ...], handed_on: list[int]) -> None:
    seen: list[int] = []

    def submit(jobs: Sequence[int]) -> Future[Sequence[Any]]:
        seen.append(len(jobs))
        return done(list(jobs))

    beside = SideBySide(submit, groups=groups)
    for _ in range(2):  # each exchange begins with the first
        engine_of(beside, 8, [], []).exchange(dict.fromkeys(range(8), b""), round=1, phase="any")
    assert seen == handed_on * 2


def test_with_one_pair_of_hands_handlers_end_in_their_order_too() -> None:
    after: list[int] = []
    beside = SideBySide(lambda jobs: done(list(jobs)), groups=[2], ahead=1)
    engine_of(beside, 6, [], after).exchange(dict.fromkeys(range(6), b""), round=1, phase="any")
    assert after == list(range(6))


def test_only_so_many_groups_are_ahead_of_the_slowest() -> None:
    before: list[int] = []
    held: list[Future[Sequence[Any]]] = []
    most = 0

    def submit(jobs: Sequence[int]) -> Future[Sequence[Any]]:
        nonlocal most
        future: Future[Sequence[Any]] = Future()
        held.append(future)
        most = max(most, sum(not each.done() for each in held))
        threading.Timer(0.02, lambda: future.set_result(list(jobs))).start()
        return future

    beside = SideBySide(submit, groups=[2], ahead=2)
    engine_of(beside, 20, before, []).exchange(dict.fromkeys(range(20), b""), round=1, phase="any")
    assert len(held) == 10
    assert most <= 3


@pytest.mark.parametrize(("group", "ahead", "most"), [(5, 0, 5), (5, 1, 10), (1, 1, 2)])
def test_results_and_threads_are_let_go_while_the_others_wait(group: int, ahead: int, most: int) -> None:
    threads = threading.active_count()
    results: list[weakref.ref[Result]] = []
    alive: list[int] = []

    def submit(jobs: Sequence[int]) -> Future[Sequence[Any]]:
        found = [Result() for _ in jobs]
        results.extend(map(weakref.ref, found))
        alive.append(sum(result() is not None for result in results))
        assert threading.active_count() - threads <= most
        return done(found)

    beside = SideBySide(submit, groups=[group], ahead=ahead)
    calls = {c: lambda c=c: beside.ask(c).frame for c in range(40)}
    assert beside.run(calls) == dict.fromkeys(range(40), b"frame")
    assert len(alive) == 40 // group
    assert max(alive) <= most


def test_a_thread_that_cannot_start_is_the_error_that_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    honest, threads = threading.Thread.start, threading.active_count()

    def start(thread: threading.Thread) -> None:
        if threading.active_count() >= threads + 3:
            raise RuntimeError("can't start new thread")
        honest(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    after: list[int] = []
    beside = SideBySide(lambda jobs: done(list(jobs)), groups=[9])
    with pytest.raises(RuntimeError, match="can't start new thread"):
        engine_of(beside, 9, [], after).exchange(dict.fromkeys(range(9), b""), round=1, phase="any")
    assert after == []
    assert threading.active_count() <= threads


def test_jobs_that_do_not_go_together_are_handed_on_apart() -> None:
    groups: list[list[int]] = []

    def submit(jobs: Sequence[int]) -> Future[Sequence[Any]]:
        groups.append(list(jobs))
        return done(list(jobs))

    beside = SideBySide(submit, groups=[10], same=lambda first, other: first // 3 == other // 3)
    engine_of(beside, 7, [], []).exchange(dict.fromkeys(range(7), b""), round=1, phase="any")
    assert groups == [[0, 1, 2], [3, 4, 5], [6]]


def test_a_handler_that_asks_for_nothing_is_called_all_the_same() -> None:
    beside = SideBySide(lambda jobs: done(list(jobs)), groups=[2])
    engine = InProcessEngine({c: lambda frame: frame + b"!" for c in range(3)}, beside=beside)
    replies = engine.exchange(dict.fromkeys(range(3), b"hey"), round=1, phase="advertise")
    assert replies.frames == dict.fromkeys(range(3), b"hey!")


def test_a_refusal_before_the_work_is_kept_and_the_others_go_on() -> None:
    beside = SideBySide(lambda jobs: done(list(jobs)), groups=[2])

    def broke(frame: bytes) -> bytes:
        raise BudgetExceededError("spent")

    engine = engine_of(beside, 4, [], [])
    engine.handlers = {**engine.handlers, 1: broke}
    replies = engine.exchange(dict.fromkeys(range(4), b""), round=1, phase="any")
    assert sorted(replies.frames) == [0, 2, 3]
    assert {c: (type(error), str(error)) for c, error in replies.refusals.items()} == {
        1: (BudgetExceededError, "spent")
    }


def test_an_error_of_ours_from_the_work_is_a_refusal_of_those_that_it_was_for() -> None:
    def submit(jobs: Sequence[int]) -> Future[Sequence[Any]]:
        return done(ConfigError("no") if 2 in jobs else list(jobs))

    replies = engine_of(SideBySide(submit, groups=[2]), 6, [], []).exchange(
        dict.fromkeys(range(6), b""), round=1, phase="any"
    )
    assert sorted(replies.frames) == [0, 1, 4, 5]
    assert [type(replies.refusals[c]) for c in (2, 3)] == [ConfigError, ConfigError]


@pytest.mark.parametrize("accident", [WorkerError("gone"), MemoryError(), KeyboardInterrupt()])
def test_an_accident_at_work_ends_the_exchange_and_every_handler(accident: BaseException) -> None:
    after: list[int] = []
    threads = threading.active_count()

    def submit(jobs: Sequence[int]) -> Future[Sequence[Any]]:
        return done(accident if 3 in jobs else list(jobs))

    engine = engine_of(SideBySide(submit, groups=[1], ahead=1), 9, [], after)
    with pytest.raises(type(accident)):
        engine.exchange(dict.fromkeys(range(9), b""), round=1, phase="any")
    assert after == [0, 1, 2]
    assert threading.active_count() <= threads


def test_an_interrupt_while_work_is_waited_for_leaves_no_handler_behind() -> None:
    threads = threading.active_count()

    class Interrupted(Future):  # type: ignore[type-arg]
        def result(self, timeout: float | None = None) -> Any:
            raise KeyboardInterrupt

    after: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        engine_of(SideBySide(lambda jobs: Interrupted(), groups=[3]), 5, [], after).exchange(
            dict.fromkeys(range(5), b""), round=1, phase="any"
        )
    assert after == []
    assert threading.active_count() <= threads


def test_an_accident_in_a_handler_is_no_refusal() -> None:
    beside = SideBySide(lambda jobs: done(list(jobs)), groups=[2])

    def stumble(frame: bytes) -> bytes:
        raise ValueError("wrong")

    engine = engine_of(beside, 3, [], [])
    engine.handlers = {**engine.handlers, 1: stumble}
    with pytest.raises(ValueError, match="wrong"):
        engine.exchange(dict.fromkeys(range(3), b""), round=1, phase="any")


def test_work_is_asked_for_inside_an_exchange_and_once() -> None:
    beside = SideBySide(lambda jobs: done(list(jobs)))
    with pytest.raises(PhaseError, match="outside"):
        beside.ask(1)

    def greedy(frame: bytes) -> bytes:
        return bytes([beside.ask(1), beside.ask(2)])

    replies = InProcessEngine({0: greedy}, beside=beside).exchange({0: b""}, round=1, phase="any")
    assert isinstance(replies.refusals[0], PhaseError)
