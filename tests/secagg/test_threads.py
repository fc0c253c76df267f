"""Frames come in threads: none is lost, none counts twice, and no step is answered in two ways."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from secure_fed_diffusion.errors import ConfigError, PhaseError
from secure_fed_diffusion.secagg.client_setup import ClientSetup
from secure_fed_diffusion.secagg.phases import DONE, FAILED
from secure_fed_diffusion.secagg.server_round import ServerRound

from .rounds import Round, make_params, make_session, model_of, plain_sum


def at_once(*calls: Callable[[], Any]) -> tuple[list[Any], list[BaseException]]:
    """Run all calls in threads of their own; return what they returned, and what they raised."""
    returned: list[Any] = []
    raised: list[BaseException] = []
    start = threading.Barrier(len(calls))

    def go(call: Callable[[], Any]) -> None:
        start.wait()
        try:
            returned.append(call())
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=go, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return returned, raised


def slowly(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, *, inside: threading.Event | None = None
) -> None:
    """Let a method take so long that another thread would come in, if it could; fail if one does."""
    entered, method = inside or threading.Event(), getattr(owner, name)

    def slow(self: Any, *arguments: Any) -> Any:
        if entered.is_set():
            raise AssertionError("two threads are in one step")
        entered.set()
        time.sleep(0.05)
        found = method(self, *arguments)
        if inside is None:
            entered.clear()
        return found

    monkeypatch.setattr(owner, name, slow)


@pytest.mark.parametrize("case", ["semi_honest", "active"])
def test_a_frame_that_comes_twice_at_once_is_in_the_sum_once(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_round = Round.of(case).run_to("masked_input")
    frames = a_round.answers()
    slowly(monkeypatch, ServerRound, "take")
    twice = [lambda v=v: a_round.server.receive(v, frames[v]) for v in (*frames, 0)]
    _, raised = at_once(*twice)
    assert [type(error) for error in raised] == [PhaseError]
    a_round.inbox = a_round.server.advance()
    monkeypatch.undo()
    a_round.finish()
    expected = plain_sum(a_round.session, a_round.vectors, a_round.session.cohort)
    assert np.array_equal(a_round.server.total, expected)


def test_a_phase_is_not_closed_while_a_frame_is_being_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    a_round = Round.of("semi_honest").run_to("masked_input")
    frames, inside = a_round.answers(), threading.Event()
    for v in (1, 2, 3, 4):
        a_round.server.receive(v, frames[v])
    slowly(monkeypatch, ServerRound, "take", inside=inside)

    def close() -> dict[int, bytes]:
        inside.wait()
        return a_round.server.advance()

    _, raised = at_once(lambda: a_round.server.receive(0, frames[0]), close)
    assert not raised
    assert a_round.server.expected == (0, 1, 2, 3, 4)


def test_a_round_is_not_opened_while_one_is_being_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    a_round = Round(make_session(make_params(n_rounds=2))).run_to("unmask")
    for v, frame in a_round.answers().items():
        a_round.server.receive(v, frame)
    inside = threading.Event()
    slowly(monkeypatch, ServerRound, "close", inside=inside)

    def begin() -> dict[int, bytes]:
        inside.wait()
        return a_round.server.begin(1, model_digest=model_of(1))

    _, raised = at_once(a_round.server.advance, begin)
    assert not raised
    assert a_round.server.phase == "masked_input"


@pytest.mark.parametrize("begun_again", [False, True])
def test_a_client_masks_one_vector_whatever_threads_call_it(
    begun_again: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_round = Round(make_session(make_params(n_rounds=2))).finish()
    a_round.begin(1)
    client, frame = a_round.clients[0], a_round.inbox[0]
    inside = threading.Event()
    slowly(monkeypatch, ClientSetup, "take_round", inside=inside)

    def begin() -> bytes | None:
        inside.wait()
        client.begin(1, model_digest=model_of(1))
        return None

    calls = [
        lambda value=value: client.masked_input(frame, np.full(16, value, np.uint32)) for value in (5, 9)
    ]
    returned, raised = at_once(*calls, *[begin] * begun_again)
    assert len([each for each in returned if each is not None]) == 1
    assert all(isinstance(error, PhaseError) for error in raised)
    assert client.phase == FAILED


@pytest.mark.parametrize("client_id", ["1", True, 1.0, None, [1]])
def test_the_server_takes_no_frame_under_what_is_no_id(client_id: Any) -> None:
    a_round = Round.of("semi_honest").run_to("masked_input")
    frames = a_round.answers()
    with pytest.raises(ConfigError, match="client_id: expected an integer"):
        a_round.server.receive(client_id, frames[1])
    assert a_round.server.heard == ()


def test_a_total_that_the_server_shows_cannot_be_written_to() -> None:
    a_round = Round.of("semi_honest").run_to("masked_input")
    a_round.finish()
    assert a_round.server.phase == DONE
    with pytest.raises(ValueError, match="read-only"):
        a_round.server.total[0] = 0


@pytest.mark.parametrize(
    "vector", [np.zeros(9, np.uint32), np.full(16, np.nan), np.full(16, 2**40), [[1], [1, 2]], None]
)
def test_a_vector_that_is_none_burns_nothing(vector: Any) -> None:
    a_round = Round.of("semi_honest").run_to("masked_input")
    with pytest.raises(ConfigError, match="vector: expected"):
        a_round.clients[0].masked_input(a_round.inbox[0], vector)
    assert a_round.clients[0].phase == "masked_input"
    a_round.finish()
    expected = plain_sum(a_round.session, a_round.vectors, a_round.session.cohort)
    assert np.array_equal(a_round.server.total, expected)
