"""A server that was killed goes on from the calls that it took: they give the same frames, byte for byte."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from secure_fed_diffusion import secagg
from secure_fed_diffusion.errors import (
    FrameError,
    PhaseError,
    SecureAggregationError,
    TooFewClientsError,
)
from secure_fed_diffusion.secagg.codec import Buffer
from secure_fed_diffusion.secagg.phases import FAILED, ROUND_START, SETUP_PHASES

from .forging import combined, unmask_shares_of
from .rounds import CASES, Round, make_params, make_session

Record = list[tuple[Any, ...]]
ROOT = Path(__file__).parents[2]
MASKED = tuple(case for case in CASES if case != "unsafe_unmasked")
PLACES = [
    (case, step.phase)
    for case in CASES
    for step in make_params(**CASES[case]).steps
    if step.sends is not None
]


class Recorded(secagg.Server):
    """A server that keeps what README.md says: `record`; `sent` is what came of it, for the tests alone."""

    def __init__(self, session: secagg.Session) -> None:
        super().__init__(session)
        self.record: Record = []
        self.sent: list[dict[int, bytes]] = []

    def receive(self, client_id: int, frame: Buffer) -> None:
        super().receive(client_id, frame)
        self.record.append(("receive", client_id, bytes(frame)))

    def advance(self) -> dict[int, bytes]:
        self.record.append(("advance",))
        self.sent.append(super().advance())
        return self.sent[-1]

    def begin(
        self, number: int, *, model_digest: bytes | None = None, participants: Iterable[int] | None = None
    ) -> dict[int, bytes]:
        self.record.append(("begin", number, model_digest, participants))
        self.sent.append(super().begin(number, model_digest=model_digest, participants=participants))
        return self.sent[-1]


def replayed(session: secagg.Session, record: Record) -> tuple[secagg.Server, list[dict[int, bytes]]]:
    """A fresh server that took the same calls, and all that they returned."""
    server, sent = secagg.Server(session), []
    for call, *arguments in record:
        with suppress(SecureAggregationError):  # a round that failed fails again
            if call == "receive":
                server.receive(*arguments)
            elif call == "advance":
                sent.append(server.advance())
            else:
                number, model_digest, participants = arguments
                sent.append(server.begin(number, model_digest=model_digest, participants=participants))
    return server, sent


def recorded(case: str, **changes: Any) -> Round:
    a_round = Round.of(case, **changes)
    a_round.server = Recorded(a_round.session)
    return a_round


def record_of(a_round: Round) -> Record:
    assert isinstance(a_round.server, Recorded)
    return a_round.server.record


def kill(a_round: Round) -> Round:
    """Replace the server by one that has its record alone; what it sends is what the dead one had sent."""
    dead = a_round.server
    assert isinstance(dead, Recorded)
    server, sent = replayed(a_round.session, dead.record)
    assert sent == dead.sent
    assert (server.phase, server.heard, server.expected) == (dead.phase, dead.heard, dead.expected)
    a_round.server = server
    if sent:
        a_round.inbox = sent[-1]
    return a_round


@pytest.mark.parametrize(("case", "phase"), PLACES)
def test_a_server_killed_in_any_phase_goes_on_from_its_record(case: str, phase: str) -> None:
    a_round = recorded(case)
    dropped = 1
    a_round.run_to(phase, dropouts={dropped: "masked_input"})
    answers = a_round.answers(without=[dropped] if phase == "masked_input" else [])
    for v in sorted(answers)[:2]:
        a_round.server.receive(v, answers.pop(v))
    kill(a_round).close(answers)
    a_round.finish(dropouts={dropped: "masked_input"})
    assert a_round.is_exact()
    assert a_round.server.survivors == tuple(v for v in a_round.session.cohort if v != dropped)
    for total in a_round.verified().values() if a_round.session.params.verifiable else ():
        assert total.tolist() == a_round.server.total.tolist()


def test_after_a_restart_nobody_is_lost_if_a_client_that_has_answered_sends_its_answer_again() -> None:
    """Killed in masked_input: one answer was stored, one taken and not, one was on its way."""
    a_round = recorded("active").run_to("masked_input")
    answered = {v: a_round.answer(v) for v in (0, 1, 2)}  # 3 and 4 were not even sent the frame
    a_round.server.receive(0, answered[0])
    assert kill(a_round).server.heard == (0,)
    for v in set(a_round.server.expected) - set(a_round.server.heard):
        try:
            a_round.clients[v].require_addressed(a_round.inbox[v])
        except (FrameError, PhaseError):
            a_round.server.receive(v, answered[v])
        else:
            a_round.server.receive(v, a_round.answer(v))
    a_round.close({})
    assert a_round.finish().is_exact()
    assert a_round.server.survivors == a_round.session.cohort


def test_without_that_question_the_frame_that_comes_again_fails_the_client() -> None:
    a_round = recorded("active").run_to("masked_input")
    a_round.answer(1)
    with pytest.raises(PhaseError):
        kill(a_round).answer(1)
    assert a_round.clients[1].phase == FAILED


@pytest.mark.parametrize("case", MASKED)
def test_rounds_that_ended_failed_or_were_left_come_again_and_the_set_up_goes_on(case: str) -> None:
    threshold = 4 if "sparse" in case else 5
    a_round = recorded(case, n_clients=9, threshold=threshold, n_rounds=6)
    a_round.finish(dropouts={0: "share_keys", 1: "masked_input"})
    a_round.begin(1)
    with pytest.raises(TooFewClientsError):
        a_round.finish(dropouts=dict.fromkeys(range(6), "unmask"))
    a_round.begin(2).run_to("unmask")  # and left
    a_round.begin(4, participants=range(1, 8))
    early = {v: a_round.answer(v) for v in (1, 2)}
    for v, frame in early.items():
        a_round.server.receive(v, frame)
    kill(a_round).close(a_round.answers(without=early))
    a_round.finish(dropouts={3: "unmask"})
    assert a_round.is_exact()
    assert a_round.server.survivors == tuple(range(1, 8))
    a_round.begin(5).finish()
    assert a_round.is_exact()
    assert a_round.server.survivors == tuple(range(1, 9))


@pytest.mark.parametrize("case", MASKED)
def test_the_record_of_the_set_up_alone_is_enough_for_the_rounds_that_were_not_begun(case: str) -> None:
    threshold = 4 if "sparse" in case else 5
    a_round = recorded(case, n_clients=9, threshold=threshold, n_rounds=4)
    a_round.finish(dropouts={0: "share_keys", 1: "masked_input"}).begin(1).run_to("unmask")
    record = record_of(a_round)
    n_setup_phases = sum(step.phase in SETUP_PHASES for step in a_round.session.params.steps)
    ends = [place for place, call in enumerate(record, 1) if call == ("advance",)]
    a_round.server, _ = replayed(a_round.session, record[: ends[n_setup_phases - 1]])
    assert a_round.server.phase == ROUND_START
    for number in (2, 3):
        a_round.begin(number).finish()
        assert a_round.is_exact()
        assert a_round.server.survivors == tuple(range(1, 9))


def test_another_process_sends_the_same_frames(tmp_path: Path) -> None:
    """Under another seed of Python's hashes, in which sets of bytes have another order."""
    a_round = recorded("active_sparse", n_rounds=2).finish(dropouts={1: "masked_input"})
    a_round.begin(1).run_to("unmask", dropouts={2: "masked_input"})
    written = [
        [part.hex() if isinstance(part, bytes) else part for part in call] for call in record_of(a_round)
    ]
    record = tmp_path / "record.json"
    record.write_text(json.dumps(written))
    probe = subprocess.run(
        [sys.executable, "-m", "tests.secagg.test_dead_server", str(record)],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert isinstance(a_round.server, Recorded)
    expected = [{str(v): frame.hex() for v, frame in frames.items()} for frames in a_round.server.sent]
    assert json.loads(probe.stdout) == expected


@pytest.mark.parametrize("case", ["active", "semi_honest"])
def test_a_survivor_list_that_left_before_it_was_stored_costs_the_round(case: str) -> None:
    """Whoever answered one list answers no other; so what `advance` returned is sent once it is on disk."""
    a_round = recorded(case).run_to("masked_input")
    late = a_round.answer(4)
    a_round.close(a_round.answers(without=[4]))
    seen = a_round.server.phase
    answered = a_round.answers()
    forgetful, _ = replayed(a_round.session, record_of(a_round)[:-1])
    forgetful.receive(4, late)
    other_list = forgetful.advance()
    for v, answer in answered.items():
        with pytest.raises((FrameError, PhaseError)):
            a_round.clients[v].require_addressed(other_list[v])
        with pytest.raises((FrameError, PhaseError)):
            forgetful.receive(v, answer)
        with pytest.raises(PhaseError):
            a_round.step(v, seen, other_list[v])
    with pytest.raises(TooFewClientsError):
        forgetful.advance()


@pytest.mark.parametrize(("threshold", "opened"), [(3, True), (4, False)])
def test_on_a_sparse_graph_without_a_majority_the_answers_to_both_lists_open_an_input(
    threshold: int, opened: bool
) -> None:
    """Why it is stored first: a `semi_honest` client that saw neither list answers the one it is shown."""
    a_round, victim = recorded("semi_honest_sparse", threshold=threshold).run_to(ROUND_START), 4
    own = a_round.clients[victim]._setup.keyring.rounds[0]
    answers = a_round.answers()
    late = answers.pop(victim)
    a_round.close(answers)
    holders = a_round.session.graph.holders(victim)  # the victim first
    keys = {v: unmask_shares_of(a_round, a_round.answer(v)).mask_key[victim] for v in holders[1:4]}
    a_round.server, _ = replayed(a_round.session, record_of(a_round)[:-1])
    a_round.close({victim: late})
    others = {v: a_round.answer(v) for v in (victim, *holders[4:])}
    seeds = {v: unmask_shares_of(a_round, frame).self_mask[victim] for v, frame in others.items()}
    found = (combined(keys, threshold), combined(seeds, threshold)) if len(keys) >= threshold else ()
    assert (found == (own.mask_key, own.seed)) is opened


def test_a_frame_that_was_not_stored_makes_its_sender_a_dropout() -> None:
    a_round = recorded("active").run_to("masked_input")
    answers = a_round.answers()
    for v, frame in answers.items():
        a_round.server.receive(v, frame)
    a_round.server, _ = replayed(a_round.session, record_of(a_round)[:-1])
    a_round.close({})
    assert a_round.finish().is_exact()
    assert a_round.server.survivors == a_round.session.cohort[:-1]


def test_where_nothing_was_stored_the_next_attempt_has_a_session_and_clients_of_its_own() -> None:
    a_round = Round.of("active").run_to("masked_input")
    stale = a_round.answers()
    again = Round(make_session(a_round.session.params, attempt=1), label="again").run_to("masked_input")
    for v, frame in stale.items():
        with pytest.raises(FrameError, match="another session"):
            again.server.receive(v, frame)
        with pytest.raises(FrameError):
            a_round.clients[v].require_addressed(again.inbox[v])
    assert again.finish().is_exact()


def main(record_file: Path) -> None:
    """Play the server of another process: print what it sends."""
    written = json.loads(record_file.read_text())
    record: Record = [
        (call, *(bytes.fromhex(part) if isinstance(part, str) else part for part in parts))
        for call, *parts in written
    ]
    session = make_session(make_params(**CASES["active_sparse"], n_rounds=2))
    _, sent = replayed(session, record)
    print(json.dumps([{v: frame.hex() for v, frame in frames.items()} for frames in sent]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
