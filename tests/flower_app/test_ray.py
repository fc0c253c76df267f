"""Flower's own simulation, on Ray, through the command and as a library."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr", reason="the extra `flower` is not installed")
pytest.importorskip("ray", reason="the extra `flower` is not installed")

from secure_fed_diffusion import config
from secure_fed_diffusion.federation.folder import read_lines
from secure_fed_diffusion.federation.records import read_records
from tests.flower_app.played import (
    FrozenRehearsal,
    Watcher,
    charges,
    in_process,
    leave_out_measurements,
    simulated,
    tiny,
    weights,
)

ROOT = Path(__file__).parents[2]


def sfd(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "secure_fed_diffusion.cli", *map(str, words)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("setups", [1, 2])
def test_on_ray_the_weights_are_those_of_one_process_to_the_bit(
    setups: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clients' own check of their micro-batches runs here: Ray's processes are not patched."""
    leave_out_measurements(monkeypatch)
    settings = tiny("distributed", f"secagg.rounds_per_setup={setups}")
    in_process(tmp_path / "here", settings)
    run, watcher = simulated(tmp_path / "ray", settings), Watcher()
    run.open_party = FrozenRehearsal(
        *(getattr(run.open_party, name) for name in ("root", "config_text", "device"))
    )
    try:
        summary = run.execute(watcher)
    finally:
        run.ledger.close()
    assert summary["finished"]
    assert np.array_equal(weights(tmp_path / "here")[0], weights(tmp_path / "ray")[0])
    assert charges(tmp_path / "here" / "ledger.jsonl") == charges(tmp_path / "ray" / "ledger.jsonl")


@pytest.mark.slow
def test_the_command_runs_on_flower_in_silence_stops_at_ctrl_c_and_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (tmp_path / "config.toml").write_text(config.dump(tiny("distributed", "evaluation.samples=100")))
    running = sfd("run", tmp_path / "config.toml", "--out", folder, "--engine", "flower", "--json")
    deadline = time.monotonic() + 300
    while not read_lines(folder / "metrics.jsonl") and time.monotonic() < deadline:
        assert running.poll() is None, running.communicate()
        time.sleep(0.1)
    os.kill(running.pid, signal.SIGINT)
    out, err = running.communicate(timeout=300)
    assert running.returncode == 130, err
    assert out == ""
    assert err.count("\n") == 1
    command = err.partition("go on with: sfd ")[2].split()
    assert command[-3:] == ["--engine", "flower", "--resume"]
    resumed = sfd(*command, "--json")
    out, err = resumed.communicate(timeout=300)
    assert (resumed.returncode, err) == (0, "")
    summary: dict[str, Any] = json.loads(out)
    assert summary["finished"]
    assert [line["round"] for line in read_lines(folder / "metrics.jsonl")] == [1, 2, 3]
    assert "tstr_cnn" in read_lines(folder / "metrics.jsonl")[-1]
    assert (folder / "report.html").exists()
    assert read_records(folder).testimony.own_ledgers == 5


def test_without_the_packages_the_command_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from secure_fed_diffusion import cli

    honest = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name in ("flwr", "ray") else honest(name, *rest),
    )
    (tmp_path / "config.toml").write_text("")
    words = [
        "sfd",
        "run",
        str(tmp_path / "config.toml"),
        "--out",
        str(tmp_path / "run"),
        "--engine",
        "flower",
    ]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "needs flwr and ray: pip install 'secure-fed-diffusion[flower]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
