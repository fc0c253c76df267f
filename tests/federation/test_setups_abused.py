"""A server, or a network, that abuses a key set-up of several rounds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from secure_fed_diffusion.dp.ledger import Ledger
from secure_fed_diffusion.entropy import system
from secure_fed_diffusion.errors import (
    FrameError,
    PhaseError,
    PolicyError,
    PrivacyError,
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
from secure_fed_diffusion.secagg import codec
from secure_fed_diffusion.secagg.messages import Survivors
from secure_fed_diffusion.secagg.phases import Kind
from secure_fed_diffusion.training.vectors import flatten
from tests.federation.setups import (
    delivery,
    model,
    opened,
    outcomes,
    quick,
    require_exact,
)


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
    shared = {"participants": cohort, "commitment": machine.commitment}
    bound = machine.session.slot(1, model_digest=other.binding, **shared)
    frames = {
        c: codec.pack(Kind.SHARE_DELIVERY, session_id=bound.id, client_id=c, payload=payloads[c])
        for c in right
    }
    for client_id in right:
        it.clients[client_id].handle(openings(1, other, frames)[client_id])
    ours = machine.session.slot(
        1, model_digest=Announcement(1, 0, flatten(it.server.model).numpy()).binding, **shared
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
    machine = it.server._sums.machine
    slot_0 = codec.pack(
        Kind.SHARE_DELIVERY,
        session_id=machine.session.slot(0, commitment=machine.commitment).id,
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
