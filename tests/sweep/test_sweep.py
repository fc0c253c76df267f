"""`sfd sweep` with real runs: two cells, one of which cannot be."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from secure_fed_diffusion import cli
from secure_fed_diffusion.dp.ledger import verify
from secure_fed_diffusion.sweep.pool import Pool
from tests.federation.small import CONFIG

GRID = """
base = "base.toml"
[settings]
evaluation.samples = 90
evaluation.tstr_epochs = 1
[axes]
mode = ["distributed"]
epsilon = [0.001, 8.0]
"""


@pytest.fixture
def sfd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "base.toml").write_text(CONFIG, encoding="utf-8")
    (tmp_path / "grid.toml").write_text(GRID, encoding="utf-8")

    def call(*words: str) -> int:
        arguments = ["sfd", "sweep", str(tmp_path / "grid.toml"), "--out", str(tmp_path / "out"), *words]
        monkeypatch.setattr("sys.argv", arguments)
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return int(caught.value.code or 0)

    return call


def test_a_dry_run_lists_the_cells_and_writes_nothing(
    sfd, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sfd("--dry-run", "--json", "--jobs", "2") == 0
    said = json.loads(capsys.readouterr().out)
    assert [cell["status"] for cell in said["cells"]] == ["new", "new"]
    assert said["seconds_left"] > 0
    assert said["budgets_checked"] is False
    assert sfd("--dry-run") == 0
    assert "budgets are not: a cell whose ε cannot be kept fails" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_a_part_of_the_grid_is_run_alone_and_the_table_says_what_is_left(
    sfd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sfd("--dry-run", "--json", "--only", "epsilon=8") == 0
    (cell,) = json.loads(capsys.readouterr().out)["cells"]
    assert cell["cell"] == "mode-distributed_epsilon-8"
    ran = []
    monkeypatch.setattr(Pool, "run", lambda pool: ran.extend(place.cell.name for place in pool.places) or {})
    assert sfd("--only", "epsilon=8") == 0
    assert ran == ["mode-distributed_epsilon-8"]
    with (tmp_path / "out" / "cells.csv").open(encoding="utf-8") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["new", "new"]
    assert sfd("--resume", "--only", "epsilon=9") == 2
    assert "0.001, 8" in capsys.readouterr().err


def test_a_folder_that_is_taken_is_refused_without_resume(
    sfd, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "something").touch()
    assert sfd() == 2
    assert "--resume" in capsys.readouterr().err


@pytest.mark.slow
def test_a_cell_that_cannot_be_is_told_at_the_end_and_the_other_is_done_once(
    sfd, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert sfd("--jobs", "2") == 1
    said = capfd.readouterr()
    assert (
        "failed: mode-distributed_epsilon-0.001: privacy.epsilon=0.001 is less than the warm-up" in said.err
    )
    ledger = tmp_path / "out" / "cells" / "mode-distributed_epsilon-8" / "ledger.jsonl"
    assert verify(ledger).head
    before = ledger.read_bytes()
    assert sfd("--resume") == 1  # the failed one is tried again; the finished one is not
    assert ledger.read_bytes() == before
    with (tmp_path / "out" / "cells.csv").open(encoding="utf-8") as file:
        rows = {row["cell"]: row for row in csv.DictReader(file)}
    assert [row["status"] for row in rows.values()] == ["failed", "finished"]
    done = rows["mode-distributed_epsilon-8"]
    assert 0 < float(done["epsilon_spent"]) <= 8
    assert 0 <= float(done["tstr_cnn"]) <= 1
    assert float(done["seconds"]) > 0
