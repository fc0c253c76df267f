"""Every illegal (phase, message) pair of every profile, generated from the transition table."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from secure_fed_diffusion import secagg
from secure_fed_diffusion.errors import ConfigError, FrameError, PhaseError, SecureAggregationError
from secure_fed_diffusion.secagg import tag
from secure_fed_diffusion.secagg.keyring import Keyring
from secure_fed_diffusion.secagg.phases import (
    DONE,
    FAILED,
    PROFILES,
    ROUND_START,
    SETUP_PHASES,
    VERIFY,
    Kind,
    Machine,
    Step,
)

from .rounds import CASES, Round, make_params, model_of

MASKED = tuple(case for case in CASES if case != "unsafe_unmasked")


def steps_of(case: str) -> tuple[Step, ...]:
    return make_params(**CASES[case]).steps


CLIENT_STEPS = [(case, step) for case in CASES for step in steps_of(case)]
SERVER_STEPS = [(case, step) for case, step in CLIENT_STEPS if step.sends is not None]
WRONG_AT_CLIENT = [
    (case, step, kind)
    for case, step in CLIENT_STEPS
    for kind in Kind
    if step.receives is not None and kind is not step.receives
]
WRONG_AT_SERVER = [
    (case, step, kind) for case, step in SERVER_STEPS for kind in Kind if kind is not step.sends
]
OUT_OF_ORDER = [
    (case, stand, called.phase)
    for case, called in CLIENT_STEPS
    for stand in (*(step.phase for step in steps_of(case)), DONE)
    if stand != called.phase
]


def name(value: object) -> str:
    return value.phase if isinstance(value, Step) else str(getattr(value, "name", value))


def at(case: str, phase: str, **changes: Any) -> Round:
    """A round whose clients stand at `phase`, which may be `verify`."""
    last = DONE if phase == VERIFY.phase else phase
    a_round = Round.of(case, **changes).run_to(last)
    if phase == DONE:
        a_round.verified()
    return a_round


def secrets_of(client: secagg.Client) -> list[object]:
    """Everything that a client holds and others must not see; empty once burned."""
    ring, a_round = client._setup.keyring, client._round
    found = [getattr(ring, field) for field in Keyring.__slots__]
    if a_round is not None:
        found += [a_round.own, a_round.held, a_round.tag_key]
    return [secret for secret in found if secret]


@cache
def honest_frames(case: str) -> dict[Kind, bytes]:
    """One valid frame of each kind for client 0 of this case: what it sends, what it is given."""
    a_round, frames = Round.of(case), {}
    for step in steps_of(case):
        if step.receives is not None:
            frames[step.receives] = a_round.inbox[0]
        if step.sends is not None:
            answers = a_round.answers()
            frames[step.sends] = answers[0]
            a_round.close(answers)
    return frames


def frame_of(case: str, kind: Kind) -> bytes:
    """A frame of that kind, from another profile where this one has none."""
    return next(found[kind] for c in (case, *CASES) if kind in (found := honest_frames(c)))


# The table.


def test_every_kind_of_frame_is_used_by_some_profile() -> None:
    steps = {step for _, step in CLIENT_STEPS}
    assert {step.receives for step in steps} | {step.sends for step in steps} == {*Kind, None}


def test_every_profile_is_a_subsequence_of_the_named_phases() -> None:
    for steps in PROFILES.values():
        names = [step.phase for step in steps if step.phase != "choose"]
        assert names == [phase for phase in secagg.PHASES if phase in names]


def test_the_profiles_differ_in_the_steps_that_they_are_named_for() -> None:
    phases = {case: {step.phase for step in steps_of(case)} for case in CASES}
    assert set(secagg.PHASES) - phases["semi_honest"] == {"consistency"}
    assert phases["semi_honest_sparse"] == phases["semi_honest"]
    assert phases["active_sparse"] - phases["active"] == {"choose"}
    assert phases["verifiable"] - phases["active"] == {"verify"}
    assert phases["unsafe_unmasked"] == {"masked_input"}


def test_the_set_up_comes_before_the_round() -> None:
    for steps in PROFILES.values():
        names = [step.phase for step in steps]
        assert set(names[: names.index(ROUND_START)]) <= set(SETUP_PHASES)
        assert not set(names[names.index(ROUND_START) :]) & set(SETUP_PHASES)


# Wrong frames.


@pytest.mark.parametrize(("case", "step", "kind"), WRONG_AT_SERVER, ids=name)
def test_the_server_refuses_every_other_kind_and_goes_on(case: str, step: Step, kind: Kind) -> None:
    a_round = Round.of(case).run_to(step.phase)
    with pytest.raises(PhaseError) as caught:
        a_round.server.receive(0, frame_of(case, kind))
    assert caught.value.culprits == (0,)
    assert a_round.server.phase == step.phase
    assert a_round.finish().is_exact()
    assert a_round.server.survivors == a_round.session.cohort


@pytest.mark.parametrize(("case", "step", "kind"), WRONG_AT_CLIENT, ids=name)
def test_a_client_refuses_every_other_kind_and_burns_its_secrets(case: str, step: Step, kind: Kind) -> None:
    a_round = at(case, step.phase)
    with pytest.raises(FrameError):
        a_round.step(0, step.phase, frame_of(case, kind))
    client = a_round.clients[0]
    assert client.phase == FAILED
    assert not secrets_of(client)


@pytest.mark.parametrize(("case", "stand", "called"), OUT_OF_ORDER, ids=name)
def test_a_client_step_out_of_order_fails_it_for_good(case: str, stand: str, called: str) -> None:
    a_round = at(case, stand)
    frame = frame_of(case, Kind.SURVIVORS)
    with pytest.raises(PhaseError, match=f"{called} is not due.*{stand}"):
        a_round.step(0, called, frame)
    assert not secrets_of(a_round.clients[0])
    for step in steps_of(case):
        with pytest.raises(PhaseError, match=FAILED):
            a_round.step(0, step.phase, frame)


@pytest.mark.parametrize(("case", "step"), CLIENT_STEPS, ids=name)
def test_no_client_step_runs_twice(case: str, step: Step) -> None:
    a_round = at(case, step.phase)
    frame = a_round.inbox[0]
    a_round.step(0, step.phase, frame)
    with pytest.raises(PhaseError):
        a_round.step(0, step.phase, frame)
    assert not secrets_of(a_round.clients[0])


# `begin`, in every phase.


@pytest.mark.parametrize(
    ("case", "stand"),
    [(c, p) for c in MASKED for p in (*(s.phase for s in steps_of(c)), DONE) if p in SETUP_PHASES],
)
def test_no_round_begins_before_the_set_up_is_complete(case: str, stand: str) -> None:
    a_round = at(case, stand, n_rounds=3)
    for party in (a_round.clients[0], a_round.server):
        with pytest.raises(PhaseError, match=r"no round can begin|used or burned"):
            party.begin(1, model_digest=model_of(1))
        assert party.phase == stand
    assert a_round.finish().is_exact()  # asking costs nothing


@pytest.mark.parametrize(
    ("case", "stand"),
    [(c, p) for c in MASKED for p in (*(s.phase for s in steps_of(c)), DONE) if p not in SETUP_PHASES],
)
def test_from_any_step_of_a_round_the_next_one_begins_and_the_old_one_is_left_for_good(
    case: str, stand: str
) -> None:
    a_round = at(case, stand, n_rounds=3)
    old_frame, started = a_round.inbox.get(0, b""), stand != ROUND_START
    a_round.begin(1)
    assert {client.phase for client in a_round.clients.values()} == {ROUND_START}
    assert a_round.finish().is_exact()
    assert a_round.server.survivors == a_round.session.cohort
    client = a_round.clients[1]
    with pytest.raises(PhaseError, match="used or burned"):
        client.begin(0)
    with pytest.raises(PhaseError, match="does not come after"):
        a_round.server.begin(0)
    if started and stand not in (DONE, "verify"):
        with pytest.raises(SecureAggregationError):
            a_round.step(0, stand, old_frame)


@pytest.mark.parametrize("case", CASES)
def test_a_client_that_failed_begins_no_further_round(case: str) -> None:
    a_round = Round.of(case, **({} if case == "unsafe_unmasked" else {"n_rounds": 2})).finish()
    client = a_round.clients[0]
    with pytest.raises(PhaseError):
        client.advertise()
    number = a_round.session.params.n_rounds - 1
    with pytest.raises(PhaseError):
        client.begin(number, model_digest=model_of(number))
    assert client.phase == FAILED


@pytest.mark.parametrize("number", [-1, 3, 2**32, True, 1.0])
def test_a_round_that_the_set_up_does_not_pay_for_is_refused_and_changes_nothing(number: Any) -> None:
    a_round = Round.of("active", n_rounds=3).run_to("consistency")
    for party in (a_round.clients[0], a_round.server):
        with pytest.raises((ConfigError, PhaseError)):
            party.begin(number, model_digest=model_of(1))
        assert party.phase == "consistency"
    assert a_round.finish().is_exact()


@pytest.mark.parametrize("participants", [(0, 1, 2), (0, 1, 2, 3, 77), (0, 0, 1, 2, 3), ()])
def test_participants_that_cannot_be_are_refused_and_change_nothing(participants: tuple[int, ...]) -> None:
    a_round = Round.of("active", n_rounds=3).run_to("consistency")
    for party in (a_round.clients[0], a_round.server):
        with pytest.raises(ConfigError, match="participants"):
            party.begin(1, model_digest=model_of(1), participants=participants)
        assert party.phase == "consistency"
    with pytest.raises(ConfigError, match="not among them"):
        a_round.clients[0].begin(1, model_digest=model_of(1), participants=(1, 2, 3, 4))
    assert a_round.finish().is_exact()


# Any exception poisons and burns.


INTERRUPTIONS = [KeyboardInterrupt, SystemExit, MemoryError, GeneratorExit, ZeroDivisionError]


def interrupted_in(step: Step, error: type[BaseException]) -> secagg.Latch:
    """A latch that raises once the step has done all its work, before its answer leaves."""

    def latch(key: bytes, value: bytes) -> bool:
        if key[0] == step.sends:
            raise error
        return True

    return latch


@pytest.mark.parametrize("error", INTERRUPTIONS)
@pytest.mark.parametrize(("case", "step"), SERVER_STEPS, ids=name)
def test_any_exception_inside_a_step_poisons_the_client_and_burns_its_secrets(
    case: str, step: Step, error: type[BaseException]
) -> None:
    session = Round.of(case).session
    a_round = Round(session, latches={0: interrupted_in(step, error)}).run_to(step.phase)
    client = a_round.clients[0]
    with pytest.raises(error):
        a_round.answer(0)
    assert client.phase == FAILED
    assert not secrets_of(client)
    a_round.close(a_round.answers(without=[0]))  # for the others it is a dropout
    assert a_round.finish().is_exact()


def test_an_interrupted_verification_poisons_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> bool:
        raise KeyboardInterrupt

    a_round = Round.of("verifiable", n_rounds=2).finish()
    monkeypatch.setattr(tag.TagKey, "accepts", interrupted)
    with pytest.raises(KeyboardInterrupt):
        a_round.step(0, "verify", a_round.inbox[0])
    assert a_round.clients[0].phase == FAILED
    assert not secrets_of(a_round.clients[0])


@pytest.mark.parametrize("case", MASKED)
def test_a_client_has_burned_its_shares_before_the_unmasking_reply_leaves(case: str) -> None:
    """The latch sees the reply last; what it finds at the client then is what a crash would leave."""
    left: list[object] = []
    a_round = Round.of(case)

    def latch(key: bytes, value: bytes) -> bool:
        if key[0] == Kind.UNMASK_SHARES:
            left.append(len(a_round.clients[0]._in_round().held))
            left.append(a_round.clients[0].phase)
        return True

    a_round = Round(a_round.session, latches={0: latch}).run_to("unmask")
    assert a_round.clients[0]._in_round().held
    a_round.answer(0)
    assert left == [0, FAILED]


@pytest.mark.parametrize("case", MASKED)
def test_a_client_has_burned_its_masks_before_the_masked_input_leaves(case: str) -> None:
    left: list[object] = []
    a_round = Round.of(case)

    def latch(key: bytes, value: bytes) -> bool:
        if key[0] == Kind.MASKED_INPUT:
            client = a_round.clients[0]
            left.extend((client._in_round().own, client._setup.keyring.rounds, client._setup.keyring.held))
        return True

    a_round = Round(a_round.session, latches={0: latch}).run_to("masked_input")
    assert a_round.clients[0]._setup.keyring.rounds
    a_round.answer(0)
    assert left == [None, {}, {}]
    assert not a_round.clients[0]._setup.keyring.opening_keys
    assert not a_round.clients[0]._setup.keyring.cipher_key


def test_a_client_whose_owner_asks_for_a_burned_round_gets_nothing() -> None:
    a_round = Round.of("semi_honest", n_rounds=3).finish()
    a_round.begin(2).finish()
    for number in (0, 1, 2):
        with pytest.raises(PhaseError, match="used or burned"):
            a_round.clients[0].begin(number, model_digest=model_of(number))


# The server.


@pytest.mark.parametrize("case", CASES)
def test_a_done_server_takes_nothing_and_does_not_forget_its_sum(case: str) -> None:
    a_round = Round.of(case).finish()
    with pytest.raises(PhaseError):
        a_round.server.receive(0, frame_of(case, Kind.MASKED_INPUT))
    with pytest.raises(PhaseError):
        a_round.server.advance()
    assert a_round.server.phase == DONE
    assert a_round.is_exact()


@pytest.mark.parametrize(("case", "step"), SERVER_STEPS, ids=name)
def test_the_sum_is_not_there_before_the_round_is_done(case: str, step: Step) -> None:
    server = Round.of(case).run_to(step.phase).server
    with pytest.raises(PhaseError):
        _ = server.total
    with pytest.raises(PhaseError):
        _ = server.survivors


def test_an_exception_inside_a_step_fails_the_machine() -> None:
    machine = Machine(PROFILES["semi_honest"])
    with pytest.raises(ZeroDivisionError), machine.step("advertise"):
        _ = 1 // 0
    assert machine.phase == FAILED
    assert machine.current is None


def test_a_step_cannot_be_entered_while_it_runs() -> None:
    machine = Machine(PROFILES["semi_honest"])
    with machine.step("advertise"), pytest.raises(PhaseError), machine.step("advertise"):
        pass
