"""A grid run in parts: which records are kept from the results before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments import sweeping
from experiments.results import origin_text
from experiments.sweeping import cell_digests, gathered, kept_records, sweep_options
from secure_fed_diffusion import config
from secure_fed_diffusion.sweep.command import find_places
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


@pytest.fixture
def finish(grid: Path, monkeypatch: pytest.MonkeyPatch):
    """Return what lets these cells be finished in a folder, begun with the grid's settings or others."""

    def go(out: Path, *seeds: int, seconds: float = 60.0, overrides: tuple[str, ...] = ()) -> Path:
        for place in find_places(grid, out, overrides, full=False):
            place.folder.mkdir(parents=True, exist_ok=True)
            (place.folder / "config.toml").write_text(config.dump(place.settings), encoding="utf-8")
        records = [{"cell": f"seed-{seed}", "seed": seed, "seconds": seconds} for seed in seeds]
        monkeypatch.setattr(sweeping, "finished_cells", lambda *_, **__: records)
        return out

    return go


def written(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps({"records": records}), encoding="utf-8")
    return path


def test_parts_run_apart_make_the_whole_in_the_order_of_the_grid(grid: Path, finish, tmp_path: Path) -> None:
    first = gathered(grid, finish(tmp_path / "here", 1, 2), (), kept={}, commit="a")
    kept = kept_records(cell_digests(grid, ()), written(tmp_path / "results.json", first))
    both = gathered(grid, finish(tmp_path / "there", 0), (), kept=kept, commit="b")
    assert [(record["cell"], record["commit"]) for record in both] == [
        ("seed-0", "b"),
        ("seed-1", "a"),
        ("seed-2", "a"),
    ]
    assert both[1:] == first
    made = {"command": "run", "commit": "b", "machine": "m", "records": both}
    assert origin_text(made) == "`run` at commit b, m; records of earlier calls at a"
    assert origin_text({**made, "records": both[:1]}) == "`run` at commit b, m"


def test_where_a_cell_is_computed_is_not_what_it_is(grid: Path, finish, tmp_path: Path) -> None:
    first = gathered(grid, finish(tmp_path / "here", 0, 1, 2), (), kept={}, commit="a")
    results = written(tmp_path / "results.json", first)
    elsewhere = ("run.device=cuda", "run.workers=auto", 'data.directory="/elsewhere"')
    assert list(kept_records(cell_digests(grid, elsewhere), results).values()) == first


def test_what_is_collected_again_keeps_its_commit_unless_it_was_run_again(
    grid: Path, finish, tmp_path: Path
) -> None:
    first = gathered(grid, finish(tmp_path / "out", 0, 1), (), kept={}, commit="a")
    kept = {record["cell"]: record for record in first}
    assert gathered(grid, finish(tmp_path / "out", 0, 1), (), kept=kept, commit="b") == first
    again = gathered(grid, finish(tmp_path / "out", 0, 1, seconds=61.0), (), kept=kept, commit="b")
    assert [(record["commit"], record["seconds"]) for record in again] == 2 * [("b", 61.0)]


def test_a_cell_that_was_begun_with_other_settings_is_left_out(
    grid: Path, finish, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = finish(tmp_path / "out", 0, overrides=("sampler.steps=3",))
    assert gathered(grid, out, (), kept={}, commit="a") == []
    assert "seed-0 was begun with other settings" in capsys.readouterr().err
    (record,) = gathered(grid, out, ("sampler.steps=3",), kept={}, commit="a")
    assert record["cell"] == "seed-0"


def test_records_of_other_settings_are_lost_only_where_that_is_asked_for(
    grid: Path, finish, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = gathered(grid, finish(tmp_path / "out", 0, 1), (), kept={}, commit="a")
    gone = {"cell": "seed-9", "settings": "x"}  # no axis has it
    results = written(tmp_path / "results.json", [*first, gone])
    with pytest.raises(SystemExit, match=r"1 records of other settings .* as seed-9"):
        kept_records(cell_digests(grid, ()), results)
    with pytest.raises(SystemExit, match="3 records of other settings"):
        kept_records(cell_digests(grid, ("sampler.steps=3",)), results)
    assert list(kept_records(cell_digests(grid, ()), results, fresh=True).values()) == first
    assert capsys.readouterr().err.strip().endswith(": seed-9")
    assert kept_records(cell_digests(grid, ()), tmp_path / "nothing.json") == {}


def test_the_part_is_handed_on_to_the_sweep() -> None:
    words = sweep_options(jobs=2, memory=None, overrides=["a.b=1"], only=["seed=0", "epsilon=1"])
    assert words == ["--jobs", "2", "--set", "a.b=1", "--only", "seed=0", "--only", "epsilon=1"]
