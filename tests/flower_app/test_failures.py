"""What may fail between a server and its nodes: the round completes or fails by name, the records agree."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr", reason="the extra `flower` is not installed")

from flwr.app import Context

from secure_fed_diffusion import config
from secure_fed_diffusion.engines.flower import decode_frame
from secure_fed_diffusion.errors import ConfigError, PolicyError, RunError
from secure_fed_diffusion.federation.records import read_records
from secure_fed_diffusion.flower_app import simulation
from secure_fed_diffusion.flower_app.simulation import SimulatedRun
from secure_fed_diffusion.institution.messages import FRAME, JOIN, Acceptance
from secure_fed_diffusion.secagg import SigningKey
from tests.flower_app.memory_grid import Delivery, MemoryGrid, task
from tests.flower_app.played import (
    Watcher,
    charges,
    leave_out_measurements,
    over_memory,
    simulated,
    tiny,
    weights,
)

CLIENTS = range(5)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_out_measurements(monkeypatch)


def book_of(folder: Path) -> list[tuple[int, int, int, str]]:
    return charges(folder / "ledger.jsonl")


def own_of(folder: Path) -> list[tuple[int, int, int, str]]:
    ledgers = (folder / "clients" / f"{client:04d}" / "ledger.jsonl" for client in CLIENTS)
    return sorted(itertools.chain(*(charges(ledger) for ledger in ledgers if ledger.exists())))


class Killed(BaseException):
    """Nothing in the code catches this."""


def die(run: SimulatedRun, *, number: int, phase: str) -> None:
    """Kill the server when the answers of a phase have come, before it looks at them."""
    honest = run.part.server.take

    def take(replies: Any) -> Any:
        server = run.part.server
        if (server._number, server.phase) == (number, phase):
            raise Killed
        return honest(replies)

    run.part.server.take = take  # type: ignore[method-assign]


def test_a_run_that_was_stopped_goes_on_with_other_nodes_and_ends_as_if_undisturbed(tmp_path: Path) -> None:
    settings = tiny("distributed")
    over_memory(simulated(tmp_path / "undisturbed", settings))
    folder = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        over_memory(simulated(folder, settings), Watcher(stop_after=2))
    resumed = simulated(folder, settings, resume=True)
    assert resumed.finished_round == 2
    over_memory(resumed, first_node=8000)
    assert np.array_equal(weights(tmp_path / "undisturbed")[0], weights(folder)[0])
    assert book_of(folder) == own_of(folder) == book_of(tmp_path / "undisturbed")


@pytest.mark.parametrize(
    ("phase", "setups"),
    [("advertise", 1), ("masked_input", 1), ("unmask", 1), ("share_keys", 3), ("masked_input", 3)],
)
def test_a_server_killed_in_any_phase_goes_on_and_all_ledgers_agree(
    phase: str, setups: int, tmp_path: Path
) -> None:
    folder, settings = tmp_path / "run", tiny("distributed", f"secagg.rounds_per_setup={setups}")
    killed = simulated(folder, settings)
    number = 1 if setups > 1 and phase in ("advertise", "share_keys") else 2
    die(killed, number=number, phase=phase)
    with pytest.raises(Killed):
        over_memory(killed)
    watcher = Watcher()
    over_memory(simulated(folder, settings, resume=True), watcher)
    repeated = next(record for record in watcher.records if record["round"] == number)
    assert repeated["attempt"] == 1  # a number that was opened once is never opened again
    assert repeated["survivors"] == repeated["cohort"]
    assert not any("refused" in note for note in watcher.notes)
    asked_twice = phase in ("masked_input", "consistency", "unmask")
    assert sum(charge[1] == number for charge in own_of(folder)) == (8 if asked_twice else 4)
    assert book_of(folder) == own_of(folder)
    read_records(folder)


def test_a_client_that_vanishes_after_it_was_asked_stands_in_the_book_and_not_in_its_ledger(
    tmp_path: Path,
) -> None:
    settings = tiny("distributed")
    cohort = simulated(tmp_path / "schedule", settings).plan.rounds[1].cohort
    folder = tmp_path / "run"

    def fate(delivery: Delivery) -> str:
        there = (delivery.round, delivery.phase, delivery.partition)
        return "lost" if there == (2, "masked_input", cohort[0]) else "answered"

    run, watcher = simulated(folder, settings), Watcher()
    run.time_limit_seconds = 2.0
    over_memory(run, watcher, fate=fate)
    assert watcher.records[1]["survivors"] == list(cohort[1:])
    assert watcher.records[1]["dropped"] == {str(cohort[0]): "masked_input"}
    assert set(book_of(folder)) - set(own_of(folder)) == {(cohort[0], 2, 0, "training")}
    assert set(own_of(folder)) < set(book_of(folder))
    assert read_records(folder).testimony.own_ledgers == 5


def test_a_contribution_that_comes_too_late_is_in_no_sum(tmp_path: Path) -> None:
    settings = tiny("distributed")
    cohort = simulated(tmp_path / "schedule", settings).plan.rounds[1].cohort
    late: list[Delivery] = []

    def fate(delivery: Delivery) -> str:
        if (delivery.round, delivery.phase, delivery.partition) == (2, "masked_input", cohort[0]):
            late.append(delivery)
            return "unanswered"
        return "answered"

    def hand_in(grid: MemoryGrid) -> None:
        honest = grid.pull_messages

        def pull(message_ids: Any) -> Any:
            asked = set(message_ids)
            if late and late[0].message.metadata.message_id not in asked:  # a later exchange is under way
                grid.strays = [
                    reply
                    for reply in grid.replies
                    if reply.metadata.reply_to_message_id == late[0].message.metadata.message_id
                ]
            return honest(asked)

        grid.pull_messages = pull  # type: ignore[method-assign]

    run, watcher = simulated(tmp_path / "run", settings), Watcher()
    run.time_limit_seconds = 2.0
    over_memory(run, watcher, fate=fate, with_grid=hand_in)
    assert late
    assert watcher.records[1]["survivors"] == list(cohort[1:])
    assert watcher.records[2]["survivors"] == watcher.records[2]["cohort"]
    assert book_of(tmp_path / "run") == own_of(tmp_path / "run")  # it was computed, and paid for


def test_a_frame_that_reaches_a_client_late_or_twice_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = simulated(folder, tiny("distributed"))
    app = run.client_app()
    grid = over_memory(run)
    spent = own_of(folder)
    again = MemoryGrid(app, len(CLIENTS))
    answers, refusals = 0, 0
    with task():
        for delivery, first in zip(grid.delivered, grid.replies, strict=True):
            reply = again.answer(delivery.message)
            assert not reply.has_error()
            if "refusal" in reply.content.config_records:
                refusals += 1
            else:
                answers += 1
                frame = decode_frame(first.content)[0]
                assert decode_frame(reply.content)[0] == frame or delivery.frame[0] != FRAME
    assert refusals > answers > 0
    assert own_of(folder) == spent


def party(run: SimulatedRun, spoil: Callable[[int, bytes, Callable[[bytes], bytes]], bytes]) -> None:
    """Let every node's answers go through `spoil(partition, frame, honest)`."""
    honest = run.open_party

    class Spoilt:
        def __init__(self, context: Context) -> None:
            self.context = context

        def __enter__(self) -> Spoilt:
            self.party = honest(self.context)
            self.inner = self.party.__enter__()
            return self

        def __exit__(self, *raised: Any) -> None:
            self.party.__exit__(*raised)

        def handle(self, frame: bytes) -> bytes:
            return spoil(int(self.context.node_config["partition-id"]), frame, self.inner.handle)

    run.open_party = Spoilt


