"""The engine over Flower: own polling, a time limit, refusals by name, and nothing of another exchange."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pytest

pytest.importorskip("flwr", reason="the extra `flower` is not installed")

from flwr.app import Context, Message

from secure_fed_diffusion.engines.flower import MAX_REASON, FlowerEngine, encode_frame, encode_refusal
from secure_fed_diffusion.errors import (
    BudgetExceededError,
    FrameError,
    PolicyError,
    RunError,
    SecureFedDiffusionError,
)
from secure_fed_diffusion.flower_app.client_app import make_client_app
from tests.flower_app.memory_grid import FIRST_NODE, Delivery, Fate, MemoryGrid, task

Handle = Callable[[int, bytes], bytes]


@dataclass
class Node:
    partition: int
    answer: Handle

    def handle(self, frame: bytes) -> bytes:
        return self.answer(self.partition, frame)


def echo(partition: int, frame: bytes) -> bytes:
    return bytes([partition]) + frame


def grid_of(n: int = 3, answer: Handle = echo, fate: Fate | None = None) -> MemoryGrid:
    def open_party(context: Context) -> Any:
        return nullcontext(Node(int(context.node_config["partition-id"]), answer))

    return MemoryGrid(make_client_app(open_party), n, **({} if fate is None else {"fate": fate}))


def engine_on(grid: MemoryGrid, **more: Any) -> FlowerEngine:
    nodes = {client_id: grid.first_node + client_id for client_id in range(grid.n_nodes)}
    return FlowerEngine(grid=grid, nodes=nodes, poll_seconds=0.0, **more)


class Clock:
    """Moves a second with each look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


@pytest.fixture(autouse=True)
def _task() -> Iterator[None]:
    with task():
        yield


def test_every_client_gets_its_own_frame_and_answers_for_itself() -> None:
    replies = engine_on(grid_of()).exchange({0: b"a", 2: b"c"}, round=1, phase="advertise")
    assert replies.frames == {0: b"\x00a", 2: b"\x02c"}
    assert replies.refusals == {}
    assert replies.client_seconds >= 0


def test_no_frames_are_no_answers_and_no_messages() -> None:
    grid = grid_of()
    assert engine_on(grid).exchange({}, round=1, phase="unmask").frames == {}
    assert grid.delivered == []
    assert grid.pulls == 0


def test_frames_are_pushed_in_batches_of_a_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    grid, sizes = grid_of(5), []
    honest = grid.push_messages

    def watched(messages: Any) -> Any:
        pushed = list(messages)
        sizes.append(len(pushed))
        return honest(pushed)

    monkeypatch.setattr(grid, "push_messages", watched)
    monkeypatch.setattr("secure_fed_diffusion.engines.flower.BATCH_BYTES", 10)
    frames = {client_id: bytes(6) for client_id in range(5)}
    assert sorted(engine_on(grid).exchange(frames, round=1, phase="advertise").frames) == [0, 1, 2, 3, 4]
    assert sizes == [2, 2, 1]


def test_a_client_without_a_node_is_gone() -> None:
    engine = engine_on(grid_of())
    engine.nodes = {0: FIRST_NODE}
    assert engine.exchange({0: b"a", 1: b"b"}, round=1, phase="advertise").frames == {0: b"\x00a"}


def test_whoever_is_absent_never_sees_the_frame() -> None:
    grid = grid_of()
    engine = engine_on(
        grid, absent=lambda number, client_id, phase: (number, client_id, phase) == (4, 1, "x")
    )
    assert sorted(engine.exchange(dict.fromkeys(range(3), b""), round=4, phase="x").frames) == [0, 2]
    assert [delivery.partition for delivery in grid.delivered] == [0, 2]
    assert sorted(engine.exchange(dict.fromkeys(range(3), b""), round=5, phase="x").frames) == [0, 1, 2]


@pytest.mark.parametrize("error", [PolicyError("too few"), BudgetExceededError("spent"), FrameError("bad")])
def test_a_refusal_comes_back_under_its_own_name_and_the_others_go_on(error: SecureFedDiffusionError) -> None:
    def refuse(partition: int, frame: bytes) -> bytes:
        if partition == 1:
            raise error
        return echo(partition, frame)

    replies = engine_on(grid_of(answer=refuse)).exchange(
        dict.fromkeys(range(3), b""), round=1, phase="share_keys"
    )
    assert sorted(replies.frames) == [0, 2]
    assert type(replies.refusals[1]) is type(error)
    assert str(replies.refusals[1]) == str(error)


def test_an_accident_at_a_node_costs_that_node_alone_and_its_words_are_not_shown() -> None:
    def stumble(partition: int, frame: bytes) -> bytes:
        if partition == 2:
            raise ValueError("the label of record 7 is 3")
        return echo(partition, frame)

    replies = engine_on(grid_of(answer=stumble)).exchange(dict.fromkeys(range(3), b""), round=1, phase="x")
    assert sorted(replies.frames) == [0, 1]
    assert type(replies.refusals[2]) is RunError
    assert "record" not in str(replies.refusals[2])


def test_a_refusal_in_a_foreign_tongue_is_cut_and_becomes_an_error_of_ours() -> None:
    long = "x" * 10_000

    def forge(message: Message, context: Context) -> Message:
        name = str(message.content.config_records["frame"]["exchange"])
        content = encode_refusal(RunError(long), name)
        content.config_records["refusal"]["kind"] = "SystemExit"
        content.config_records["refusal"]["reason"] = long
        return Message(content, reply_to=message)

    grid = grid_of(1)
    grid.client_app = forge  # type: ignore[assignment]
    found = engine_on(grid).exchange({0: b""}, round=1, phase="x").refusals[0]
    assert type(found) is RunError
    assert len(str(found)) == MAX_REASON


