"""The five modes of the quickstart: each is run, or taken up, and becomes a row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments import five_modes
from experiments.quickstart import run
from experiments.results import into_readme
from secure_fed_diffusion import config
from secure_fed_diffusion.federation.settings import MODES

SMALL = [
    "modes.central.rounds=2",
    "warmup.steps=2",
    "evaluation.samples=40",
    "evaluation.tstr_epochs=1",
    "model.channels=[8, 8]",
    "model.norm_groups=4",
    "model.attention_head_dim=4",
    "sampler.steps=2",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("modes")
    return out, five_modes.run_mode(run.HERE / "config.toml", "central", out, SMALL)


def test_a_mode_is_run_and_becomes_a_record(finished: tuple[Path, dict[str, Any]]) -> None:
    _, summary = finished
    assert summary["finished"]
    assert summary["mode"] == "central"
    record = five_modes.record(summary, 0)
    assert record["view"] == "released_model"
    assert 0 < record["epsilon_spent"] <= record["epsilon"] == 10.0
    text = run.markdown({"command": "c", "commit": "1", "machine": "m", "records": [record]})
    assert "| `central` | 10 | " in text
    assert "example, add_remove | released_model |" in text
    assert "ε by PLD, δ = 1e-05" in text
    of_client = run.markdown(
        {"command": "c", "commit": "1", "machine": "m", "records": [{**record, "relation": "zero_out"}]}
    )
    assert "add" not in of_client  # a relation stands in its own row and nowhere else


def test_a_finished_mode_is_not_run_again(
    finished: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, summary = finished
    monkeypatch.setattr(five_modes, "run_to_its_end", None)
    assert five_modes.run_mode(run.HERE / "config.toml", "central", out, SMALL) == summary


def test_a_folder_of_another_configuration_is_refused(finished: tuple[Path, dict[str, Any]]) -> None:
    out, _ = finished
    with pytest.raises(SystemExit, match="another configuration"):
        five_modes.run_mode(run.HERE / "config.toml", "central", out, [*SMALL, "run.seed=5"])


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_a_configuration(mode: str) -> None:
    assert config.load(run.HERE / "config.toml", [f"privacy.mode={mode}"]).privacy.mode == mode


def test_the_readme_holds_the_table_of_the_committed_results(tmp_path: Path) -> None:
    results = json.loads((run.HERE / "results.json").read_text(encoding="utf-8"))
    text, copy = (run.HERE / "README.md").read_text(encoding="utf-8"), tmp_path / "README.md"
    copy.write_text(text, encoding="utf-8")
    into_readme(copy, "results", run.markdown(results))
    assert copy.read_text(encoding="utf-8") == text
    assert [record["mode"] for record in results["records"]] == list(MODES)
