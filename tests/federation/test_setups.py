"""One key set-up for several rounds: what it saves, and when it is made anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from secure_fed_diffusion.dp.ledger import Ledger
from secure_fed_diffusion.errors import (
    FrameError,
    RunError,
)
from secure_fed_diffusion.federation.messages import (
    NONCE_BYTES,
    Announcement,
    Opening,
    SetupCall,
    openings,
)
from secure_fed_diffusion.federation.rounds import record, run_rounds
from secure_fed_diffusion.training.vectors import flatten
from tests.federation.setups import (
    another_server,
    outcomes,
    quick,
    require_exact,
)
from tests.federation.small import federation, settings_for


def play(mode: str, rounds_per_setup: int, profile: str = "active") -> list[torch.Tensor]:
    it = federation(
        settings_for(mode, f"secagg.rounds_per_setup={rounds_per_setup}", f"secagg.profile={profile}"),
        noise=False,
        seed="same",
    )
    weights = []
    for outcome in outcomes(it):
        it.server.apply(outcome.total)
        weights.append(flatten(it.server.model))
    return weights


def test_weights_do_not_depend_on_how_many_rounds_a_set_up_pays_for() -> None:
    one = play("distributed", 1)
    assert len(one) == 4
    for mode, rounds_per_setup, profile in (
        ("distributed", 5, "active"),
        ("distributed", 2, "semi_honest"),
        ("central", 5, "active"),
    ):
        for expected, found in zip(one, play(mode, rounds_per_setup, profile), strict=True):
            assert torch.equal(expected, found)


@pytest.mark.parametrize(
    ("profile", "rounds_per_setup", "expected"),
    [
        ("active", 1, [5, 5, 5, 5, 5]),
        ("active", 2, [5, 3, 5, 3, 5]),
        ("active", 5, [5, 3, 3, 3, 3]),
        ("semi_honest", 5, [4, 2, 2, 2, 2]),
    ],
)
def test_a_round_takes_two_exchanges_less_and_a_new_set_up_follows_the_last_slot(
    profile: str, rounds_per_setup: int, expected: list[int]
) -> None:
    it = quick(rounds_per_setup, f"secagg.profile={profile}")
    found = list(outcomes(it))
    assert [outcome.exchanges for outcome in found] == expected
    for outcome in found:
        require_exact(outcome)
        assert outcome.survivors == outcome.planned.cohort
        assert outcome.bytes_down > 0
        assert (outcome.seconds["key_setup"] > 0) == ("advertise" in outcome.frames)


def test_the_metrics_of_a_round_say_how_often_it_waited(tmp_path: Path) -> None:
    it = quick()
    with Ledger.create(tmp_path / "ledger.jsonl", it.plan.terms("run", "")) as ledger:
        lines = [record(it.plan, ledger, outcome) for outcome in outcomes(it)]
    assert [line["exchanges"] for line in lines] == [5, 3, 3, 3, 3]
    assert [line["seconds"]["key_setup"] > 0 for line in lines] == [True, False, False, False, False]
    assert all("clients" not in line["seconds"] for line in lines)


def test_the_warm_up_has_a_set_up_of_its_own_with_no_more_slots_than_it_can_use() -> None:
    it = federation(settings_for("none", "secagg.rounds_per_setup=500", "warmup.draws=1"))
    assert it.plan.secagg_params("prototypes").n_rounds == 1 + 1 + 1  # a repeat, and slot 0
    assert it.plan.secagg_params("training").n_rounds == 2 + 1 + 1
    assert it.plan.secagg_params("training").n_clients == 6


def test_frames_that_are_put_together_late_are_as_long_as_they_say() -> None:
    weights = np.arange(3, dtype=np.float32)
    frames = openings(7, Announcement(2, 1, weights), {4: b"four", 5: b"fives"})
    assert frames.n_bytes == sum(map(len, frames.values()))
    read = Opening.decode(frames[5], 3)
    assert (read.slot, read.announcement.round, read.announcement.attempt, read.frame) == (7, 2, 1, b"fives")
    np.testing.assert_array_equal(read.announcement.weights, weights)
    whole = frames[4][: -len(b"four")]
    for wrong in (whole[:-1], whole[:10], b"\x07", whole[:5] + bytes([0xFF]) * 8 + whole[13:]):
        with pytest.raises(FrameError):
            Opening.decode(wrong, 3)
    for wrong in (
        b"\x06",
        SetupCall("training", bytes(NONCE_BYTES)).encode() + b"\0",
        b"\x06\x0a" + bytes(16),
    ):
        with pytest.raises(FrameError):
            SetupCall.decode(wrong)


def test_a_slot_is_bound_to_round_attempt_and_model() -> None:
    weights = np.zeros(3, dtype=np.float32)
    announcements = [
        Announcement(1, 0, weights),
        Announcement(2, 0, weights),
        Announcement(1, 1, weights),
        Announcement(1, 0, weights + 1),
    ]
    assert len({announcement.binding for announcement in announcements}) == 4


# Losses, repeats, restarts


@pytest.mark.parametrize("phase", ["masked_input", "consistency", "unmask"])
def test_a_client_that_vanished_from_a_round_is_back_in_the_next(phase: str) -> None:
    it = quick()
    lost = sorted(set(it.plan.rounds[1].cohort) & set(it.plan.rounds[2].cohort))[0]
    it.engine.absent = lambda number, client, step: (number, client, step) == (2, lost, phase)
    for outcome, exchanges in zip(outcomes(it), [5, 3, 3, 3, 3], strict=True):
        require_exact(outcome)
        assert outcome.exchanges == exchanges
        assert outcome.dropped == ({lost: phase} if outcome.planned.number == 2 else {})


@pytest.mark.parametrize("phase", ["advertise", "share_keys"])
def test_a_client_that_missed_a_set_up_waits_for_the_next_one(phase: str) -> None:
    it = quick(3)
    lost = it.plan.rounds[0].cohort[0]
    it.engine.absent = lambda number, client, step: (number, client, step) == (1, lost, phase)
    for outcome in outcomes(it):
        require_exact(outcome)
        number, cohort = outcome.planned.number, outcome.planned.cohort
        waits = lost in cohort and number <= 3
        assert outcome.survivors == tuple(c for c in cohort if not (waits and c == lost))
        assert outcome.dropped == ({lost: phase if number == 1 else "share_keys"} if waits else {})


def test_a_client_outside_the_cohort_may_miss_the_set_up_and_nobody_notices() -> None:
    it = quick()
    (outsider,) = set(range(6)) - set(it.plan.rounds[0].cohort)
    it.engine.absent = lambda number, client, step: client == outsider
    assert next(outcomes(it)).dropped == {}


@pytest.mark.parametrize(
    ("least", "n_lost", "reason"),
    [(4, 2, "expected threshold=4 clients, 3 left"), (5, 1, "4 contributions, the plan's noise needs 5")],
)
def test_a_set_up_with_too_few_of_the_cohort_is_made_anew_before_anybody_pays(
    least: int, n_lost: int, reason: str
) -> None:
    it = quick(5, f"federation.min_survivors={least}")
    lost = it.plan.rounds[0].cohort[:n_lost]
    calls: list[int] = []

    def absent(number: int, client: int, step: str) -> bool:
        calls.append(client) if step == "advertise" else None
        return step == "advertise" and client in lost and calls.count(client) == 1

    it.engine.absent = absent
    notes: list[str] = []
    outcome = next(outcomes(it, notes))
    assert reason in notes[0]
    assert outcome.survivors == outcome.planned.cohort
    assert outcome.attempt == 0  # nobody was charged for the first
    assert calls.count(lost[0]) == 2


def test_a_set_up_is_made_anew_once_too_few_of_the_next_cohort_answer_in_it() -> None:
    it = quick()
    cohorts = [planned.cohort for planned in it.plan.rounds]
    both = set(cohorts[0]) & set(cohorts[1])
    gone = sorted(both)[:1]
    it.engine.absent = lambda number, client, step: number == 1 and client in gone and step == "masked_input"
    loop = outcomes(it)
    assert next(loop).exchanges == 5
    gone.extend(sorted(both)[1:2])  # another, which leaves three of five known to be there
    it.server._sums._setup.members.difference_update(gone)
    outcome = next(loop)
    assert outcome.exchanges == 5
    assert outcome.survivors == cohorts[1]


def test_who_did_not_answer_in_a_set_up_is_not_counted_on_for_the_repeat() -> None:
    it = quick()
    lost = it.plan.rounds[1].cohort[:2]
    tries: list[int] = []

    def absent(number: int, client: int, step: str) -> bool:
        tries.append(number) if (number, client, step) == (2, lost[0], "masked_input") else None
        return (number, step) == (2, "masked_input") and client in lost and len(tries) == 1

    it.engine.absent = absent
    loop = outcomes(it)
    assert next(loop).exchanges == 5
    outcome = next(loop)
    assert (outcome.attempt, outcome.exchanges) == (1, 5)  # the set-up is made anew
    require_exact(outcome)


def test_a_failed_attempt_uses_up_its_slot_and_the_repeat_takes_the_next() -> None:
    it = quick()
    cohort = it.plan.rounds[0].cohort
    opened: list[Opening] = []

    def watched(client_id: int, honest: Any) -> Any:
        def handle(frame: bytes) -> bytes:
            if frame[0] == 7:
                opened.append(Opening.decode(frame, it.plan.dimension))
            return honest(frame)

        return handle

    me = cohort[4]
    it.engine.handlers[me] = watched(me, it.engine.handlers[me])
    tries: list[int] = []

    def absent(number: int, client: int, step: str) -> bool:
        tries.append(number) if (client, step) == (cohort[0], "masked_input") else None
        return len(tries) == 1 and client in cohort[:2] and step == "unmask"

    it.engine.absent = absent
    outcome = next(outcomes(it))
    require_exact(outcome)
    assert (outcome.attempt, outcome.exchanges) == (1, 3)
    places = [(o.slot, o.announcement.round, o.announcement.attempt) for o in opened]
    assert places == [(1, 1, 0), (2, 1, 1)]
    assert {(c[0], c[2]) for c in it.book.charges} == {(c, a) for c in cohort for a in (0, 1)}


def test_a_server_that_restarts_makes_a_new_set_up() -> None:
    it = quick()
    loop = outcomes(it)
    next(loop)
    outgoing = it.server.open(2, 0)
    for client_id, frame in outgoing.items():  # killed while the answers come
        it.clients[client_id].handle(frame)
    it.server = another_server(it)
    outcome = next(run_rounds(it.plan, it.server, it.engine, it.book, first=2, note=print))
    assert (outcome.attempt, outcome.exchanges) == (1, 5)
    assert outcome.survivors == outcome.planned.cohort
    require_exact(outcome)


def test_repeats_end_where_the_reserve_does() -> None:
    it = quick()
    cohort = it.plan.rounds[0].cohort
    it.engine.absent = lambda number, client, step: client in cohort[:2] and step == "unmask"
    with pytest.raises(RunError, match=r"federation\.reserved_attempts=1\) are used"):
        next(outcomes(it))
