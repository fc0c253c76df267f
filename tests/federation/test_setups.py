"""One key set-up for several rounds: what it saves, when it is made anew, and a server that abuses it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from secure_fed_diffusion.dp.ledger import Ledger
from secure_fed_diffusion.entropy import system
from secure_fed_diffusion.errors import (
    FrameError,
    PhaseError,
    PolicyError,
    PrivacyError,
    RunError,
    SecureAggregationError,
    SecureFedDiffusionError,
    UnderNoisedError,
)
from secure_fed_diffusion.federation.messages import (
    NONCE_BYTES,
    Announcement,
    Opening,
    SetupCall,
    openings,
    unwrap,
    wrap,
)
from secure_fed_diffusion.federation.rounds import Outcome, record, run_rounds
from secure_fed_diffusion.federation.server import Server
from secure_fed_diffusion.secagg import codec
from secure_fed_diffusion.secagg.messages import ShareDelivery, Survivors
from secure_fed_diffusion.secagg.phases import Kind
from secure_fed_diffusion.training.vectors import flatten
from tests.federation.small import Federation, federation, settings_for

LONG = ("warmup.draws=0", "modes.none.rounds=5")


class Quick:
    """Stands where a contributor stands: a constant that says whose it is."""

    def __init__(self, client_id: int, plan: Any) -> None:
        self.client_id, self.plan = client_id, plan

    def vector(self, release: Any, weights: Any, *, number: int, attempt: int) -> Any:
        return np.full(release.length, 10**self.client_id, dtype=np.uint64)


def quick(rounds_per_setup: int = 5, *overrides: str) -> Federation:
    """Six clients, five a round, at least four survivors; no time is spent on training."""
    settings = settings_for("none", f"secagg.rounds_per_setup={rounds_per_setup}", *LONG, *overrides)
    it = federation(settings)
    for client_id, client in it.clients.items():
        client._contributor = Quick(client_id, it.plan)
    return it


def outcomes(it: Federation, notes: list[str] | None = None) -> Iterator[Outcome]:
    return run_rounds(
        it.plan, it.server, it.engine, it.book, first=1, note=print if notes is None else notes.append
    )


def require_exact(outcome: Outcome) -> None:
    """Check that a sum holds exactly the survivors."""
    assert set(outcome.total.tolist()) == {sum(10**c for c in outcome.survivors)}


# What it saves, and that it changes nothing


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


def another_server(it: Federation) -> Server:
    """A server that was restarted: its weights are the same, it remembers no set-up."""
    return Server("run", it.plan, it.server.model, None, roster=it.clients[0]._roster)  # type: ignore[arg-type]


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


# A server, or a network, that abuses it


def opened(it: Federation, *, upto: int = 1) -> Mapping[int, bytes]:
    """Run the set-up and the rounds before `upto`; return the frames that open that round."""
    loop = outcomes(it)
    for _ in range(upto - 1):
        next(loop)
    outgoing = it.server.open(upto, 0)
    while it.server.phase != "masked_input":
        outgoing = it.server.take({c: it.clients[c].handle(frame) for c, frame in outgoing.items()})
    return outgoing


def delivery(it: Federation, slot: int, announcement: Announcement, cohort: tuple[int, ...]) -> Any:
    """Open a slot as a server that minds no rule would, and return the frames."""
    session = it.server._sums.machine.session
    bound = session.slot(slot, model_digest=announcement.binding, participants=cohort)
    empty = ShareDelivery(sealed={}, masks_only=[]).encode(session.params)
    frames = {
        c: codec.pack(Kind.SHARE_DELIVERY, session_id=bound.id, client_id=c, payload=empty) for c in cohort
    }
    return openings(slot, announcement, frames)


def model(it: Federation, value: float = 0.0) -> np.ndarray:
    return np.full(it.plan.dimension, value, dtype=np.float32)


def test_participants_that_are_not_the_planned_ones_are_answered_by_nobody_and_cost_nothing() -> None:
    it = quick()
    opened(it)
    planned = it.plan.rounds[0].cohort
    (outsider,) = set(range(6)) - set(planned)
    fewer, other = planned[:4], (*planned[1:], outsider)
    for shown in (fewer, tuple(sorted(other))):
        frames = delivery(it, 1, Announcement(1, 0, model(it)), shown)
        for client_id in shown:
            with pytest.raises((FrameError, PolicyError)):
                it.clients[client_id].handle(frames[client_id])
    assert it.book.charges == []
    frames = opened(it)  # and the round goes on
    assert set(frames) == set(planned)


def test_a_server_that_shows_some_clients_other_participants_gets_no_sum_without_them() -> None:
    it = quick()
    frames = dict(opened(it))
    cohort = it.plan.rounds[0].cohort
    for victim in cohort[:2]:
        forged = delivery(it, 1, Announcement(1, 0, model(it)), cohort[:4])
        with pytest.raises(FrameError):
            it.clients[victim].handle(forged[victim])
    with pytest.raises(UnderNoisedError, match="3 contributions"):
        it.server.take({c: it.clients[c].handle(frames[c]) for c in cohort[2:]})


def test_a_slot_that_is_announced_twice_gets_one_contribution() -> None:
    it = quick()
    frames = opened(it)
    cohort = it.plan.rounds[0].cohort
    for client_id in cohort:
        it.clients[client_id].handle(frames[client_id])
    paid = len(it.book.charges)
    for again in (
        dict(frames),
        delivery(it, 1, Announcement(1, 1, model(it)), cohort),
        delivery(it, 1, Announcement(1, 0, model(it, 1.0)), cohort),
    ):
        for client_id in cohort:
            with pytest.raises(PhaseError, match="round 1 of this set-up are used"):
                it.clients[client_id].handle(again[client_id])
    assert len(it.book.charges) == paid == 5


def test_an_attempt_gets_one_contribution_in_whatever_slots_and_set_ups_it_is_announced(
    tmp_path: Path,
) -> None:
    it = quick()
    cohort = it.plan.rounds[0].cohort
    me = it.clients[cohort[0]]
    with Ledger.create(tmp_path / "ledger.jsonl", it.plan.terms("run", "")) as ledger:
        me._purse = ledger
        me.handle(opened(it)[me.client_id])
        with pytest.raises(PrivacyError, match="was charged before"):
            me.handle(delivery(it, 2, Announcement(1, 0, model(it)), cohort)[me.client_id])
        it.server._sums._setup = None
        with pytest.raises(PrivacyError, match="was charged before"):
            me.handle(opened(it)[me.client_id])
        assert ledger.lines == 2


def test_a_slot_before_the_last_one_is_gone_even_if_it_was_never_used() -> None:
    it = quick()
    opened(it)
    cohort = it.plan.rounds[0].cohort
    me = it.clients[cohort[0]]
    first = delivery(it, 3, Announcement(1, 0, model(it)), cohort)
    # its first delivery holds the sealed shares, so it comes from the honest server
    honest = it.server._sums._setup.machine.begin(
        3, model_digest=Announcement(1, 0, model(it)).binding, participants=cohort
    )
    me.handle(openings(3, Announcement(1, 0, model(it)), honest)[me.client_id])
    for slot in (1, 2, 3):
        with pytest.raises(PhaseError, match="used or burned"):
            me.handle(delivery(it, slot, Announcement(1, 1, model(it)), cohort)[me.client_id])
    with pytest.raises(FrameError, match="slot 0"):
        me.handle(delivery(it, 0, Announcement(1, 1, model(it)), cohort)[me.client_id])
    with pytest.raises(SecureFedDiffusionError):
        me.handle(delivery(it, 5, Announcement(1, 1, model(it)), cohort)[me.client_id][:-1])
    assert first.n_bytes > 0


def test_a_masked_frame_of_one_slot_is_refused_in_the_next() -> None:
    it = quick()
    loop = outcomes(it)
    cohorts = [planned.cohort for planned in it.plan.rounds]
    victim = sorted(set(cohorts[0]) & set(cohorts[1]))[0]
    old = next(loop).frames["masked_input"][victim]
    honest = it.engine.handlers[victim]
    it.engine.handlers[victim] = lambda frame: old if frame[0] == 7 else honest(frame)
    outcome = next(loop)
    assert outcome.dropped == {victim: "masked_input"}
    require_exact(outcome)


def test_a_slot_that_is_opened_under_another_model_for_one_client_loses_that_client() -> None:
    it = quick()
    loop = outcomes(it)
    next(loop)
    cohort = it.plan.rounds[1].cohort
    victim, honest = cohort[0], it.engine.handlers[cohort[0]]

    def shown_another(frame: bytes) -> bytes:
        if frame[0] == 7:
            opening = Opening.decode(frame, it.plan.dimension)
            forged = replace(opening.announcement, weights=model(it, 0.5))
            frame = delivery(it, opening.slot, forged, cohort)[victim]
        return honest(frame)

    it.engine.handlers[victim] = shown_another
    outcome = next(loop)
    assert outcome.dropped == {victim: "masked_input"}  # it answered in a slot with another id
    require_exact(outcome)


def test_two_groups_that_were_shown_two_models_unmask_for_neither() -> None:
    """Three and two of five, at a threshold of four: both lists of survivors are refused."""
    it = quick()
    honest = dict(opened(it))
    cohort = it.plan.rounds[0].cohort
    machine = it.server._sums._setup.machine
    left, right = cohort[:3], cohort[3:]
    for client_id in left:
        it.clients[client_id].handle(honest[client_id])
    other = Announcement(1, 0, model(it, 0.5))
    payloads = {c: Opening.decode(honest[c], it.plan.dimension).frame[codec.HEADER_BYTES :] for c in right}
    bound = machine.session.slot(1, model_digest=other.binding, participants=cohort)
    frames = {
        c: codec.pack(Kind.SHARE_DELIVERY, session_id=bound.id, client_id=c, payload=payloads[c])
        for c in right
    }
    for client_id in right:
        it.clients[client_id].handle(openings(1, other, frames)[client_id])
    ours = machine.session.slot(
        1, model_digest=Announcement(1, 0, flatten(it.server.model).numpy()).binding, participants=cohort
    )
    for slot, group in ((ours, left), (bound, right)):
        for named in (group, cohort):  # the truth, or everybody
            listed = Survivors.among(machine.session.cohort, named).encode()
            for client_id in group[:1] if named == group else group[1:]:
                frame = codec.pack(Kind.SURVIVORS, session_id=slot.id, client_id=client_id, payload=listed)
                if named == group:
                    with pytest.raises(PolicyError, match="n_survivors"):
                        it.clients[client_id].handle(wrap("consistency", frame))
                else:  # it signs what it cannot know to be false, and waits in vain for four signatures
                    it.clients[client_id].handle(wrap("consistency", frame))
                    with pytest.raises(SecureAggregationError):
                        it.clients[client_id].handle(wrap("unmask", frame))


def test_a_server_that_skips_consistency_gets_no_shares() -> None:
    it = quick()
    frames = opened(it)
    outgoing = it.server.take({c: it.clients[c].handle(frame) for c, frame in frames.items()})
    for client_id, frame in outgoing.items():
        assert unwrap(frame)[0] == "consistency"
        with pytest.raises(PhaseError, match="in phase consistency, not unmask"):
            it.clients[client_id].handle(wrap("unmask", unwrap(frame)[1]))
    after = it.server.take({c: it.clients[c].handle(frame) for c, frame in outgoing.items()})
    it.server.take({c: it.clients[c].handle(frame) for c, frame in after.items()})
    assert it.server.survivors == it.plan.rounds[0].cohort  # what came out of order changed nothing


def test_a_late_frame_of_an_earlier_round_changes_nothing_at_a_client() -> None:
    it = quick()
    cohorts = [planned.cohort for planned in it.plan.rounds]
    me = sorted(set(cohorts[0]) & set(cohorts[1]))[0]
    late: dict[str, bytes] = {}
    honest = it.engine.handlers[me]

    def handle(frame: bytes) -> bytes:
        step = unwrap(frame)[0] if frame[0] in (1, 3, 5) else "round"
        if step in late and step != "round":
            with pytest.raises(FrameError):
                honest(late[step])
        late.setdefault(step, frame)
        return honest(frame)

    it.engine.handlers[me] = handle
    loop = outcomes(it)
    for _ in range(2):
        outcome = next(loop)
        assert me in outcome.survivors
        assert outcome.dropped == {}


def test_a_round_whose_frame_is_for_somebody_else_costs_nothing() -> None:
    it = quick()
    frames = opened(it)
    cohort = it.plan.rounds[0].cohort
    me, other = cohort[:2]
    for wrong in (frames[other], frames[me] + b"\0", frames[me][:-1]):
        with pytest.raises(FrameError):
            it.clients[me].handle(wrong)
    assert it.book.charges == []
    it.clients[me].handle(frames[me])
    assert [charge[0] for charge in it.book.charges] == [me]


def test_frames_of_the_other_kind_of_set_up_are_refused() -> None:
    several, one = quick(), quick(1)
    me = one.plan.rounds[0].cohort[0]
    announced = Announcement(1, 0, model(one))
    with pytest.raises(PolicyError, match="5 rounds a set-up"):
        several.clients[me].handle(announced.encode())
    for frame in (
        SetupCall("training", system(NONCE_BYTES)).encode(),
        openings(1, announced, {me: b""})[me],
    ):
        with pytest.raises(PolicyError, match="1 rounds a set-up"):
            one.clients[me].handle(frame)
    with pytest.raises(PhaseError, match="in no set-up for sums of training"):
        several.clients[me].handle(openings(1, announced, {me: b""})[me])
    several.clients[me].handle(SetupCall("prototypes", system(NONCE_BYTES)).encode())
    with pytest.raises(PhaseError, match="in no set-up for sums of training"):
        several.clients[me].handle(openings(1, announced, {me: b""})[me])


def test_a_bare_masked_input_has_no_round_to_belong_to() -> None:
    it = quick()
    frames = opened(it)
    me = it.plan.rounds[0].cohort[0]
    inner = Opening.decode(frames[me], it.plan.dimension).frame
    session = it.server._sums.machine.session
    slot_0 = codec.pack(
        Kind.SHARE_DELIVERY,
        session_id=session.slot(0).id,
        client_id=me,
        payload=inner[codec.HEADER_BYTES :],
    )
    with pytest.raises(PhaseError, match="already answered"):
        it.clients[me].handle(wrap("masked_input", slot_0))
    assert it.book.charges == []
    it.clients[me].handle(frames[me])


def test_a_second_set_up_of_the_same_name_shares_no_key_with_the_first() -> None:
    it = quick()
    call = SetupCall("training", system(NONCE_BYTES)).encode()
    client = it.clients[0]
    assert client.handle(call) != client.handle(call)


def test_an_outsider_refuses_a_round_of_the_set_up_that_it_is_in() -> None:
    it = quick()
    opened(it)
    (outsider,) = set(range(6)) - set(it.plan.rounds[0].cohort)
    frame = delivery(it, 1, Announcement(1, 0, model(it)), tuple(range(6)))[outsider]
    with pytest.raises(PolicyError, match="not in the planned cohort of round 1"):
        it.clients[outsider].handle(frame)


def test_a_false_share_of_a_set_up_ends_the_set_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from secure_fed_diffusion.errors import RecoveryError
    from secure_fed_diffusion.secagg.server_round import ServerRound

    it = quick()
    honest = ServerRound.close
    failed: list[str] = []

    def close(self: ServerRound, step: Any, silent: Any) -> Any:
        if step.phase == "unmask" and not failed:
            failed.append("once")
            raise RecoveryError("a share of client 0 does not match")
        return honest(self, step, silent)

    monkeypatch.setattr(ServerRound, "close", close)
    outcome = next(outcomes(it))
    assert (outcome.attempt, outcome.exchanges) == (1, 5)


def test_repeats_end_where_the_reserve_does() -> None:
    it = quick()
    cohort = it.plan.rounds[0].cohort
    it.engine.absent = lambda number, client, step: client in cohort[:2] and step == "unmask"
    with pytest.raises(RunError, match=r"federation\.reserved_attempts=1\) are used"):
        next(outcomes(it))