def test_an_accident_at_one_node_costs_it_the_round_and_the_next_goes_on(tmp_path: Path) -> None:
    run, watcher, frames = simulated(tmp_path / "run", tiny("distributed")), Watcher(), itertools.count()
    victim = run.plan.rounds[1].cohort[0]

    def stumble(partition: int, frame: bytes, handle: Callable[[bytes], bytes]) -> bytes:
        if partition == victim and frame[0] == FRAME and run.part.server._number == 2 and next(frames) == 0:
            raise ZeroDivisionError
        return handle(frame)

    party(run, stumble)
    over_memory(run, watcher)
    assert watcher.records[1]["dropped"] == {str(victim): "advertise"}
    assert watcher.records[2]["survivors"] == watcher.records[2]["cohort"]


def test_a_node_that_refuses_the_agreement_is_left_out_and_its_reason_shown(tmp_path: Path) -> None:
    run, watcher = simulated(tmp_path / "run", tiny("distributed")), Watcher()

    def refuse(partition: int, frame: bytes, handle: Callable[[bytes], bytes]) -> bytes:
        if partition == 1 and frame[0] == JOIN:
            raise PolicyError("epsilon 10 is above this institution's 1")
        return handle(frame)

    party(run, refuse)
    over_memory(run, watcher)
    assert any("above this institution's 1" in note for note in watcher.notes)
    assert all(1 not in record["survivors"] for record in watcher.records)


