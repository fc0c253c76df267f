"""The side-by-side example: its variants differ by a few lines, and one of its apps runs as a whole."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.flower_secagg import run
from experiments.results import into_readme

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "experiments" / "flower_secagg" / "results.json"
WITHOUT_FLOWER = importlib.util.find_spec("flwr") is None or importlib.util.find_spec("ray") is None


def test_our_variant_of_an_app_changes_at_most_four_of_its_lines() -> None:
    assert {app: run.changed_lines(app, "secure") <= 4 for app in run.APPS} == dict.fromkeys(run.APPS, True)
    assert run.changed_lines("torch", "secagg_plus") > 20  # SecAgg+ has no form for the Message API


@pytest.mark.skipif(not RESULTS.exists(), reason="no committed results")
def test_in_the_committed_results_ours_is_plain_fedavg_to_the_fixed_points_step() -> None:
    records = json.loads(RESULTS.read_text(encoding="utf-8"))["records"]
    assert [(record["app"], record["variant"]) for record in records] == [
        (app, variant) for app in run.APPS for variant in run.VARIANTS
    ]
    for record in records:
        if record["variant"] == "secure":
            assert 0 < record["difference_after_one_round"] <= record["allowed_difference"]


@pytest.mark.skipif(not RESULTS.exists(), reason="no committed results")
def test_the_readme_holds_the_table_of_the_committed_results(tmp_path: Path) -> None:
    records = json.loads(RESULTS.read_text(encoding="utf-8"))["records"]
    text, copy = (run.HERE / "README.md").read_text(encoding="utf-8"), tmp_path / "README.md"
    copy.write_text(text, encoding="utf-8")
    into_readme(copy, "results", run.table(records))
    assert copy.read_text(encoding="utf-8") == text


@pytest.mark.slow
@pytest.mark.skipif(WITHOUT_FLOWER, reason="flwr with its simulation is not installed")
def test_the_scikit_learn_app_gives_the_same_model_in_all_three_variants(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments.flower_secagg.run", "--app", "sklearn"]
    options = ["--results", str(tmp_path / "results.json")]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