@pytest.mark.parametrize("content", ["nothing", "text", "no exchange"])
def test_a_reply_that_holds_no_frame_is_a_refusal(content: str) -> None:
    def mangle(message: Message, context: Context) -> Message:
        name = str(message.content.config_records["frame"]["exchange"])
        reply = encode_frame(b"frame", name)
        record = reply.config_records["frame"]
        if content == "nothing":
            del reply["frame"]
        elif content == "text":
            record["bytes"] = "frame"
        else:
            del record["exchange"]
        return Message(reply, reply_to=message)

    grid = grid_of(1)
    grid.client_app = mangle  # type: ignore[assignment]
    replies = engine_on(grid).exchange({0: b""}, round=1, phase="x")
    assert replies.frames == {}
    assert isinstance(replies.refusals[0], FrameError)


def test_the_time_limit_ends_the_wait_for_who_does_not_answer() -> None:
    grid = grid_of(fate=lambda delivery: "unanswered" if delivery.partition == 1 else "answered")
    engine = engine_on(grid, time_limit_seconds=20.0, clock=Clock())
    replies = engine.exchange(dict.fromkeys(range(3), b""), round=1, phase="x")
    assert sorted(replies.frames) == [0, 2]
    assert replies.refusals == {}
    assert 1 < grid.pulls < 25


def test_an_answer_within_the_limit_is_waited_for() -> None:
    grid = grid_of(fate=lambda delivery: 5 if delivery.partition == 1 else "answered")
    engine = engine_on(grid, time_limit_seconds=20.0, clock=Clock())
    assert sorted(engine.exchange(dict.fromkeys(range(3), b""), round=1, phase="x").frames) == [0, 1, 2]
    assert grid.pulls == 6


def test_a_reply_to_an_earlier_exchange_is_dropped_by_its_message() -> None:
    grid = grid_of(fate=lambda delivery: "unanswered" if delivery.number == 0 else "answered")
    engine = engine_on(grid, time_limit_seconds=5.0, clock=Clock())
    assert engine.exchange({0: b"old"}, round=1, phase="x").frames == {}
    grid.strays = [grid.replies[0]]  # it arrives while the next exchange is under way
    assert engine.exchange({0: b"new"}, round=1, phase="x").frames == {0: b"\x00new"}


def test_a_reply_that_names_another_exchange_is_dropped_though_it_answers_this_message() -> None:
    def late(message: Message, context: Context) -> Message:
        return Message(encode_frame(b"of yesterday", "1/x/0011223344556677"), reply_to=message)

    grid = grid_of(1)
    honest, grid.client_app = grid.client_app, late  # type: ignore[assignment]
    engine = engine_on(grid, time_limit_seconds=5.0, clock=Clock())
    replies = engine.exchange({0: b"today"}, round=1, phase="x")
    assert (replies.frames, replies.refusals) == ({}, {})
    grid.client_app = honest
    assert engine.exchange({0: b"today"}, round=1, phase="x").frames == {0: b"\x00today"}


def test_a_refusal_that_names_another_exchange_is_dropped_too() -> None:
    def late(message: Message, context: Context) -> Message:
        return Message(encode_refusal(PolicyError("no"), "1/x/0011223344556677"), reply_to=message)

    grid = grid_of(1)
    grid.client_app = late  # type: ignore[assignment]
    replies = engine_on(grid, time_limit_seconds=5.0, clock=Clock()).exchange({0: b""}, round=1, phase="x")
    assert (replies.frames, replies.refusals) == ({}, {})


def test_a_reply_of_a_node_that_was_not_asked_is_dropped() -> None:
    def impersonate(message: Message, context: Context) -> Message:
        name = str(message.content.config_records["frame"]["exchange"])
        reply = Message(encode_frame(b"mine", name), reply_to=message)
        reply.metadata.__dict__["_src_node_id"] = 31337
        return reply

    grid = grid_of(1)
    grid.client_app = impersonate  # type: ignore[assignment]
    replies = engine_on(grid, time_limit_seconds=5.0, clock=Clock()).exchange({0: b""}, round=1, phase="x")
    assert (replies.frames, replies.refusals) == ({}, {})


def test_the_second_of_two_replies_to_one_message_is_dropped() -> None:
    grid = grid_of(2, fate=lambda delivery: 3 if delivery.partition == 1 else "answered")
    seen: list[Delivery] = []

    def twice(delivery: Delivery) -> int | str:
        if delivery.partition == 0:
            seen.append(delivery)
            return "answered"
        again = Message(encode_frame(b"another", delivery.exchange), reply_to=seen[0].message)
        grid.strays = [again]
        return 3

    grid.fate = twice
    replies = engine_on(grid).exchange({0: b"a", 1: b"b"}, round=1, phase="x")
    assert replies.frames == {0: b"\x00a", 1: b"\x01b"}


def test_two_exchanges_never_bear_one_name() -> None:
    grid = grid_of(1)
    engine = engine_on(grid)
    for _ in range(3):
        engine.exchange({0: b"same"}, round=1, phase="x")
    assert len({delivery.exchange for delivery in grid.delivered}) == 3


def test_stopping_ends_the_exchange_under_way() -> None:
    grid = grid_of(fate=lambda delivery: "unanswered")
    engine = engine_on(grid)
    engine.stopped.set()
    with pytest.raises(KeyboardInterrupt):
        engine.exchange({0: b"a"}, round=1, phase="x")
