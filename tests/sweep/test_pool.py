"""Cells are played by a script that writes what a run writes, so that these tests see the sweep alone."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from secure_fed_diffusion.errors import RunError
from secure_fed_diffusion.sweep import pool as pools
from secure_fed_diffusion.sweep import process
from secure_fed_diffusion.sweep.command import find_places
from secure_fed_diffusion.sweep.pool import Pool, Standing, clock_of
from secure_fed_diffusion.sweep.process import Place, attempts
from secure_fed_diffusion.sweep.progress import SweepProgress
from secure_fed_diffusion.sweep.table import rows_of, write_csv
from tests.federation.small import CONFIG

# argv: folder, config, rounds, seconds a round, the round that fails (-1: none)
PLAYED = """
import json, sys, time, shutil
from pathlib import Path
folder, config, rounds = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
pause, fails = float(sys.argv[4]), int(sys.argv[5])
folder.mkdir(parents=True, exist_ok=True)
with open(folder / "ledger.jsonl", "a") as ledger: ledger.write("begun\\n")
shutil.copy(config, folder / "config.toml")
metrics = folder / "metrics.jsonl"
done = len(metrics.read_text().splitlines()) if metrics.exists() else 0
(folder / "alive").write_text("")
try:
    for number in range(done, rounds):
        time.sleep(pause)
        if number == fails:
            sys.exit("sfd: round 1: too few clients are left")
        with open(metrics, "a") as file: file.write("{}\\n")
except KeyboardInterrupt:
    sys.exit(130)
finally:
    (folder / "alive").unlink()
summary = {"finished": True, "guard_view": "sum_c1", "epsilon": {"sum_c1": {"pld": 7.5, "rdp": 8.5}},
    "delta": 1e-5, "unit": "example", "relation": "add_remove", "noise_multiplier": 1.0,
    "noise_overhead": 1.1, "rounds": rounds, "parameters": 10, "bytes_up": 100,
    "bytes_down": 200, "metrics": {"tstr_cnn": 0.5}, "floor": {"fid_floor_x": 1.0},
    "audit": {"epsilon_lower": {"value": 2.5, "view": "sum_c0", "confidence": 0.95}}}
