"""Frames come in threads: none is lost, none counts twice, and no step is answered in two ways."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from secure_fed_diffusion.errors import ConfigError, PhaseError
from secure_fed_diffusion.secagg.phases import DONE, FAILED, PROFILES, Machine
from secure_fed_diffusion.secagg.server_round import ServerRound

from .rounds import Round, plain_sum


def at_once(*calls: Callable[[], Any]) -> list[BaseException]:
    """Run all calls in threads of their own; return what they raised."""
    raised: list[BaseException] = []
    start = threading.Barrier(len(calls))

    def go(call: Callable[[], Any]) -> None:
        start.wait()
        try:
            call()
        except PhaseError as error:
            raised.append(error)

    threads = [threading.Thread(target=go, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return raised


@pytest.mark.parametrize("case", ["semi_honest", "active"])
def test_a_frame_that_comes_twice_at_once_is_in_the_sum_once(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_round = Round.of(case).run_to("masked_input")
    frames = a_round.answers()
    inside, take = threading.Event(), ServerRound.take

    def slowly(self: ServerRound, *arguments: Any) -> None:
        if inside.is_set():  # a second one is let in while the first is still here
            pytest.fail("two frames are being taken at once")
        inside.set()
        threading.Event().wait(0.05)
        take(self, *arguments)
        inside.clear()

    monkeypatch.setattr(ServerRound, "take", slowly)
    twice = [lambda v=v: a_round.server.receive(v, frames[v]) for v in (*frames, 0)]
    assert len(at_once(*twice)) == 1
    a_round.inbox = a_round.server.advance()
    monkeypatch.undo()
    a_round.finish()
    expected = plain_sum(a_round.session, a_round.vectors, a_round.session.cohort)
    assert np.array_equal(a_round.server.total, expected)


def test_of_threads_that_find_a_step_due_one_runs_it() -> None:
    for _ in range(200):
        machine, ran = Machine(PROFILES["active"]), []

        def step(machine: Machine = machine, ran: list[int] = ran) -> None:
            with machine.step("advertise"):
                ran.append(1)

        raised = at_once(step, step, step)
        assert (len(ran), len(raised)) == (1, 2)
        assert machine.phase in (FAILED, "share_keys")


def test_two_threads_get_one_masked_vector_from_a_client() -> None:
    a_round = Round.of("semi_honest").run_to("masked_input")
    client, frame = a_round.clients[0], a_round.inbox[0]
    vectors = [np.full(16, value, dtype=np.uint32) for value in (5, 9)]
    raised = at_once(*(lambda vector=vector: client.masked_input(frame, vector) for vector in vectors))
    assert len(raised) >= 1


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
