"""kill -9 at random points: a run that is resumed pays for everything that left, and ends as if undisturbed.

Each run is a process of its own, killed once by SIGKILL: at a random moment, or at a random one of the
points where something touches the disk or leaves a client (before it, after it, and in the middle of a
write; so also between a charge and its frame).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secure_fed_diffusion.dp.chain import decode
from secure_fed_diffusion.federation import checkpoint
from secure_fed_diffusion.federation.folder import read_lines
from secure_fed_diffusion.federation.records import read_records
from tests.federation.killing import RESERVED

ROUNDS = 3
RESULTS = ("round", "kind", "cohort", "survivors", "dropped", "holdout_loss")
RUNS = {1: 100, 2: 30}  # that are killed anywhere, by rounds a set-up


class Hangman:
    """Talks to `tests.federation.killing`: one order, one process, one answer."""

    def __init__(self, rounds_per_setup: int) -> None:
        self.rounds_per_setup = rounds_per_setup
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.federation.killing"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(
        self, folder: Path, *, last_event: int | None = None, after_seconds: float | None = None
    ) -> dict[str, Any]:
        """Run in `folder`, or go on there; "killed" and "ended" say how the process went."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        order = {"folder": str(folder), "notes": str(folder.with_suffix(".frames"))}
        order |= {"last_event": last_event, "after_seconds": after_seconds}  # type: ignore[dict-item]
        order |= {"rounds_per_setup": self.rounds_per_setup}  # type: ignore[dict-item]
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def close(self) -> None:
        """End the server; it holds nothing."""
        self._server.kill()
        self._server.communicate()


@pytest.fixture(scope="module", params=[1, 2], ids=["a set-up a round", "a set-up for two"])
def hangman(request: pytest.FixtureRequest) -> Iterator[Hangman]:
    it = Hangman(request.param)
    yield it
    it.close()


@pytest.fixture(scope="module")
def undisturbed(hangman: Hangman, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, float]:
    """An uninterrupted run, its number of events, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    answer = hangman.run(folder)
    assert answer["ended"]
    return folder, int(folder.with_suffix(".events").read_text()), answer["seconds"]


def result(folder: Path) -> dict[str, Any]:
    """What a run came to: everything but what an attempt costs, and how long it took.

    Its bytes are no part of that where a resumed run makes one set-up more.
    """
    _, state, _ = checkpoint.load(folder / "checkpoint") or (0, {}, None)
    model = (folder / "model" / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    metrics = read_lines(folder / "metrics.jsonl")
    one = "rounds_per_setup = 1" in (folder / "config.toml").read_text()
    lines = [{key: line[key] for key in (*RESULTS, "bytes_up")[: None if one else -1]} for line in metrics]
    return {"weights": state["weights"].numpy(), "model": model, "lines": lines}


def require_whole(folder: Path, before: bytes, undisturbed: Path) -> int:
    """Check a resumed run against all that is promised; return how many rounds were repeated."""
    records = read_records(folder)  # the chain, each ε, the budget, every signed head
    data = (folder / "ledger.jsonl").read_bytes()
    whole = before[: before.rfind(b"\n") + 1]
    assert data.startswith(whole)  # nothing is taken back
    charges = [entry.fields for entry in decode(data)[0][1:]]
    paid = {(charge["client_id"], charge["round"], charge["attempt"]) for charge in charges}
    notes = folder.with_suffix(".frames").read_text().splitlines()
    left = [json.loads(line) for line in notes if line.endswith("]")]
    assert {tuple(frame[:3]) for frame in left} <= paid
    assert len({frame[3] for frame in left}) == len(left)  # no frame was sent twice
    attempts = {number: {a for _, r, a in paid if r == number} for number in range(1, ROUNDS + 1)}
    repeats = 0
    for number, made in attempts.items():
        assert made == set(range(len(made))), number
        repeats += len(made) - 1
    assert repeats <= RESERVED
    reserved = records.own.terms.max_charges["training"]
    assert all(steps <= reserved for steps in records.own.most.values())
    expected, found = result(undisturbed), result(folder)
    np.testing.assert_array_equal(found["weights"], expected["weights"])
    assert found["model"] == expected["model"]
    assert found["lines"] == expected["lines"]
    assert json.loads((folder / "summary.json").read_text())["finished"]
    return repeats


def ledger_of(folder: Path) -> bytes:
    path = folder / "ledger.jsonl"
    return path.read_bytes() if path.exists() else b""


def kill_once(
    hangman: Hangman,
    undisturbed: tuple[Path, int, float],
    folder: Path,
    number: int,
    rng: np.random.Generator,
) -> tuple[str, int]:
    """Kill one run, resume it, check it; return where it was killed and how many rounds were repeated."""
    reference, n_events, seconds = undisturbed
    while True:
        if number % 2:
            event = int(rng.integers(1, n_events + 1))
            where, answer = f"event {event}", hangman.run(folder, last_event=event)
        else:
            moment = float(rng.uniform(0, seconds))
            where, answer = f"{moment:.3f} s", hangman.run(folder, after_seconds=moment)
        if answer["killed"]:
            break
        assert answer["ended"]  # it was faster than the moment that was drawn: another run, another moment
        folder, seconds = folder.with_name(f"{folder.name}_again"), 0.7 * seconds
    before = ledger_of(folder)
    assert hangman.run(folder)["ended"], where
    return where, require_whole(folder, before, reference)


@pytest.mark.parametrize("share", [0.3, 0.55, 0.8])
def test_a_killed_run_pays_for_what_left_and_ends_like_one_that_was_not(
    share: float, hangman: Hangman, undisturbed: tuple[Path, int, float], tmp_path: Path
) -> None:
    event = round(share * undisturbed[1])
    assert hangman.run(tmp_path / "run", last_event=event)["killed"]
    before = ledger_of(tmp_path / "run")
    assert before.count(b"\n") > 1
    assert hangman.run(tmp_path / "run")["ended"]
    require_whole(tmp_path / "run", before, undisturbed[0])


@pytest.mark.slow
def test_a_hundred_runs_that_are_killed_anywhere_lose_nothing(
    hangman: Hangman, undisturbed: tuple[Path, int, float], tmp_path: Path
) -> None:
    seed = int.from_bytes(tmp_path.name.encode(), "big") % 2**32
    rng = np.random.default_rng(seed)
    repeated = []
    for number in range(RUNS[hangman.rounds_per_setup]):
        where, repeats = kill_once(hangman, undisturbed, tmp_path / f"run{number}", number, rng)
        repeated.append(repeats)
        print(f"run {number}, seed {seed}: killed at {where}, {repeats} rounds repeated")
    assert 0 < sum(repeats > 0 for repeats in repeated) < len(repeated)  # inside a round, and outside


@pytest.mark.slow
def test_every_single_point_between_a_charge_and_its_frame_is_survived(
    hangman: Hangman, undisturbed: tuple[Path, int, float], tmp_path: Path
) -> None:
    reference, n_events, _ = undisturbed
    middle = n_events // 2
    for event in range(middle, middle + 24):  # two clients' answers, whole
        folder = tmp_path / f"run{event}"
        assert hangman.run(folder, last_event=event)["killed"]
        before = ledger_of(folder)
        assert hangman.run(folder)["ended"]
        require_whole(folder, before, reference)