(folder / "summary.json").write_text(json.dumps(summary))
"""


class Recorder:
    def __init__(self) -> None:
        self.seen: list[Standing] = []
        self.ends: list[tuple[str, str | None]] = []
        self.took: list[float] = []

    def standing(self, standing: Standing) -> None:
        self.seen.append(standing)

    def ended(self, name: str, seconds: float, error: str | None, standing: Standing) -> None:
        self.ends.append((name, error))
        self.took.append(seconds)


@pytest.fixture
def places(tmp_path: Path) -> list[Place]:
    (tmp_path / "base.toml").write_text(CONFIG, encoding="utf-8")
    grid = tmp_path / "grid.toml"
    grid.write_text('base = "base.toml"\n[axes]\nseed = [0, 1, 2, 3]\n', encoding="utf-8")
    found = find_places(grid, tmp_path / "out", full=False)
    for place in found:
        place.write_config()
    return found


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """Let cells be played; return the command lines as they are started."""

    def start(*, pause: float = 0.02, failing: str = "", fails: int = 1) -> list[list[str]]:
        started: list[list[str]] = []

        def command(place: Place) -> list[str]:
            mine = str(fails) if place.cell.name == failing else "-1"
            words = [
                sys.executable,
                "-c",
                PLAYED,
                str(place.folder),
                str(place.config),
                "3",
                str(pause),
                mine,
            ]
            started.append([place.cell.name, "begun" if place.begun else "new"])
            return words

        monkeypatch.setattr(process, "command", command)
        monkeypatch.setattr(pools, "_POLL_SECONDS", 0.02)
        return started

    return start


def run(places: list[Place], **changes: object) -> tuple[dict[str, str], Recorder]:
    recorder = Recorder()
    arguments: dict[str, object] = {"jobs": 2, "memory_gib": 100.0} | changes
    return Pool(places=places, display=recorder, **arguments).run(), recorder  # type: ignore[arg-type]


def test_every_cell_is_run_once_and_a_second_call_runs_none(
    places: list[Place], play: Callable[..., list[list[str]]]
) -> None:
    started = play()
    failures, recorder = run(places)
    assert not failures
    assert sorted(started) == [[place.cell.name, "new"] for place in places]
    assert sorted(recorder.ends) == [(place.cell.name, None) for place in places]
    assert all(place.finished for place in places)
    assert run(places)[0] == {}
    assert len(started) == len(places)


def test_no_more_cells_run_than_there_are_jobs(
    places: list[Place], play: Callable[..., list[list[str]]]
) -> None:
    play(pause=0.1)
    for jobs, most in ((1, 1), (3, 3)):
        for place in places:
            if place.folder.exists():
                (place.folder / "summary.json").unlink()
                (place.folder / "metrics.jsonl").unlink()
        _, recorder = run(places, jobs=jobs)
        assert max(len(standing.running) for standing in recorder.seen) == most


def test_cells_wait_for_memory_and_one_always_runs(
    places: list[Place], play: Callable[..., list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    play(pause=0.1)
    monkeypatch.setattr(pools, "_largest_child_gib", lambda: 0.01)
    _, recorder = run(places, jobs=4, memory_gib=pools.FIRST_GUESS_GIB * 2.5)
    together = [len(standing.running) for standing in recorder.seen]
    assert together[0] == 2  # by the first guess
    assert max(together) <= 3  # all that are left, once a cell has shown how little it takes
    for place in places:
        (place.folder / "summary.json").unlink()
        (place.folder / "metrics.jsonl").unlink()
    monkeypatch.setattr(pools, "_largest_child_gib", lambda: 50.0)
    _, recorder = run(places, jobs=4, memory_gib=1.0)
    assert max(len(standing.running) for standing in recorder.seen) == 1
    assert all(place.finished for place in places)


def test_a_cell_that_fails_stops_no_other_and_says_why(
    places: list[Place], play: Callable[..., list[list[str]]]
) -> None:
    bad = places[1].cell.name
    started = play(failing=bad)
    failures, recorder = run(places)
    assert failures == {bad: "round 1: too few clients are left"}
    assert (bad, "round 1: too few clients are left") in recorder.ends
    assert [place.finished for place in places] == [True, False, True, True]
    rows = {row["cell"]: row for row in rows_of(places, attempts(places[0].root))}
    assert rows[bad]["status"] == "failed"
    assert rows[bad]["error"] == failures[bad]
    play()
    assert run(places)[0] == {}  # tried again, from where it was
    assert rows_of(places, attempts(places[0].root))[1]["status"] == "finished"
    assert [bad, "begun"] not in started


def test_ctrl_c_stops_every_run_and_a_second_call_goes_on(
    places: list[Place], play: Callable[..., list[list[str]]]
) -> None:
    started = play(pause=0.3)

    def press() -> None:
        while not any(place.rounds_done for place in places):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run(places)
    assert not list(places[0].root.glob("cells/*/alive"))  # every run was told, and waited for
    assert {each[-1]["status"] for each in attempts(places[0].root).values()} == {"stopped"}
    half = [place.cell.name for place in places if place.begun]
    assert half
    assert not any(place.finished for place in places)
    started.clear()
    assert run(places)[0] == {}
    assert sorted(name for name, state in started if state == "begun") == half
    ledgers = [(place.folder / "ledger.jsonl").read_text().count("begun") for place in places]
    assert ledgers == [2 if place.cell.name in half else 1 for place in places]


def test_a_folder_with_other_settings_is_refused(
    places: list[Place], play: Callable[..., list[list[str]]], tmp_path: Path
) -> None:
    play()
    run(places)
    changed = find_places(tmp_path / "grid.toml", tmp_path / "out", ("sampler.steps=3",), full=False)
    with pytest.raises(RunError, match="other settings"):
        changed[0].write_config()
    places[0].write_config()


def test_what_is_left_is_told_by_the_cells_that_are_done(
    places: list[Place], play: Callable[..., list[list[str]]]
) -> None:
    play(pause=0.1)
    _, recorder = run(places, jobs=1)
    learned = [standing for standing in recorder.seen if standing.seconds_left is not None]
    assert recorder.seen[0].seconds_left is None
    assert learned
    assert learned[-1].done == 4
    # four equal cells of at least 0.3 s: after the first, what is left is that of at most three
    assert max(float(standing.seconds_left or 0) for standing in learned) <= 4 * max(recorder.took) + 0.1


def test_what_an_attempt_took_is_written_down_in_whole_minutes(
    places: list[Place], play: Callable[..., list[list[str]]]
) -> None:
    play()
    run(places)
    took = attempts(places[0].root)
    assert {each["seconds"] for past in took.values() for each in past} == {60}
    assert {row["seconds"] for row in rows_of(places, took)} == {60}


def test_what_a_part_takes_is_told_by_the_whole_grid(
    places: list[Place], play: Callable[..., list[list[str]]]
) -> None:
    play(pause=0.1)
    run(places[:2])
    assert clock_of(places[2:]).learned == 0
    assert clock_of(places).learned == 2
    _, recorder = run(places[2:], known=places)
    assert recorder.seen[0].seconds_left is not None  # before the first of its own
    assert {standing.cells for standing in recorder.seen} == {2}


def test_a_row_has_every_figure_of_its_cell(
    places: list[Place], play: Callable[..., list[list[str]]]
) -> None:
    play()
    run(places)
    auc = {"auc": 0.6, "auc_interval": [0.5, 0.7]}
    attacks = {"membership": {"loss_threshold": auc, "sima": {"auc": 0.9, "auc_interval": [0.8, 1.0]}}}
    (places[0].folder / "attacks.json").write_text(json.dumps(attacks))
    row = rows_of(places, attempts(places[0].root))[0]
    expected = {
        "mode": "distributed",
        "epsilon": 10.0,
        "epsilon_spent": 7.5,
        "clients": 6,
        "seed": 0,
        "view": "sum_c1",
        "tstr_cnn": 0.5,
        "fid_floor_x": 1.0,
        "audited_epsilon": 2.5,
        "membership_auc": 0.6,
        "membership_auc_low": 0.5,
        "membership_auc_sima": 0.9,
        "bytes_up": 100,
    }
    assert {key: row[key] for key in expected} == expected
    assert row["seconds"] > 0


@pytest.mark.parametrize("attacked", [True, False])
def test_a_table_with_figures_of_private_images_is_its_owners(attacked: bool, tmp_path: Path) -> None:
    path = tmp_path / "cells.csv"
    path.write_text("older, for all to read")
    write_csv(path, [{"cell": "a", **({"membership_auc": 0.6} if attacked else {"tstr_cnn": 0.5})}])
    assert path.read_text().splitlines()[1] in ("a,0.6", "a,0.5")
    assert bool(path.stat().st_mode & 0o077) != attacked
    assert list(tmp_path.iterdir()) == [path]


def test_a_log_gets_plain_lines_and_a_terminal_gets_bars() -> None:
    standing = Standing(
        cells=3, done=1, failed=0, running=(("a", 1, 4, 60.0),), seconds_left=120.0, seconds_guessed=120.0
    )
    plain = Console(file=io.StringIO(), force_terminal=False)
    with SweepProgress(console=plain) as progress:
        progress.standing(standing)
        progress.standing(standing)
        progress.ended("a", 61.0, None, standing)
        progress.ended("b", 61.0, "no\x1b[31m budget", standing)
    lines = plain.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert lines == [
        "begun: a, after round 1 of 4",
        "done: a, 61 s (1 of 3 done, about 2 min left)",
        "FAILED: b: no [31m budget (1 of 3 done, about 2 min left)",
    ]
    live = Console(file=io.StringIO(), force_terminal=True, width=100)
    with SweepProgress(console=live) as progress:
        progress.standing(standing)
    shown = live.file.getvalue()  # type: ignore[attr-defined]
    assert "round 1/4" in shown
    assert "about 2 min left" in shown


def test_the_pool_ends_a_run_that_does_not_stop(places: list[Place], monkeypatch: pytest.MonkeyPatch) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); "
    deaf += "print('on', flush=True); time.sleep(60)"
    monkeypatch.setattr(process, "command", lambda place: [sys.executable, "-c", deaf])
    monkeypatch.setattr(process, "_PATIENCE_SECONDS", 0.2)
    running = process.Running.start(places[0])
    while b"on" not in places[0].log.read_bytes():
        time.sleep(0.02)
    running.ask_to_stop()
    running.end()
    assert isinstance(running.process, subprocess.Popen)
    assert running.process.returncode == -signal.SIGKILL


@pytest.mark.parametrize(("set_by", "threads"), [((), "1"), (("run.threads=3", "run.workers=2"), "6")])
def test_a_cell_is_given_as_many_threads_as_its_workers_have_together(
    set_by: tuple[str, ...], threads: str, places: list[Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = places[0].root
    place = find_places(root.parent / "grid.toml", root, set_by, full=False)[0]
    said = "import os; print(os.environ['OMP_NUM_THREADS'], os.environ['MKL_NUM_THREADS'])"
    monkeypatch.setattr(process, "command", lambda _: [sys.executable, "-c", said])
    process.Running.start(place).process.wait()
    assert place.log.read_text() == f"{threads} {threads}\n"


def test_an_attempt_that_said_nothing_is_not_given_the_words_of_the_one_before(
    places: list[Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = places[0]
    place.log.parent.mkdir(parents=True)
    place.log.write_text("sfd: round 1: too few clients are left\n")
    monkeypatch.setattr(process, "command", lambda _: [sys.executable, "-c", "raise SystemExit(3)"])
    running = process.Running.start(place)
    running.process.wait()
    assert running.error() == "ended with status 3 and said nothing"
