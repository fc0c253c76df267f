"""The grid of the forty-minute experiment: what it runs, and how its table is made."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import ttest_ind

from experiments.mnist_cpu import gaussians, samples, table
from experiments.mnist_cpu import run as experiment
from experiments.results import into_readme
from experiments.sweeping import finished_cells, sweep, sweep_options
from secure_fed_diffusion.data.facts import facts
from secure_fed_diffusion.federation.prepare import plan_for
from secure_fed_diffusion.federation.workbench import Workbench
from secure_fed_diffusion.sweep.command import find_places

SMALL = (
    "data.name=digits",
    "data.train_limit=200",
    "federation.declared_records=200",
    "model.patch=1",
    "model.channels=[8, 8]",
    "warmup.draws=1",
    "warmup.sampling_rate=0.5",
    "warmup.noise_multiplier=8.0",
    "warmup.steps=2",
    "warmup.covariances.frequencies=4",
    "modes.distributed.rounds=2",
    "modes.distributed.sampling_rate=0.25",
    "modes.distributed.divisor=50",
    "sampler.steps=2",
    "evaluation.samples=100",
    "evaluation.tstr_epochs=1",
)


def test_the_grid_holds_what_the_readme_promises(tmp_path: Path) -> None:
    cells = find_places(experiment.HERE / "grid.toml", tmp_path, full=False)
    kinds = sorted((p.settings.privacy.mode, p.settings.privacy.epsilon, p.settings.run.seed) for p in cells)
    assert kinds == sorted(
        [(mode, 10.0, s) for mode in ("central", "distributed") for s in range(3)] + [("local", 10.0, 0)]
    )
    assert {p.settings.run.workers for p in cells} == {"auto"}
    for name in table.GRIDS:
        others = find_places(experiment.HERE / f"{name}.toml", tmp_path, full=False)
        sets = {"fashion": "fashion_mnist", "digits": "digits", "xray": "pneumonia"}
        data = sets.get(name.partition("_")[0], "mnist")
        assert {p.settings.data.name for p in others} == {data}
        assert {p.settings.privacy.epsilon for p in others} == {1.0 if "epsilon1" in name else 10.0}


@pytest.mark.parametrize("name", list(table.GRIDS))
def test_every_cell_can_be_planned_within_its_budget(name: str, tmp_path: Path) -> None:
    for place in find_places(experiment.HERE / f"{name}.toml", tmp_path, full=False)[:2]:
        known = facts(place.settings.data.name)
        bench = Workbench.make(place.settings, image_shape=known.image_shape, n_classes=known.n_classes)
        assert plan_for(place.settings, known, bench.model).noise_multiplier > 0.5


def test_both_modes_take_the_same_steps_at_the_same_rate(tmp_path: Path) -> None:
    modes = find_places(experiment.HERE / "grid.toml", tmp_path, full=False)[0].settings.modes
    assert modes.central == modes.distributed


def test_the_table_has_means_with_the_interval_of_the_seeds() -> None:
    def cell(mode: str, seed: int, tstr: float) -> dict[str, object]:
        figures = {"tstr_cnn": tstr, "prototype_accuracy": 0.5, "fid_lenet84_mnist": 20.0, "seconds": 120.0}
        return {"data": "mnist", "mode": mode, "epsilon": 10.0, "seed": seed, **figures}

    text = table.table([cell("distributed", 0, 0.9), cell("distributed", 1, 0.92), cell("local", 0, 0.4)])
    assert "| mnist | distributed | 10 | 2 | 91.0 ± 12.7 | 50.0 ± 0.0 | 20.0 ± 0.0 | 2 |" in text
    assert "| mnist | local | 10 | 1 | 40.0 | 50.0 | 20.0 | 2 |" in text


def test_shared_noise_is_held_against_a_trusted_server_where_both_were_repeated() -> None:
    def cells(mode: str, *shares: float) -> list[dict[str, object]]:
        return [{"data": "mnist", "mode": mode, "epsilon": 10.0, "tstr_cnn": share} for share in shares]

    ours, trusted = (0.95, 0.957), (0.951, 0.955, 0.953)
    between = ttest_ind(100 * np.array(ours), 100 * np.array(trusted), equal_var=False)
    low, high = between.confidence_interval(0.95)
    (said,) = table.differences([*cells("distributed", *ours), *cells("central", *trusted)])
    assert said == (
        "`distributed` less `central` on mnist at ε = 10, with Welch's 95 % interval: "
        f"TSTR, CNN +0.0 points ({low:+.1f} to {high:+.1f})."
    )
    assert low < 0 < high
    assert table.differences([*cells("distributed", 0.9), *cells("central", *trusted)]) == []
    assert table.differences(cells("distributed", *ours)) == []


def test_the_readme_holds_the_tables_of_the_committed_results(tmp_path: Path) -> None:
    text, copy = (experiment.HERE / "README.md").read_text(encoding="utf-8"), tmp_path / "README.md"
    copy.write_text(text, encoding="utf-8")
    into_readme(copy, "results", table.tables())
    assert copy.read_text(encoding="utf-8") == text


@pytest.mark.slow
def test_a_small_cell_goes_through(tmp_path: Path) -> None:
    keep = tmp_path / "grid.toml"
    keep.write_text(
        f'base = "{experiment.HERE / "config.toml"}"\n[axes]\nmode = ["distributed"]\nepsilon = [10.0]\n'
    )
    assert sweep(keep, tmp_path / "out", sweep_options(jobs=1, memory=None, overrides=SMALL))
    found = finished_cells(keep, tmp_path / "out", SMALL)
    assert [r["mode"] for r in found] == ["distributed"]
    assert 0 <= found[0]["tstr_cnn"] <= 1
    json.dumps(found)
    (cell,) = (tmp_path / "out" / "cells").iterdir()
    results = tmp_path / "samples.json"
    samples.main([str(cell), "--sizes", "50", "100", "--epochs", "1", "--results", str(results)])
    measured = json.loads(results.read_text(encoding="utf-8"))
    assert [r["samples"] for r in measured["records"]] == [50, 100]
    assert "| digits | distributed | 10 | 100 | " in samples.markdown(measured)


def test_a_smaller_sample_is_a_balanced_part_of_the_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    def pipeline(labels: np.ndarray, **_: object) -> SimpleNamespace:
        return SimpleNamespace(images=np.tile(labels.reshape(-1, 1, 1, 1) / 255, (1, 8, 8, 1)))

    monkeypatch.setattr(samples, "load_pipeline", lambda _: pipeline)
    found = samples.drawn(Path("run"), 1000, 10, seed=0)
    assert (found.images[:, 0, 0, 0] == found.labels).all()
    assert set(np.bincount(found.labels)) == {100}
    assert 10 <= np.bincount(found.labels[:200]).min() <= np.bincount(found.labels[:200]).max() <= 30


def test_the_gaussians_are_measured_as_a_run_is() -> None:
    run = find_places(experiment.HERE / "grid.toml", Path("nowhere"), full=False)[0].settings
    jobs = gaussians.jobs_of("fashion_mnist", 3)
    assert sorted((job.epsilon, job.seed) for job in jobs) == [(e, s) for e in (1.0, 10.0) for s in range(3)]
    for job in jobs:
        assert job.settings.data.name == "fashion_mnist"
        assert job.settings.evaluation == run.evaluation
        assert job.settings.privacy.delta == run.privacy.delta
        assert job.recipe == {"clip_norm": 10.0, "covariance_clip_norm": 30.0, "frequencies": 14}


def test_the_gaussians_table_has_the_runs_beside_them() -> None:
    def record(mode: str, epsilon: float, tstr: float) -> dict[str, object]:
        figures = {"tstr_cnn": tstr, "prototype_accuracy": 0.5, "fid_lenet84_mnist": 20.0}
        return {"data": "mnist", "mode": mode, "epsilon": epsilon, **figures}

    made = {"command": "c", "commit": "1", "machine": "m"}
    found = [{**made, **record("class_gaussians", 1.0, tstr)} for tstr in (0.9, 0.92)]
    runs = [record("distributed", 1.0, 0.93), record("central", 1.0, 0.1), record("distributed", 10.0, 0.95)]
    text = gaussians.markdown(found, runs)
    assert (
        "| mnist | 1 | class Gaussians alone, trusted server | 2 | 91.0 ± 12.7 | 50.0 ± 0.0 | 20.0 ± 0.0 |"
        in text
    )
    assert "| mnist | 1 | a run, `distributed` | 1 | 93.0 | 50.0 | 20.0 |" in text
    assert text.count("| mnist |") == 3
    assert "| 10.0 |" not in text  # the run in mode central is not among them
    assert "`c` at commit 1, m." in text


def test_the_readme_holds_the_gaussians_of_the_committed_results(tmp_path: Path) -> None:
    results = experiment.HERE / "gaussians_results.json"
    text, copy = (experiment.HERE / "README.md").read_text(encoding="utf-8"), tmp_path / "README.md"
    if not results.exists():
        assert "<!-- gaussians -->\nNot run yet." in text
        return
    copy.write_text(text, encoding="utf-8")
    found = json.loads(results.read_text(encoding="utf-8"))["records"]
    into_readme(copy, "gaussians", gaussians.markdown(found, gaussians.runs()))
    assert copy.read_text(encoding="utf-8") == text


def test_gaussians_of_digits_give_a_record_and_are_not_computed_again(tmp_path: Path) -> None:
    results = tmp_path / "gaussians.json"
    small = ["evaluation.samples=100", "evaluation.tstr_epochs=1", "warmup.covariances.frequencies=4"]
    words = ["--data", "digits", "--seeds", "1", "--out", str(tmp_path / "out"), "--results", str(results)]
    words += [word for key in (*small, *SMALL[1:5]) for word in ("--set", key)]
    gaussians.main(words)
    records = json.loads(results.read_text(encoding="utf-8"))["records"]
    assert [(r["epsilon"], r["seed"]) for r in records] == [(10.0, 0), (1.0, 0)]
    assert all(r["epsilon_spent"] <= r["epsilon"] for r in records)
    before = results.read_text(encoding="utf-8")
    gaussians.main(words)
    assert results.read_text(encoding="utf-8") == before
