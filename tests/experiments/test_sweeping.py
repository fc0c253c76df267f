"""A grid run in parts: which records are kept from the results before."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import sweeping
from experiments.results import origin_text
from experiments.sweeping import gathered, sweep_options
from tests.federation.small import CONFIG

GRID = """
base = "base.toml"
[axes]
seed = [0, 1, 2]
"""


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    (tmp_path / "base.toml").write_text(CONFIG, encoding="utf-8")
    (tmp_path / "grid.toml").write_text(GRID, encoding="utf-8")
    return tmp_path / "grid.toml"


def finished(monkeypatch: pytest.MonkeyPatch, *seeds: int, seconds: float = 60.0) -> None:
    """Let these cells be finished in whatever folder is asked."""
    records = [{"cell": f"seed-{seed}", "seed": seed, "seconds": seconds} for seed in seeds]
    monkeypatch.setattr(sweeping, "finished_cells", lambda *_: records)


def test_parts_run_apart_make_the_whole_in_the_order_of_the_grid(
    grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finished(monkeypatch, 1, 2)
    first = gathered(grid, tmp_path / "here", (), before=(), commit="a")
    finished(monkeypatch, 0)
    both = gathered(grid, tmp_path / "there", (), before=first, commit="b")
    assert [(record["cell"], record["commit"]) for record in both] == [
        ("seed-0", "b"),
        ("seed-1", "a"),
        ("seed-2", "a"),
    ]
    assert both[1:] == first
    made = {"command": "run", "commit": "b", "machine": "m", "records": both}
    assert origin_text(made) == "`run` at commit b, m; records of earlier calls at a"
    assert origin_text({**made, "records": both[:1]}) == "`run` at commit b, m"
    elsewhere = ("run.device=cuda", "run.workers=auto")  # where a cell is computed is not what it is
    assert gathered(grid, tmp_path / "there", elsewhere, before=both, commit="b") == both
    assert capsys.readouterr().err == ""


def test_what_is_collected_again_keeps_its_commit_unless_it_was_run_again(
    grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished(monkeypatch, 0, 1)
    first = gathered(grid, tmp_path, (), before=(), commit="a")
    assert gathered(grid, tmp_path, (), before=first, commit="b") == first
    finished(monkeypatch, 0, 1, seconds=61.0)
    again = gathered(grid, tmp_path, (), before=first, commit="b")
    assert [(record["commit"], record["seconds"]) for record in again] == 2 * [("b", 61.0)]


def test_a_record_of_other_settings_is_left_out_and_named(
    grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finished(monkeypatch, 0, 1)
    first = gathered(grid, tmp_path, (), before=(), commit="a")
    finished(monkeypatch, 1)
    other = gathered(grid, tmp_path, ("sampler.steps=3",), before=first, commit="b")
    assert [(record["cell"], record["commit"]) for record in other] == [("seed-1", "b")]
    assert capsys.readouterr().err.strip().endswith(": seed-0")
    finished(monkeypatch)
    gone = [{"cell": "seed-9", "settings": "x"}, {"cell": "seed-2"}]  # no axis has it; no digest
    assert gathered(grid, tmp_path, (), before=gone, commit="b") == []
    assert capsys.readouterr().err.strip().endswith(": seed-2, seed-9")


def test_the_part_is_handed_on_to_the_sweep() -> None:
    words = sweep_options(jobs=2, memory=None, overrides=["a.b=1"], only=["seed=0", "epsilon=1"])
    assert words == ["--jobs", "2", "--set", "a.b=1", "--only", "seed=0", "--only", "epsilon=1"]
