"""Losses in every phase, under-noised sums, retries and charges."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from secure_fed_diffusion.errors import (
    BudgetExceededError,
    FrameError,
    PhaseError,
    PolicyError,
    RunError,
    SecureFedDiffusionError,
)
from secure_fed_diffusion.federation.messages import Announcement, unwrap, wrap
from secure_fed_diffusion.federation.rounds import run_rounds
from secure_fed_diffusion.federation.server import Server
from tests.federation.small import Federation, federation, settings_for


def first_round(it: Federation):
    return next(run_rounds(it.plan, it.server, it.engine, it.book, first=1, note=print))


@pytest.mark.parametrize("phase", ["advertise", "share_keys", "masked_input", "unmask"])
def test_one_client_may_vanish_before_any_phase(phase: str) -> None:
    it = federation(settings_for("distributed"))
    lost = it.plan.rounds[0].cohort[2]
    it.engine.absent = lambda number, client, step: (client, step) == (lost, phase)
    outcome = first_round(it)
    assert outcome.dropped == {lost: phase}
    assert (lost in outcome.survivors) == (phase == "unmask")  # its input was already in the sum
    charged = {c[0] for c in it.book.charges}
    assert (lost in charged) == (phase == "unmask")


@pytest.mark.parametrize("phase", ["advertise", "share_keys", "masked_input", "unmask"])
def test_too_few_clients_fail_the_round_as_often_as_was_reserved(phase: str) -> None:
    it = federation(settings_for("distributed"))
    cohort = it.plan.rounds[0].cohort
    it.engine.absent = lambda number, client, step: client in cohort[:2] and step == phase
    notes: list[str] = []
    with pytest.raises(RunError, match=r"round 1 failed, .* \(federation\.reserved_attempts=1\) are used"):
        next(run_rounds(it.plan, it.server, it.engine, it.book, first=1, note=notes.append))
    assert len(notes) == 1


@pytest.mark.parametrize("phase", ["advertise", "share_keys", "masked_input", "unmask"])
def test_too_few_clients_fail_a_round_in_any_phase_of_a_set_up_for_several(phase: str) -> None:
    it = federation(settings_for("distributed", "secagg.rounds_per_setup=4"))
    cohort = it.plan.rounds[0].cohort
    it.engine.absent = lambda number, client, step: client in cohort[:2] and step == phase
    with pytest.raises(RunError, match=r"round 1 failed, .* \(federation\.reserved_attempts=1\) are used"):
        first_round(it)
    least = {"advertise": 0, "share_keys": 0, "masked_input": 3, "unmask": 5}[phase]
    assert len(it.book.charges) == 2 * least


def test_a_failed_round_is_charged_and_done_again_under_a_new_attempt() -> None:
    it = federation(settings_for("distributed"))
    cohort = it.plan.rounds[0].cohort
    tries = []

    def absent(number: int, client: int, phase: str) -> bool:
        if client == cohort[0] and phase == "advertise":
            tries.append(phase)
        return len(tries) == 1 and client in cohort[:2] and phase == "unmask"

    it.engine.absent = absent
    outcome = first_round(it)
    assert outcome.attempt == 1
    assert {(c[0], c[2]) for c in it.book.charges} == {(c, a) for c in cohort for a in (0, 1)}


def test_the_attempt_that_a_kill_cut_short_is_one_of_the_repeats() -> None:
    it = federation(settings_for("distributed", "warmup.draws=0"))  # one repeat is reserved
    outgoing = it.server.open(1, 0)
    while len(it.book.charges) == 0:
        outgoing = it.server.take({c: it.clients[c].handle(frame) for c, frame in outgoing.items()})
    it = replace(it, server=Server("run", it.plan, it.server.model, None, roster=it.clients[0]._roster))
    it.engine.absent = lambda number, client, step: (
        number == 2 and client in it.plan.rounds[1].cohort[:2] and step == "unmask"
    )
    notes: list[str] = []
    loop = run_rounds(it.plan, it.server, it.engine, it.book, first=1, note=notes.append)
    outcome = next(loop)
    assert outcome.attempt == 1
    it.server.apply(outcome.total)
    with pytest.raises(RunError, match=r"round 2 failed, .* \(federation\.reserved_attempts=1\) are used"):
        next(loop)
    assert notes == []


def test_a_round_that_is_over_used_up_no_repeat() -> None:
    it = federation(settings_for("distributed", "warmup.draws=0"))  # one repeat is reserved
    loop = run_rounds(it.plan, it.server, it.engine, it.book, first=1, note=print)
    it.server.apply(next(loop).total)
    left = [True]
    lost = it.plan.rounds[1].cohort[:2]
    it.engine.absent = lambda number, client, step: bool(client in lost and step == "unmask" and left)
    notes: list[str] = []

    def note(text: str) -> None:
        notes.append(text)
        left.clear()

    resumed = run_rounds(it.plan, it.server, it.engine, it.book, first=2, note=note)
    assert next(resumed).attempt == 1
    assert len(notes) == 1


def test_enough_for_the_threshold_but_too_few_for_the_noise_is_never_unmasked() -> None:
    it = federation(settings_for("distributed", "federation.min_survivors=5"))
    lost = it.plan.rounds[0].cohort[0]
    it.engine.absent = lambda number, client, step: (client, step) == (lost, "masked_input")
    with pytest.raises(RunError, match="4 contributions, the plan's noise needs 5"):
        first_round(it)


def test_the_charge_is_written_before_the_contribution_leaves() -> None:
    it = federation(settings_for("distributed"))
    seen: list[tuple[str, int]] = []
    for client_id, handler in dict(it.engine.handlers).items():

        def watched(frame: bytes, handler=handler, client_id=client_id) -> bytes:
            before = len(it.book.charges)
            answer = handler(frame)
            seen.append((unwrap(frame)[0] if frame[0] else "announce", len(it.book.charges) - before))
            return answer

        it.engine.handlers[client_id] = watched
    first_round(it)
    assert {phase for phase, charged in seen if charged} == {"masked_input"}
    assert sum(charged for _, charged in seen) == len(it.plan.rounds[0].cohort)


def test_a_client_whose_budget_is_spent_sends_nothing_and_the_others_go_on() -> None:
    it = federation(settings_for("distributed"))
    poor = it.plan.rounds[0].cohort[1]

    class Empty:
        def charge(self, client_id: int, **_: object) -> None:
            raise BudgetExceededError(f"client {client_id} has nothing left")

    it.clients[poor]._purse = Empty()
    outcome = first_round(it)
    assert poor not in outcome.survivors
    assert outcome.dropped[poor] == "masked_input"


def test_a_client_refuses_a_round_that_it_is_not_planned_for() -> None:
    it = federation(settings_for("distributed"))
    outsider = (set(range(6)) - set(it.plan.rounds[0].cohort)).pop()
    weights = np.zeros(it.plan.dimension, dtype=np.float32)
    with pytest.raises(PolicyError, match="not in the planned cohort of round 1"):
        it.clients[outsider].handle(Announcement(1, 0, weights).encode())


@pytest.mark.parametrize(
    ("frame", "error"),
    [
        (b"", FrameError),
        (b"\x09", FrameError),
        (b"\x00short", FrameError),
        (wrap("masked_input", b"junk"), PhaseError),
    ],
)
def test_a_client_refuses_frames_that_belong_nowhere(frame: bytes, error: type) -> None:
    it = federation(settings_for("distributed"))
    with pytest.raises(error):
        it.clients[0].handle(frame)
    assert it.book.charges == []


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_client_refuses_a_model_with_a_weight_that_is_no_number(value: float) -> None:
    it = federation(settings_for("distributed"))
    weights = np.zeros(it.plan.dimension, dtype=np.float32)
    weights[3] = value
    with pytest.raises(FrameError, match="no finite number"):
        it.clients[it.plan.rounds[0].cohort[0]].handle(Announcement(1, 0, weights).encode())


def test_a_model_shown_to_one_client_alone_cancels_no_mask() -> None:
    it = federation(settings_for("distributed"))
    victim = it.plan.rounds[0].cohort[0]
    honest = it.engine.handlers[victim]

    def with_another_model(frame: bytes) -> bytes:
        if frame[0] == 0:
            frame = Announcement(1, 0, np.zeros(it.plan.dimension, dtype=np.float32)).encode()
        return honest(frame)

    it.engine.handlers[victim] = with_another_model
    outcome = first_round(it)  # its frames carry another session and are refused
    assert victim not in outcome.survivors
    assert outcome.dropped[victim] == "advertise"


def test_garbage_from_one_client_costs_nobody_else_the_round() -> None:
    it = federation(settings_for("distributed"))
    culprit = it.plan.rounds[0].cohort[3]
    it.engine.handlers[culprit] = lambda frame: b"garbage"
    outcome = first_round(it)
    assert set(outcome.survivors) == set(it.plan.rounds[0].cohort) - {culprit}


def test_errors_say_what_the_clients_said() -> None:
    it = federation(settings_for("distributed"))

    def refuse(frame: bytes) -> bytes:
        raise SecureFedDiffusionError("not today")

    for client_id in it.plan.rounds[0].cohort[:2]:
        it.engine.handlers[client_id] = refuse
    with pytest.raises(RunError, match="not today") as caught:
        first_round(it)
    assert caught.value.__cause__.culprits == it.plan.rounds[0].cohort[:2]
