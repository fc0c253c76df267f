"""Whole runs in a folder: all five modes, a kill, a resume, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from secure_fed_diffusion import config
from secure_fed_diffusion.diffusion.sampler import load_pipeline
from secure_fed_diffusion.dp.ledger import verify
from secure_fed_diffusion.errors import (
    BudgetExceededError,
    ConfigError,
    LedgerError,
    RunError,
    SecureAggregationError,
)
from secure_fed_diffusion.federation.folder import read_lines
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.prepare import prepare
from secure_fed_diffusion.federation.run import Run
from secure_fed_diffusion.federation.settings import MODES
from secure_fed_diffusion.institution.budget import own_charges
from tests.federation.small import settings_for


class Watcher:
    """Remembers what it is told; `stop_after` plays Ctrl-C once that round is over."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.records: list[dict[str, Any]] = []
        self.stop_after = stop_after

    def round(self, record: dict[str, Any]) -> None:
        self.records.append(record)
        if record["round"] == self.stop_after:
            raise KeyboardInterrupt

    def note(self, text: str) -> None:
        pass


def make(folder: Path, mode: str = "distributed", *overrides: str, resume: bool = False) -> Run:
    settings = settings_for(mode, *overrides)
    return prepare(settings, folder, config_text=config.dump(settings), resume=resume)


def finish(run: Run, watcher: Watcher | None = None) -> dict[str, Any]:
    try:
        return run.execute(watcher or Watcher())
    finally:
        run.ledger.close()


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_runs_from_one_configuration_by_one_key(mode: str, tmp_path: Path) -> None:
    folder = tmp_path / mode
    watcher = Watcher()
    summary = finish(make(folder, mode), watcher)
    assert summary["finished"]
    assert summary["mode"] == mode
    for name in ("config.toml", "ledger.jsonl", "metrics.jsonl", "server_view.json", "summary.json"):
        assert (folder / name).stat().st_size > 0
    assert (folder / "model" / "pipeline.py").exists()
    assert config.load(folder / "config.toml") == settings_for(mode)
    last = watcher.records[-1]
    assert {"prototype_accuracy", "tstr_cnn", "fid_lenet32_digits", "holdout_loss"} <= set(last)
    assert last["fid_floor_lenet32_digits"] == summary["floor"]["fid_floor_lenet32_digits"] > 0
    assert last["survivors"] == last["cohort"]
    guard = last["epsilon"][last["guard_view"]]["pld"]
    if mode == "none":
        assert all(bound is None for view in last["epsilon"].values() for bound in view.values())
    else:
        assert 0 < guard <= 10.0
    if mode == "central":  # its server reads the exact sum
        assert last["epsilon"]["sum_c0"]["pld"] is None
    report = verify(folder / "ledger.jsonl", head=summary["ledger_head"])
    assert report.truncation_excluded
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
    }
    assert {key for record in watcher.records for key in record} <= allowed


def test_frames_have_one_size_whatever_was_sampled(tmp_path: Path) -> None:
    watcher = Watcher()
    finish(make(tmp_path / "run", "distributed", "modes.distributed.rounds=3"), watcher)
    assert len({record["bytes_up"] for record in watcher.records if record["kind"] == "gradient"}) == 1


