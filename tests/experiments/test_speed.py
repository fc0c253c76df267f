"""The benchmarks against the project's demands: the table, and what a call keeps."""

from __future__ import annotations

import json
import tomllib
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from experiments.results import into_readme
from experiments.speed import run
from secure_fed_diffusion.benchmarks import dpsgd

LIMITS = tomllib.loads((run.HERE / "limits.toml").read_text(encoding="utf-8"))["limit"]
PARTS = {"per_example_gradients": 0.85, "clip_and_round": 0.1, "all_but_gradients": 0.15}


def figures(bench: str) -> dict[str, Any]:
    ratios = {"ours_over_opacus": 1.5, "ours_over_plain": 0.6, "memory_over_plain": 2.5}
    step = {"ratios": {case: {**ratios, "plain_over_diffusers": 1.01} for case in dpsgd.CASES}}
    return {
        "dpsgd": step,
        "dpsgd_two_threads": step,
        "round": {"shares": {"alone": PARTS, "together": {**PARTS, "noise": 0.01}}, "sizes": "few"},
        "evaluation": {"seconds": {"one_evaluation": 361.0}},
    }[bench]


def test_every_demand_names_a_figure_that_its_benchmark_has() -> None:
    for limit in LIMITS:
        assert limit["bench"] in run.BENCHES
        assert ("at_least" in limit) != ("at_most" in limit)
        assert reduce(lambda inside, key: inside[key], limit["figure"], figures(limit["bench"])) > 0
    for case in set(dpsgd.CASES) - {"quickstart"}:
        assert sum(case in limit["figure"] for limit in LIMITS) >= 3


def test_the_table_says_which_demands_hold_and_which_are_missed() -> None:
    made = {"command": "c", "commit": "1", "machine": "m"}
    text = run.table([{"bench": bench, **made, **figures(bench)} for bench in run.BENCHES], LIMITS)
    assert "Opacus' hooks, 178k parameters | at least 2 | 1.5 | missed |" in text
    assert "the plain step, 178k parameters | at least 0.6 | 0.6 | holds |" in text
    assert "the plain step's, 178k parameters | at most 2 | 2.5 | missed |" in text
    assert "Opacus' hooks, 178k parameters, two threads | at least 2 | 1.5 | missed |" in text
    assert "each by itself | at most 0.2 | 0.15 | holds |" in text
    assert "every measure of them, seconds | at most 360 | 361 | missed |" in text
    assert "`round`: `c` at commit 1, m." in text
    assert "| per example gradients | 85.0 % | 85.0 % |" in text
    assert "| noise | 0.0 % | 1.0 % |" in text
    assert "Opacus" not in run.table(
        [{"bench": "round", **made, **figures("round")}], LIMITS
    )  # as far as measured


def test_a_call_for_one_benchmark_keeps_the_others(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    run.main(["--results", str(results)], measured=figures)
    before = {record["bench"]: record for record in json.loads(results.read_text())["records"]}
    assert list(before) == list(run.BENCHES)
    run.main(["--bench", "round", "--results", str(results)], measured=lambda _: figures("round"))
    after = {record["bench"]: record for record in json.loads(results.read_text())["records"]}
    assert after["dpsgd"] == before["dpsgd"]
    assert after["round"]["command"].endswith("--bench round --results results.json")


def test_a_benchmark_that_fails_ends_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.sys, "executable", "false")
    with pytest.raises(SystemExit) as ended:
        run.measure("round")
    assert ended.value.code == 1


def test_the_readme_holds_the_table_of_the_committed_results(tmp_path: Path) -> None:
    results = run.HERE / "results.json"
    if not results.exists():
        assert "Not run yet." in (run.HERE / "README.md").read_text(encoding="utf-8")
        return
    text, copy = (run.HERE / "README.md").read_text(encoding="utf-8"), tmp_path / "README.md"
    copy.write_text(text, encoding="utf-8")
    into_readme(
        copy, "results", run.table(json.loads(results.read_text(encoding="utf-8"))["records"], LIMITS)
    )
    assert copy.read_text(encoding="utf-8") == text
