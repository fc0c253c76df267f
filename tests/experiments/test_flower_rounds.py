"""The latency experiment: its plan, its split of a round's time, its figure, and a small real run of it."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments.flower_rounds import figure, parts, table
from experiments.results import into_readme

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "experiments" / "flower_rounds" / "results.json"


def line(variant: str, exchanges: int) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Exchanges of ten seconds with two clients; the second one, a second later, decides."""
    events: list[dict[str, Any]] = []
    clients = {}
    for number in range(exchanges):
        at = 100.0 + 10 * number
        names = [f"{number}a", f"{number}b"]
        events.append({"event": "push", "began": at, "ended": at + 0.5, "messages": names, "bytes": 7})
        for late, name in enumerate(names):
            events.append(
                {"event": "pull", "began": 0, "ended": at + 8 + late, "messages": [name], "bytes": 3}
            )
            clients[name] = {"started": at + 2 + late, "entered": at + 3.5 + late, "left": at + 7 + late}
            clients[name] |= {"compute": 3.0}
    whole = {"variant": variant, "workload": "light", "repetition": 0, "events": events}
    for event in events:
        event["began"] = event["began"] or event["ended"] - 0.01
    return whole | {"began": 99.0, "ended": 100.0 + 10 * exchanges}, clients


def test_a_rounds_parts_add_up_to_its_wall_time() -> None:
    record = parts.record(*line("plain", 1), n_clients=2)
    assert record["wall_seconds"] == 11.0
    assert record["wait_down_seconds"] == 2.5
    assert record["start_seconds"] == 1.5
    assert record["compute_seconds"] == 3.0
    assert record["crypto_seconds"] == 0.5
    assert record["wait_up_seconds"] == 1.0
    assert sum(record[f"{part}_seconds"] for part in parts.PARTS) == pytest.approx(11.0)
    assert (record["bytes_down"], record["bytes_up"]) == (7, 6)


def test_what_comes_before_a_rounds_own_exchanges_is_the_set_up() -> None:
    record = parts.record(*line("multi_round", 4), n_clients=2)
    assert (record["setup_exchanges"], record["setup_seconds"]) == (2, 21.0)
    assert record["wall_seconds"] == 20.0
    assert record["bytes_up"] == 12


def test_a_round_with_too_few_exchanges_or_with_an_error_did_not_go_through() -> None:
    whole = line("secagg_plus", 4)[0]
    assert parts.went_through(whole)
    assert not parts.went_through(line("secagg_plus", 2)[0])
    whole["events"][-1]["errors"] = 1
    assert not parts.went_through(whole)


def test_the_set_up_is_spread_over_the_rounds_that_it_pays_for() -> None:
    records = [parts.record(*line(v, n), n_clients=2) for v, n in [("plain", 1), ("multi_round", 4)]]
    found = figure.summary({"setup_rounds": 10, "records": records}, "light", "multi_round")
    assert found is not None
    assert found["whole"] == pytest.approx(20.0 + 2.1)


@pytest.mark.skipif(not RESULTS.exists(), reason="no committed results")
def test_the_figure_is_drawn_from_the_committed_results_alone(tmp_path: Path) -> None:
    assert figure.draw(RESULTS, tmp_path / "figure.png").stat().st_size > 10_000
    document = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert {record["errors"] for record in document["records"]} == {0}


@pytest.mark.skipif(not RESULTS.exists(), reason="no committed results")
def test_the_readme_holds_the_table_of_the_committed_results(tmp_path: Path) -> None:
    document = json.loads(RESULTS.read_text(encoding="utf-8"))
    text, copy = RESULTS.with_name("README.md").read_text(encoding="utf-8"), tmp_path / "README.md"
    copy.write_text(text, encoding="utf-8")
    into_readme(copy, "results", table.markdown(document))
    assert copy.read_text(encoding="utf-8") == text


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("flwr") is None, reason="flwr is not installed")
def test_a_small_real_deployment_runs_every_variant_without_an_error(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments.flower_rounds.run", "--smoke"]
    options = ["--out", str(tmp_path / "runs"), "--results", str(tmp_path / "results.json")]
    done = subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    records = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["records"]
    assert {record["variant"] for record in records} == set(parts.EXCHANGES)
    assert {record["errors"] for record in records} == {0}
    assert (tmp_path / "figure.png").exists()
