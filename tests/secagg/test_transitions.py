"""Every illegal (phase, message) pair, generated from the transition table."""

from __future__ import annotations

from functools import cache

import pytest

from secure_fed_diffusion import secagg
from secure_fed_diffusion.errors import FrameError, PhaseError, SecureAggregationError
from secure_fed_diffusion.secagg.phases import DONE, FAILED, PROFILES, Kind, Machine

from .rounds import PHASES, STEPS, Round

CLIENT_KINDS = {step.sends: step.phase for step in STEPS}
SERVER_KINDS = {step.receives: step.phase for step in STEPS if step.receives is not None}


@cache
def honest_frames() -> tuple[dict[Kind, bytes], dict[Kind, bytes]]:
    """One valid frame of each kind for client 0: what it sends, what it is given."""
    a_round = Round()
    sent, given = {}, {}
    for step in STEPS:
        if step.receives is not None:
            given[step.receives] = a_round.inbox[0]
        frames = a_round.answers()
        sent[step.sends] = frames[0]
        a_round.close(frames)
    return sent, given


def test_every_profile_is_a_subsequence_of_the_named_phases() -> None:
    for steps in PROFILES.values():
        names = [step.phase for step in steps]
        assert names == [phase for phase in secagg.PHASES if phase in names]


def test_the_semi_honest_profile_skips_consistency_and_nothing_else() -> None:
    assert set(secagg.PHASES) - set(PHASES) == {"consistency"}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("kind", list(Kind))
def test_the_server_refuses_every_other_kind_and_goes_on(phase: str, kind: Kind) -> None:
    sent, given = honest_frames()
    a_round = Round().run_to(phase)
    due = next(step.sends for step in STEPS if step.phase == phase)
    if kind is not due:
        with pytest.raises(PhaseError) as caught:
            a_round.server.receive(0, (sent | given)[kind])
        assert caught.value.culprits == (0,)
    assert a_round.server.phase == phase
    assert a_round.finish().is_exact()
    assert a_round.server.survivors == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("phase", PHASES[1:])
@pytest.mark.parametrize("kind", list(Kind))
def test_a_client_refuses_every_other_kind_and_fails(phase: str, kind: Kind) -> None:
    sent, given = honest_frames()
    due = next(step.receives for step in STEPS if step.phase == phase)
    if kind is due:
        return
    a_round = Round().run_to(phase)
    with pytest.raises(FrameError):
        a_round.step(0, phase, (sent | given)[kind])
    assert a_round.clients[0].phase == FAILED


@pytest.mark.parametrize("stand", [*PHASES, DONE])
@pytest.mark.parametrize("called", PHASES)
def test_a_client_step_out_of_order_fails_it_for_good(stand: str, called: str) -> None:
    if stand == called:
        return
    a_round = Round().run_to(stand)
    frame = a_round.inbox.get(0, b"")
    with pytest.raises(PhaseError, match=f"{called} is not due.*{stand}"):
        a_round.step(0, called, frame)
    for phase in PHASES:
        with pytest.raises(PhaseError, match=FAILED):
            a_round.step(0, phase, frame)


@pytest.mark.parametrize("phase", PHASES)
def test_no_client_step_runs_twice(phase: str) -> None:
    a_round = Round().run_to(phase)
    frame = a_round.inbox[0]
    a_round.answer(0)
    with pytest.raises(PhaseError):
        a_round.step(0, phase, frame)


@pytest.mark.parametrize("phase", PHASES)
def test_a_failed_client_keeps_no_secret(phase: str) -> None:
    a_round = Round().run_to(phase)
    client = a_round.clients[0]
    with pytest.raises(SecureAggregationError):
        client.unmask(b"") if phase != "unmask" else client.advertise()
    assert client._own is None
    assert not client._held
    assert not client._opening_keys


def test_a_client_has_burned_its_shares_when_the_reply_leaves() -> None:
    a_round = Round().run_to("unmask")
    client = a_round.clients[0]
    assert client._held
    a_round.answer(0)
    assert not client._held
    assert client.phase == DONE


def test_a_client_keeps_only_the_shares_of_others_once_its_input_is_masked() -> None:
    client = Round().run_to("unmask").clients[0]
    assert client._own is None
    assert not client._opening_keys


def test_a_done_server_takes_nothing_and_does_not_forget_its_sum() -> None:
    a_round = Round().finish()
    with pytest.raises(PhaseError):
        a_round.server.receive(0, honest_frames()[0][Kind.ADVERT])
    with pytest.raises(PhaseError):
        a_round.server.advance()
    assert a_round.server.phase == DONE
    assert a_round.is_exact()


@pytest.mark.parametrize("phase", PHASES)
def test_the_sum_is_not_there_before_the_round_is_done(phase: str) -> None:
    server = Round().run_to(phase).server
    with pytest.raises(PhaseError):
        _ = server.total
    with pytest.raises(PhaseError):
        _ = server.survivors


def test_an_exception_inside_a_step_fails_the_machine() -> None:
    machine = Machine("semi_honest")
    with pytest.raises(ZeroDivisionError), machine.step("advertise"):
        _ = 1 // 0
    assert machine.phase == FAILED
    assert machine.current is None


def test_a_step_cannot_be_entered_while_it_runs() -> None:
    machine = Machine("semi_honest")
    with machine.step("advertise"), pytest.raises(PhaseError), machine.step("advertise"):
        pass
