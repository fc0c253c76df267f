"""Whole runs in a folder: all five modes, what they leave behind, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from secure_fed_diffusion import config
from secure_fed_diffusion.data.datasets import load
from secure_fed_diffusion.diffusion.sampler import load_pipeline
from secure_fed_diffusion.dp import SPENT_ASSUMPTION
from secure_fed_diffusion.dp.ledger import verify
from secure_fed_diffusion.errors import (
    ConfigError,
    LedgerError,
    RunError,
)
from secure_fed_diffusion.evaluation.prototypes import nearest_mean_accuracy
from secure_fed_diffusion.federation.rounds import Outcome, run_rounds
from secure_fed_diffusion.federation.settings import MODES
from tests.federation.runs import Watcher, finish, make
from tests.federation.small import settings_for


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_runs_from_one_configuration_by_one_key(mode: str, tmp_path: Path) -> None:
    folder = tmp_path / mode
    watcher = Watcher()
    run = make(folder, mode)
    summary = finish(run, watcher)
    assert summary["finished"]
    assert summary["mode"] == mode
    for name in ("config.toml", "ledger.jsonl", "metrics.jsonl", "server_view.json", "summary.json"):
        assert (folder / name).stat().st_size > 0
    assert (folder / "model" / "pipeline.py").exists()
    assert config.load(folder / "config.toml") == settings_for(mode)
    last = watcher.records[-1]
    assert {"prototype_accuracy", "tstr_cnn", "fid_lenet32_digits", "holdout_loss"} <= set(last)
    assert last["fid_floor_lenet32_digits"] == summary["floor"]["fid_floor_lenet32_digits"] > 0
    # What the warm-up released is a classifier by itself: means of 300 records, whoever is not drawn, reach
    # 0.78 to 0.82; noise at so few records leaves little of it.
    released = run.server.class_means
    assert last["class_means_accuracy"] == nearest_mean_accuracy(released, load(run.settings.data).test)
    assert mode != "none" or last["class_means_accuracy"] > 0.6
    assert summary["metrics"]["class_means_accuracy"] == last["class_means_accuracy"]
    assert last["survivors"] == last["cohort"]
    guard = last["epsilon"][last["guard_view"]]["pld"]
    if mode == "none":
        assert all(bound is None for view in last["epsilon"].values() for bound in view.values())
        assert summary["plan_epsilon"] is summary["epsilon_assumption"] is None
    else:
        assert 0 < guard <= summary["plan_epsilon"][last["guard_view"]]["pld"] <= 10.0
        assert summary["epsilon_assumption"] == SPENT_ASSUMPTION
        assert "the plan's ε" in summary["statement"]
    if mode == "central":  # its server reads the exact sum
        assert last["epsilon"]["sum_c0"]["pld"] is None
    report = verify(folder / "ledger.jsonl", head=summary["ledger_head"])
    assert report.truncation_excluded
    assert report.to_dict()["plan_epsilon"] == summary["plan_epsilon"]
    charged = len((folder / "ledger.jsonl").read_text().splitlines()) - 1
    assert charged == sum(len(record["survivors"]) for record in watcher.records)


@pytest.mark.parametrize("after_warmup", [True, False])
def test_what_the_warm_up_gave_is_shown_where_it_is_asked_for(after_warmup: bool, tmp_path: Path) -> None:
    watcher = Watcher()
    wanted = f"evaluation.after_warmup={str(after_warmup).lower()}"
    finish(make(tmp_path / "run", "distributed", wanted, "evaluation.every=1000"), watcher)
    evaluated = [record["round"] for record in watcher.records if "prototype_accuracy" in record]
    last_prototypes = max(record["round"] for record in watcher.records if record["kind"] != "gradient")
    assert evaluated == [*[last_prototypes] * after_warmup, watcher.records[-1]["round"]]


def test_a_round_s_frames_are_let_go_before_its_model_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Outcome] = []
    held: list[int] = []

    def watched(*args: Any, **options: Any) -> Iterator[Outcome]:
        for outcome in run_rounds(*args, **options):
            seen.append(outcome)
            yield outcome

    def each_round(weights: object) -> dict[str, Any]:
        held.append(seen[-1].bytes_up)
        return {}

    monkeypatch.setattr("secure_fed_diffusion.federation.run.run_rounds", watched)
    run = make(tmp_path / "run", "distributed", "warmup.draws=0")
    monkeypatch.setattr(run.assessment, "each_round", each_round)
    watcher = Watcher()
    finish(run, watcher)
    assert held == [0, 0, 0]
    assert all(record["bytes_up"] > 0 for record in watcher.records)


def test_without_a_warm_up_there_are_no_class_means_to_measure(tmp_path: Path) -> None:
    watcher = Watcher()
    summary = finish(make(tmp_path / "run", "distributed", "warmup.draws=0"), watcher)
    assert not [key for record in watcher.records for key in record if "class_means" in key]
    assert "class_means_accuracy" not in summary["metrics"]


def test_nothing_private_is_on_the_lines_that_people_see(tmp_path: Path) -> None:
    watcher = Watcher()
    finish(make(tmp_path / "run"), watcher)
    allowed = {
        *("round", "kind", "mode", "epsilon", "delta", "unit", "relation", "budget_epsilon", "guard_view"),
        *("attempt", "cohort", "survivors", "dropped", "bytes_up", "bytes_down", "seconds", "holdout_loss"),
        "exchanges",  # counted from what the server asked
        *("prototype_accuracy", "tstr_cnn", "fid_lenet32_digits", "fid_floor_lenet32_digits"),
        *(
            f"{family}_{part}lenet32_digits"  # of samples, public and test images
            for family in ("kid", "precision", "recall", "density", "coverage")
            for part in ("", "floor_")
        ),
        *("floor_prototype_accuracy", "interval_prototype_accuracy", "interval_tstr_cnn"),
        *("class_means_accuracy", "interval_class_means_accuracy"),  # of the released means
    }
    assert {key for record in watcher.records for key in record} <= allowed


def test_frames_have_one_size_whatever_was_sampled(tmp_path: Path) -> None:
    watcher = Watcher()
    finish(make(tmp_path / "run", "distributed", "modes.distributed.rounds=3"), watcher)
    assert len({record["bytes_up"] for record in watcher.records if record["kind"] == "gradient"}) == 1


def test_a_folder_that_holds_something_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="not empty"):
        make(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_processes_never_write_one_ledger(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    try:
        with pytest.raises(RunError):
            make(tmp_path / "run", resume=True)
    finally:
        run.ledger.close()


def test_an_altered_line_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    finish(make(folder))
    ledger = folder / "ledger.jsonl"
    lines = ledger.read_text().splitlines(keepends=True)
    ledger.write_text("".join(lines[:3] + lines[4:]))
    with pytest.raises(LedgerError, match="line 4"):
        verify(ledger)


def test_a_gpu_that_is_not_there_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"run\.device"):
        make(tmp_path / "run", "distributed", 'run.device="cuda"')
    assert not (tmp_path / "run").exists()


def test_a_micro_batch_that_is_not_exact_here_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "secure_fed_diffusion.training.exactness.is_position_independent", lambda *_, **__: False
    )
    with pytest.raises(ConfigError, match=r"modes\.distributed\.micro_batch: at 16"):
        make(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_model_folder_loads_with_diffusers_alone(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    finish(make(folder))
    code = (
        "import sys; from diffusers import DiffusionPipeline; d = sys.argv[1];"
        "pipe = DiffusionPipeline.from_pretrained(d, custom_pipeline=d, trust_remote_code=True,"
        " low_cpu_mem_usage=False);"
        "print(len(pipe(class_labels=[0, 1, 2], num_inference_steps=2).images));"
        "assert not any(name.startswith('secure_fed_diffusion') for name in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder / "model")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PATH": ""},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "3"


TRUNCATED = (
    "privacy.epsilon=1000",
    "diffusion.truncation=0.6",
    "warmup.noise_multiplier=0.2",
    "warmup.covariances.draws=1",
    "warmup.covariances.clip_norm=8",
    "warmup.covariances.noise_multiplier=0.2",
)


def test_a_truncated_run_starts_its_samples_from_the_released_classes_also_after_a_stop(
    tmp_path: Path,
) -> None:
    begun = make(tmp_path / "run", "distributed", *TRUNCATED)
    with pytest.raises(KeyboardInterrupt):
        finish(begun, Watcher(stop_after=3))
    released = begun.server.classes.gaussians
    run = make(tmp_path / "run", "distributed", *TRUNCATED, resume=True)
    assert finish(run)["finished"]
    start = load_pipeline(tmp_path / "run" / "model").start
    assert start is not None
    assert torch.equal(start.means, released.means)
    assert torch.equal(start.factors, released.factors)
    assert float(start.means.std()) > 0.1
    assert float(start.factors.abs().max()) > 0.1  # there are directions above the noise


def test_a_truncated_process_without_class_means_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected 1 with warmup.draws=0, got 0.5") as e:
        make(tmp_path / "run", "distributed", "diffusion.truncation=0.5", "warmup.draws=0")
    assert e.value.key == "diffusion.truncation"
