"""Real failures of real processes: nodes killed before each phase, delayed, restarted; a killed server.

After each of them the round is completed by those that are left, the next one by all, and the ledgers
agree: the server's book holds every charge that a client's own ledger holds, and for every client whose
contribution is in a sum both hold the same charge.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from secure_fed_diffusion.dp.ledger import verify
from secure_fed_diffusion.federation.heads import read_heads
from tests.deployment.consortium import Deployment, Process, deployment, wait_for

pytest.importorskip("flwr", reason="needs the extra flower")
pytestmark = pytest.mark.slow

PHASES = ("advertise", "share_keys", "masked_input", "consistency", "unmask")
ROUNDS = 4
LIMIT_SECONDS = 45  # of an exchange in which a node will be missing
UNHURRIED_SECONDS = 120  # of one in which a node comes back
PATIENCE_SECONDS = 400
ALL = [0, 1, 2, 3]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    rounds = f"modes.distributed.rounds={ROUNDS}"
    with deployment(tmp_path_factory.mktemp("failures"), rounds, epsilon=500.0) as started:
        yield started


@dataclass
class Story:
    """One run, in whose first round something happens."""

    of: Deployment
    out: Path
    process: Process

    @classmethod
    def begin(cls, of: Deployment, name: str, *, limit: float = LIMIT_SECONDS) -> Story:
        for client_id, node in of.nodes.items():
            wait_for(f"node {client_id}", lambda c=client_id: of.is_up(c), 120, alive=node)
            node.told_from = len(node.printed())
        out = of.folder / name
        return cls(of, out, submit(of, out, "--time-limit", str(limit)))

    def wait(self, what: str, condition: Any) -> None:
        with self.of.explained(self.process):
            wait_for(what, condition, PATIENCE_SECONDS, alive=self.process)

    def until(self, client_id: int, done: str, number: int, phase: str) -> None:
        node = self.of.nodes[client_id]
        self.wait(
            f"node {client_id} {done} {phase} of round {number}",
            lambda: (number, phase) in node.exchanges(done),
        )

    def rounds(self) -> list[dict[str, Any]]:
        return self.of.metrics(self.out)

    def finish(self) -> list[dict[str, Any]]:
        began = time.monotonic()
        while self.process.popen.poll() is None:
            assert time.monotonic() - began < PATIENCE_SECONDS, self.process.printed()
            time.sleep(0.1)
        assert self.process.popen.returncode == 0, self.process.printed()
        lines = self.rounds()
        assert [line["round"] for line in lines] == list(range(1, ROUNDS + 1))
        assert all(len(line["survivors"]) >= 3 for line in lines)
        assert lines[-1]["survivors"] == ALL  # everybody is back, and is heard
        self.require_ledgers_agree(lines)
        for line in lines:
            print(self.out.name, line["round"], line["survivors"], line["dropped"], line["seconds"])
        return lines

    def charges(self, path: Path) -> set[tuple[int, int, int]]:
        """(client, round, attempt) of every charge, after the whole file was verified."""
        verify(path)
        lines = [json.loads(line) for line in path.read_text().splitlines()[1:]]
        return {(line["client_id"], line["round"], line["attempt"]) for line in lines}

    def require_ledgers_agree(self, lines: list[dict[str, Any]]) -> None:
        book = self.charges(self.out / "ledger.jsonl")
        own = {c: self.charges(self.of.state(c, self.out) / "ledger.jsonl") for c in ALL}
        for client_id, charged in own.items():
            assert charged <= book, f"client {client_id} spent what the server does not know"
        for line in lines:
            for client_id in line["survivors"]:
                assert (client_id, line["round"], line["attempt"]) in own[client_id]
                assert (client_id, line["round"], line["attempt"]) in book
        heard = {
            (head.client_id, head.line): head.head.hex() for head in read_heads(self.out / "heads.jsonl")
        }
        for (client_id, number), head in heard.items():
            assert verify(self.of.state(client_id, self.out) / "ledger.jsonl").digests[number - 1] == head


def submit(of: Deployment, out: Path, *more: str) -> Process:
    return of.run("--join-seconds", "90", *more, out=out)


def test_a_node_that_answers_after_the_limit_is_not_in_the_sum(running: Deployment) -> None:
    story = Story.begin(running, "delayed")
    story.until(2, "Received", 1, "masked_input")
    running.nodes[2].signal(signal.SIGSTOP)
    story.wait("round 1 is over", lambda: story.rounds())
    running.nodes[2].signal(signal.SIGCONT)
    first = story.finish()[0]
    assert first["survivors"] == [0, 1, 3]
    assert first["dropped"] == {"2": "masked_input"}
    ledger = running.state(2, story.out) / "ledger.jsonl"
    late = [
        line["digest"] for line in map(json.loads, ledger.read_text().splitlines()[1:]) if line["round"] == 1
    ]
    heard = {head.head.hex() for head in read_heads(story.out / "heads.jsonl") if head.client_id == 2}
    assert not heard & set(late)  # its late contribution, head and all, was never taken


def test_a_node_that_is_restarted_in_the_middle_of_a_round_is_back_in_a_later_one(
    running: Deployment,
) -> None:
    story = Story.begin(running, "restarted", limit=UNHURRIED_SECONDS)
    story.until(1, "Sent", 1, "share_keys")
    running.nodes[1].kill()
    running.start_node(1)
    first = story.finish()[0]
    sent = running.nodes[1].exchanges("Sent")  # by the new process
    assert (1, "share_keys") not in sent
    if 1 in first["survivors"]:  # else it was back after Flower had counted it out, and joined the next round
        assert (1, "masked_input") in sent  # it went on from the disk
    else:
        assert first["dropped"] == {"1": "masked_input"}


def test_a_server_that_is_killed_in_the_middle_of_a_round_goes_on_with_a_new_attempt(
    running: Deployment,
) -> None:
    story = Story.begin(running, "server_killed", limit=UNHURRIED_SECONDS)
    for client_id in ALL:
        story.until(client_id, "Sent", 1, "masked_input")
    for pid in running.server_processes():
        os.kill(pid, signal.SIGKILL)
    story.process.kill()
    assert story.rounds() == []
    story.process = submit(running, story.out, "--resume", "--time-limit", str(UNHURRIED_SECONDS))
    lines = story.finish()
    assert [line["attempt"] for line in lines] == [1, 0, 0, 0]
    assert all(line["survivors"] == ALL for line in lines)
    book = story.charges(story.out / "ledger.jsonl")
    assert {(c, 1, a) for c in ALL for a in (0, 1)} <= book
    for client_id in ALL:
        own = story.charges(running.state(client_id, story.out) / "ledger.jsonl")
        assert own == {(client_id, 1, 0)} | {(client_id, line["round"], line["attempt"]) for line in lines}


@pytest.mark.parametrize("phase", PHASES)
def test_a_round_survives_a_node_that_is_killed(running: Deployment, phase: str) -> None:
    story = Story.begin(running, f"killed_before_{phase}")
    earlier = ("join", *PHASES)[PHASES.index(phase)]
    story.until(3, "Sent", 0 if earlier == "join" else 1, earlier)
    running.nodes[3].kill()
    story.wait("round 1 is over", lambda: story.rounds())
    running.start_node(3)
    first = story.finish()[0]
    contributed = PHASES.index(phase) > PHASES.index("masked_input")
    assert first["survivors"] == (ALL if contributed else [0, 1, 2])
    assert first["dropped"] == {"3": phase}
    own = story.charges(running.state(3, story.out) / "ledger.jsonl")
    assert ((3, 1, first["attempt"]) in own) == contributed
