"""A retry is a new draw, a folder has one writer, and no noise is ever stored."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from secure_fed_diffusion import config
from secure_fed_diffusion.dp.ledger import Ledger
from secure_fed_diffusion.federation import contribution
from secure_fed_diffusion.federation.contribution import Contributor
from secure_fed_diffusion.federation.prepare import prepare
from secure_fed_diffusion.federation.rounds import run_rounds
from secure_fed_diffusion.federation.run import Run
from tests.federation.small import Federation, federation, settings_for

Draws = list[npt.NDArray[Any]]


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> tuple[Draws, Draws]:
    """Every vector of noise and every Poisson sample (its coins) that a contribution drew."""
    noise: Draws = []
    coins: Draws = []
    with_noise, sample = Contributor._with_noise, contribution.poisson_sample

    def watched_noise(self: Contributor, integers: Any, release: Any) -> npt.NDArray[Any]:
        answer = with_noise(self, integers, release)
        noise.append(answer - integers)
        return answer

    def watched_sample(*args: Any, **kwargs: Any) -> npt.NDArray[Any]:
        coins.append(sample(*args, **kwargs))
        return coins[-1].copy()

    monkeypatch.setattr(Contributor, "_with_noise", watched_noise)
    monkeypatch.setattr(contribution, "poisson_sample", watched_sample)
    return noise, coins


def fail_first_attempt(engine: Any, cohort: tuple[int, ...]) -> None:
    """Lose two clients at the last phase of the first attempt: its frames have left."""
    begun: list[int] = []

    def absent(number: int, client_id: int, phase: str) -> bool:
        if (number, client_id, phase) == (1, cohort[0], "masked_input"):
            begun.append(number)
        return len(begun) == 1 and number == 1 and client_id in cohort[:2] and phase == "unmask"

    engine.absent = absent


@pytest.mark.parametrize("rounds_per_setup", [1, 5])
def test_a_retry_draws_fresh_noise_and_a_fresh_sample(
    rounds_per_setup: int, draws: tuple[Draws, Draws]
) -> None:
    """Two samples of one client agree by chance with probability below 0.5 ** 20: each has 20 records."""
    noise, coins = draws
    it: Federation = federation(
        settings_for("distributed", "warmup.draws=0", f"secagg.rounds_per_setup={rounds_per_setup}")
    )
    cohort = it.plan.rounds[0].cohort
    fail_first_attempt(it.engine, cohort)
    frames: list[bytes] = []
    exchange = it.engine.exchange

    def watched(outgoing: Any, *, round: int, phase: str) -> Any:  # noqa: A002
        replies = exchange(outgoing, round=round, phase=phase)
        frames.extend(replies.frames.values() if phase == "masked_input" else ())
        return replies

    it.engine = type("Watched", (), {"exchange": staticmethod(watched)})()
    outcome = next(run_rounds(it.plan, it.server, it.engine, it.book, first=1, note=print))
    assert outcome.attempt == 1
    n_clients = len(cohort)
    assert len(noise) == len(coins) == len(frames) == 2 * n_clients
    for client, client_id in enumerate(cohort):
        assert len(it.contributors[client_id].images) >= 20
        assert not np.array_equal(coins[client], coins[client + n_clients])
    for one, other in itertools.combinations(noise, 2):
        assert np.mean(one == other) < 0.1
    assert len(set(frames)) == len(frames)


def test_a_second_process_cannot_go_on_with_the_same_folder(tmp_path: Path) -> None:
    settings = settings_for("distributed")
    run = prepare(settings, tmp_path / "run", config_text=config.dump(settings))
    second = (
        "import sys; from secure_fed_diffusion.dp.ledger import Ledger\n"
        "try: Ledger.open(sys.argv[1])\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    command = [sys.executable, "-c", second, str(run.folder.ledger)]
    try:
        refused = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    finally:
        run.ledger.close()
    assert refused == "RunError ledger.jsonl is in use by another process: a run has one writer\n"
    Ledger.open(run.folder.ledger).close()


def traces(vector: npt.NDArray[Any]) -> Iterator[bytes]:
    """Yield what a stored vector would leave in a file: pieces of it, in each usual form."""
    for start in (0, len(vector) // 2, len(vector) - 8):
        piece = vector[start : start + 8]
        for dtype in ("<i8", "<i4", "<i2", "<f4", "<f8", ">i8", ">i4"):
            yield piece.astype(dtype).tobytes()
        for gap in (",", ", ", " "):
            yield gap.join(str(value) for value in piece.tolist()).encode()
            yield gap.join(str(float(value)) for value in piece.tolist()).encode()


def stored(vectors: Draws, folder: Path) -> list[str]:
    """Name the files in which a piece of any of the vectors stands."""
    pieces = {trace for vector in vectors for trace in traces(vector)}
    return [
        path.name
        for path in folder.rglob("*")
        if path.is_file() and any(piece in data for data in [path.read_bytes()] for piece in pieces)
    ]


class _Quiet:
    def round(self, record: dict[str, Any]) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""


def test_noise_is_never_stored(draws: tuple[Draws, Draws], tmp_path: Path) -> None:
    noise, coins = draws
    settings = settings_for("distributed", "modes.distributed.rounds=1")
    run: Run = prepare(settings, tmp_path / "run", config_text=config.dump(settings))
    fail_first_attempt(run.engine, run.plan.rounds[0].cohort)
    try:
        run.execute(_Quiet())
    finally:
        run.ledger.close()
    assert len(noise) == len(coins) == 15  # two rounds of five clients, the first of them twice
    assert stored(noise, run.folder.root) == []
    chosen = [np.flatnonzero(sample) for sample in coins if np.count_nonzero(sample) >= 8]
    assert len(chosen) > 5
    assert stored(chosen, run.folder.root) == []


@pytest.mark.parametrize("form", ["npy", "json", "float32"])
def test_noise_that_is_stored_is_found(form: str, tmp_path: Path) -> None:
    vector = np.arange(-500, 500, dtype=np.int64) ** 3 % 6007
    path = tmp_path / "deep" / "file"
    path.parent.mkdir()
    if form == "npy":
        with path.open("wb") as file:
            np.save(file, vector)
    elif form == "json":
        path.write_text(json.dumps({"noise": vector.tolist()}))
    else:
        path.write_bytes(b"x" + vector.astype(np.float32).tobytes())
    assert stored([vector], tmp_path) == ["file"]