def test_an_interrupted_run_goes_on_with_the_same_ledger(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        finish(make(folder), Watcher(stop_after=2))
    before = (folder / "ledger.jsonl").read_bytes()
    resumed = make(folder, resume=True)
    assert resumed.finished_round == 2
    summary = finish(resumed)
    assert summary["finished"]
    assert (folder / "ledger.jsonl").read_bytes().startswith(before)
    assert [line["round"] for line in read_lines(folder / "metrics.jsonl")] == [1, 2, 3, 4]


def test_a_round_that_left_before_the_kill_is_paid_for_twice(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = make(folder)

    class Killed(BaseException):
        pass

    honest = run.server.take_sum

    def die_in_round_two(total: object) -> None:
        if run.finished_round == 1:
            raise Killed
        honest(total)

    run.server.take_sum = die_in_round_two  # type: ignore[method-assign]
    with pytest.raises(Killed):
        finish(run)
    watcher = Watcher()
    summary = finish(make(folder, resume=True), watcher)
    assert summary["finished"]
    assert watcher.records[0]["round"] == 2
    assert watcher.records[0]["attempt"] == 1
    lines = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()[1:]]
    attempts = {line["attempt"] for line in lines if line["round"] == 2}
    assert attempts == {0, 1}
    verify(folder / "ledger.jsonl", head=summary["ledger_head"])


def test_a_kill_in_the_warm_up_is_paid_for_from_the_reserve_too(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = make(folder, "distributed", "federation.clients_per_round=6", "federation.min_survivors=5")

    class Killed(BaseException):
        pass

    def die(total: object) -> None:
        raise Killed

    run.server.take_sum = die  # type: ignore[method-assign]
    with pytest.raises(Killed):
        finish(run)
    overrides = ("federation.clients_per_round=6", "federation.min_survivors=5")
    summary = finish(make(folder, "distributed", *overrides, resume=True))
    assert summary["finished"]


def test_a_run_that_cannot_pay_for_its_last_round_keeps_what_it_has(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    overrides = (
        "federation.clients_per_round=6",
        "federation.min_survivors=5",
        "federation.reserved_attempts=0",
    )
    with pytest.raises(KeyboardInterrupt):
        finish(make(folder, "distributed", *overrides), Watcher(stop_after=2))
    run = make(folder, "distributed", *overrides, resume=True)
    for client_id in run.plan.rounds[2].cohort:  # as if a kill had come after these frames left
        run.ledger.charge(client_id, round=3, attempt=0, mechanism="training")
    with pytest.raises(RunError, match=r"round 4 failed.*reserved_attempts=0.*the plan reserves 3"):
        finish(run)
    with pytest.raises(BudgetExceededError, match="the budget is spent"):
        make(folder, "distributed", *overrides, resume=True)
    summary = json.loads((folder / "summary.json").read_text())
    assert not summary["finished"]
    assert summary["rounds"] == 3
    assert (folder / "model" / "pipeline.py").exists()


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    head = finish(make(folder))["ledger_head"]
    watcher = Watcher()
    assert finish(make(folder, resume=True), watcher)["ledger_head"] == head
    assert watcher.records == []


def test_a_folder_that_holds_something_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="not empty"):
        make(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_is_not_resumed_under_other_settings(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        finish(make(folder), Watcher(stop_after=1))
    with pytest.raises(RunError, match="begun under other settings"):
        make(folder, "distributed", "privacy.epsilon=20.0", resume=True)
    with pytest.raises(RunError, match="no run to resume"):
        make(tmp_path / "nowhere", resume=True)


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
        "secure_fed_diffusion.training.per_example.is_position_independent", lambda *_, **__: False
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


@pytest.mark.parametrize("where", ["warm_up", "measure"])
def test_a_kill_while_the_warm_up_trains_or_a_model_is_measured_costs_no_round(
    where: str, tmp_path: Path
) -> None:
    reserves = ("federation.reserved_attempts=0", "warmup.reserved_attempts=0")
    whole = make(tmp_path / "whole", "central", *reserves)
    finish(whole)
    run = make(tmp_path / "run", "central", *reserves)
    owner = run.server if where == "warm_up" else run.assessment

    class Killed(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise Killed

    setattr(owner, where, die)
    with pytest.raises(Killed):
        finish(run)
    resumed = make(tmp_path / "run", "central", *reserves, resume=True)
    assert resumed.unmeasured is not None
    assert finish(resumed)["finished"]
    for kept in ("metrics.jsonl", "ledger.jsonl"):
        lines = [(line.get("round"), line.get("attempt")) for line in read_lines(tmp_path / "run" / kept)]
        assert lines == [
            (line.get("round"), line.get("attempt")) for line in read_lines(tmp_path / "whole" / kept)
        ]
    assert resumed.unmeasured is None


def test_a_truncated_process_without_class_means_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected 1 with warmup.draws=0, got 0.5") as e:
        make(tmp_path / "run", "distributed", "diffusion.truncation=0.5", "warmup.draws=0")
    assert e.value.key == "diffusion.truncation"


def plan_of(folder: Path, *overrides: str) -> Plan:
    run = make(folder, "distributed", "federation.reserved_attempts=2", *overrides)
    run.ledger.close()
    return run.plan


def test_the_warm_up_may_have_a_reserve_of_its_own(tmp_path: Path) -> None:
    shared = plan_of(tmp_path / "shared")
    apart = plan_of(tmp_path / "apart", "warmup.reserved_attempts=0")
    most, less = shared.max_charges(), apart.max_charges()
    assert less["prototypes"] == most["prototypes"] - 2
    assert less["training"] == most["training"]
    alone, client = plan_of(tmp_path / "alone", "warmup.reserved_attempts=5"), 0
    planned = {n: sum(client in r.cohort for r in alone.rounds if r.release == n) for n in alone.releases}
    charges = own_charges(alone, client)
    assert charges == {"prototypes": planned["prototypes"] + 5, "training": planned["training"] + 2}
    several = plan_of(
        tmp_path / "several",
        "secagg.rounds_per_setup=9",
        "federation.min_survivors=5",
        "warmup.reserved_attempts=5",
    )
    assert (several.slots("prototypes"), several.slots("training")) == (1 + 5, 3 + 2)
    assert apart.noise_multiplier < shared.noise_multiplier  # what is not reserved buys less noise


@pytest.mark.parametrize(("training", "warm_up", "number"), [(1, 0, 1), (1, 0, 3), (0, 1, 1), (0, 1, 3)])
def test_repeats_of_the_warm_up_and_of_the_training_do_not_use_up_each_other_s_reserve(
    training: int, warm_up: int, number: int, tmp_path: Path
) -> None:
    run = make(
        tmp_path / "run",
        "distributed",
        f"federation.reserved_attempts={training}",
        f"warmup.reserved_attempts={warm_up}",
    )
    survives = bool(warm_up if number == 1 else training)
    total, failures = run.server.total, []

    def fail_once() -> Any:
        if run.finished_round + 1 == number and not failures:
            failures.append(number)
            raise SecureAggregationError("as if too many had gone")
        return total()

    run.server.total = fail_once  # type: ignore[method-assign]
    if survives:
        assert finish(run)["finished"]
    else:
        key = "warmup" if number == 1 else "federation"
        with pytest.raises(
            RunError, match=rf"round {number} failed.*\({key}\.reserved_attempts=0\) are used"
        ):
            finish(run)
    assert failures == [number]
