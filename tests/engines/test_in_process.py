"""An engine carries bytes: it delivers, it loses what is rehearsed, and it hides no accident."""

from __future__ import annotations

import pytest

from secure_fed_diffusion.engines.in_process import InProcessEngine
from secure_fed_diffusion.errors import BudgetExceededError, PolicyError


def echo(client_id: int) -> object:
    return lambda frame: bytes([client_id]) + frame


def engine_of(n: int = 3, **more: object) -> InProcessEngine:
    return InProcessEngine({client_id: echo(client_id) for client_id in range(n)}, **more)


def test_every_client_gets_its_own_frame_and_answers_for_itself() -> None:
    replies = engine_of().exchange({0: b"a", 2: b"c"}, round=1, phase="advertise")
    assert replies.frames == {0: b"\x00a", 2: b"\x02c"}
    assert replies.refusals == {}
    assert replies.client_seconds >= 0


def test_no_frames_are_no_answers() -> None:
    assert engine_of().exchange({}, round=1, phase="unmask").frames == {}


def test_whoever_is_absent_never_sees_the_frame() -> None:
    asked, received = [], []

    def absent(number: int, client_id: int, phase: str) -> bool:
        asked.append((number, client_id, phase))
        return client_id == 1 and phase == "masked_input"

    handlers = {c: lambda frame, c=c: received.append(c) or frame for c in range(3)}
    engine = InProcessEngine(handlers, absent)
    frames = dict.fromkeys(range(3), b"x")
    assert sorted(engine.exchange(frames, round=4, phase="masked_input").frames) == [0, 2]
    assert received == [0, 2]
    assert asked == [(4, c, "masked_input") for c in range(3)]
    assert sorted(engine.exchange(frames, round=4, phase="unmask").frames) == [0, 1, 2]


@pytest.mark.parametrize("error", [PolicyError("too few"), BudgetExceededError("spent")])
def test_a_refusal_is_kept_with_its_reason_and_the_others_go_on(error: Exception) -> None:
    def refuse(frame: bytes) -> bytes:
        raise error

    engine = InProcessEngine({0: echo(0), 1: refuse, 2: echo(2)})
    replies = engine.exchange(dict.fromkeys(range(3), b""), round=1, phase="share_keys")
    assert sorted(replies.frames) == [0, 2]
    assert replies.refusals == {1: error}


@pytest.mark.parametrize("accident", [ValueError, MemoryError, KeyboardInterrupt])
def test_an_accident_is_no_refusal(accident: type[BaseException]) -> None:
    def stumble(frame: bytes) -> bytes:
        raise accident

    with pytest.raises(accident):
        InProcessEngine({0: stumble}).exchange({0: b""}, round=1, phase="advertise")