def test_where_too_few_join_nothing_is_charged_and_the_run_can_be_taken_up_again(tmp_path: Path) -> None:
    folder, settings = tmp_path / "run", tiny("distributed")
    run = simulated(folder, settings)

    def refuse(partition: int, frame: bytes, handle: Callable[[bytes], bytes]) -> bytes:
        raise PolicyError(f"client {partition} was not asked before")

    party(run, refuse)
    with pytest.raises(RunError, match=r"0 of 5 clients joined .* needs 3: .*was not asked before"):
        over_memory(run)
    assert book_of(folder) == own_of(folder) == []
    over_memory(simulated(folder, settings, resume=True))
    assert len(book_of(folder)) == 12


def test_nobody_joins_in_another_s_name(tmp_path: Path) -> None:
    run, watcher = simulated(tmp_path / "run", tiny("distributed")), Watcher()

    def impersonate(partition: int, frame: bytes, handle: Callable[[bytes], bytes]) -> bytes:
        answer = handle(frame)
        if partition != 1 or frame[0] != JOIN:
            return answer
        mine = Acceptance.decode(answer)
        return Acceptance(
            client_id=0, agreement_digest=mine.agreement_digest, signature=SigningKey(bytes(32)).sign(b"")
        ).encode()

    party(run, impersonate)
    over_memory(run, watcher)
    assert any("did not sign" in note for note in watcher.notes)
    assert any(0 in record["survivors"] for record in watcher.records)
    assert all(1 not in record["survivors"] for record in watcher.records)


def test_a_node_that_comes_back_under_another_id_is_found_again(tmp_path: Path) -> None:
    run, watcher = simulated(tmp_path / "run", tiny("distributed")), Watcher()
    moved = run.plan.rounds[2].cohort[1]

    def move(grid: MemoryGrid) -> None:
        honest = watcher.round

        def after(record: dict[str, Any]) -> None:
            honest(record)
            if record["round"] == 2:
                grid.online.discard(7000 + moved)
                grid.online.add(8000 + moved)

        watcher.round = after  # type: ignore[method-assign]

    over_memory(run, watcher, with_grid=move)
    assert watcher.records[2]["survivors"] == watcher.records[2]["cohort"]
    assert moved in watcher.records[2]["survivors"]


@pytest.mark.parametrize(
    ("override", "key"),
    [("audit.canaries=10", "audit.canaries"), ("evaluation.attacks=true", "evaluation.attacks")],
)
def test_what_needs_one_process_is_refused_by_its_key(override: str, key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=key):
        simulated(tmp_path / "run", tiny("distributed", override))
    assert not (tmp_path / "run").exists()


def test_a_simulation_that_ends_before_it_began_the_run_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulation, "_simulate", lambda *_: None)
    settings = tiny("distributed")
    run = simulation.prepare_simulation(settings, tmp_path / "run", config_text=config.dump(settings))
    with pytest.raises(RunError, match="ended before it began the run"):
        run.execute(Watcher())
    run.ledger.close()
