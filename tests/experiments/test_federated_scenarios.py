"""The federated scenarios: what the grids hold, the two baselines, and what is made of the results."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.federated_scenarios import alone, figure, run, table
from experiments.federated_scenarios.scenario import Scenario
from experiments.results import into_readme
from secure_fed_diffusion import config
from secure_fed_diffusion.data.datasets import load
from secure_fed_diffusion.federation.rehearsal import deal
from secure_fed_diffusion.federation.workbench import Workbench
from secure_fed_diffusion.sweep.command import find_places
from secure_fed_diffusion.sweep.grid import read_grid
from secure_fed_diffusion.training.vectors import flatten
from tests.federation.small import CONFIG

BASE = Scenario(clients=30, clients_per_round=10, beta=0.5, local_epochs=1, prox_mu=0.0)


def base_of(name: str) -> Scenario:
    grid = read_grid(run.HERE / f"{name}.toml")
    return Scenario.of(config.load(grid.base, grid.settings))


def test_the_grids_hold_what_the_readme_promises(tmp_path: Path) -> None:
    readme = (run.HERE / "README.md").read_text(encoding="utf-8")
    for name, cells, baselines in (("fashion", 21, 10), ("mnist", 17, 7), ("xray", 10, 15)):
        places = find_places(run.HERE / f"{name}.toml", tmp_path, full=False)
        jobs = run.jobs_of(run.HERE / "baselines.toml", name, read_grid(run.HERE / f"{name}.toml"))
        assert (len(places), len(jobs)) == (cells, baselines)
        assert len({job.name for job in jobs}) == len(jobs)
        assert all(place.settings.federation.masked for place in places)
    assert "Fashion-MNIST, 21 cells and 10 baselines" in readme
    assert "165,492 parameters" in readme


def test_fashion_has_every_axis_by_itself_the_corners_and_two_private_cells(tmp_path: Path) -> None:
    places = find_places(run.HERE / "fashion.toml", tmp_path, full=False)
    found: dict[str, set[object]] = {}
    for place in places:
        scenario = Scenario.of(place.settings)
        key = place.settings.privacy.mode, scenario.axis(base_of("fashion"))
        found.setdefault("/".join(key), set()).add(scenario.label(base_of("fashion")))
    assert found["none/clients"] == {"10 clients", "50 clients"}
    assert found["none/skew"] == {"β = 0.1", "β = 5", "IID"}
    assert found["none/local epochs"] == {"2 local epochs", "5 local epochs"}
    assert found["none/participation"] == {"5 of 30 a round", "30 of 30 a round"}
    assert found["none/corners"] == {f"{n} clients, {skew}" for n in (10, 50) for skew in ("β = 0.1", "IID")}
    assert "β = 0.1, FedProx, μ = 0.01" in found["none/FedProx"]
    assert found["distributed/corners"] == {"50 clients, β = 0.1"}
    assert "distributed/base" in found
    assert not any(key.endswith("other") for key in found)


def test_the_papers_scale_is_the_papers(tmp_path: Path) -> None:
    places = find_places(run.HERE / "paper.toml", tmp_path, full=False)
    scenarios = {Scenario.of(place.settings) for place in places}
    assert {(s.clients, s.beta) for s in scenarios} == {
        (n, b) for n in (10, 30, 50) for b in (0.1, 0.5, 5, None)
    }
    for place in places:
        none, settings = place.settings.modes.none, place.settings
        assert (none.rounds, none.local_epochs, none.learning_rate) == (300, 5, 2e-4)
        assert (settings.diffusion.timesteps, settings.federation.clients_per_round) == (300, 10)
        assert settings.federation.declared_records == settings.data.train_limit == 55_000
    (job,) = run.jobs_of(run.HERE / "baselines.toml", "paper", read_grid(run.HERE / "paper.toml"))
    assert job.passes == 300 * 5 * 10 * 55_000 // 30


@pytest.mark.parametrize("name", [name for name in run.SETS if name != "paper"])
def test_every_scenario_shows_each_record_equally_often(tmp_path: Path, name: str) -> None:
    passes = set()
    for place in find_places(run.HERE / f"{name}.toml", tmp_path, full=False):
        if place.settings.privacy.mode == "none":
            none, federation = place.settings.modes.none, place.settings.federation
            shown = none.rounds * federation.clients_per_round  # clients' turns, each of some epochs
            assert shown % federation.clients == 0  # and every client has as many turns
            passes.add(shown * none.local_epochs // federation.clients)
            assert place.settings.warmup.draws == 0
    assert passes == {10}


def small(*overrides: str, mode: str = "alone", **more: Any) -> alone.Job:
    settings = config.parse(CONFIG, ["evaluation.samples=90", "run.workers=1", *overrides])
    return alone.Job(mode=mode, settings=settings, base=BASE, passes=100, **more)  # type: ignore[arg-type]


def test_a_hospital_alone_has_its_part_of_the_federations_partition() -> None:
    dataset = load(small().settings.data)
    parts = deal(small().settings, dataset)
    sizes = sorted(map(len, parts))
    assert sum(sizes) == 300
    found = [alone.records_of(small(place=place, places=3), dataset) for place in range(3)]
    assert [len(own) for _, own in found] == [sizes[1], sizes[3], sizes[5]]
    for hospital, own in found:
        assert hospital is not None
        assert np.array_equal(own.images, dataset.train.images[parts[hospital]])
    nobody, everything = alone.records_of(small(mode="pooled"), dataset)
    assert nobody is None
    assert len(everything) == 300


def test_alone_makes_about_the_passes_that_it_is_given() -> None:
    for passes, records, rounds in ((20_000, 200, 30), (20_000, 4, 30), (60_000, 6000, 30), (100, 300, 3)):
        epochs = alone.epochs_by_round(passes, records, rounds)
        assert len(epochs) <= rounds
        assert min(epochs) >= 1
        assert max(epochs) - min(epochs) <= 1
        assert abs(sum(epochs) - passes / records) <= max(0.5, 1 - passes / records)


def test_training_alone_moves_the_weights_and_reads_its_own_records_only() -> None:
    job = small()
    dataset = load(job.settings.data)

    def trained(records: slice) -> torch.Tensor:
        bench = Workbench.make(job.settings, image_shape=dataset.image_shape, n_classes=dataset.n_classes)
        start = flatten(bench.model)
        weights = alone.train(job, bench, dataset.train.subset(records), 0)
        assert not torch.equal(weights, start)
        return weights

    assert torch.equal(trained(slice(50)), trained(slice(50)))
    assert not torch.equal(trained(slice(50)), trained(slice(50, 100)))


def test_a_baseline_is_measured_like_a_cell_of_the_sweep(tmp_path: Path) -> None:
    found = alone.measure(small(place=1, places=2), tmp_path)
    assert {"mode": "alone", "data": "digits", "bytes_up": 0, "epsilon": None}.items() <= found.items()
    assert {
        "tstr_cnn",
        "prototype_accuracy",
        "fid_lenet32_digits",
        "fid_floor_lenet32_digits",
    } <= found.keys()
    assert len(list(tmp_path.glob("*.png"))) == 1
    json.dumps(found)


def record(mode: str, accuracy: float, scenario: Scenario = BASE, **more: Any) -> dict[str, Any]:
    return {
        "data": "mnist",
        "mode": mode,
        "axis": scenario.axis(BASE),
        "scenario": scenario.label(BASE),
        "epsilon": 10.0 if mode == "distributed" else None,
        "delta": 1e-5,
        "unit": "example",
        "relation": "add_remove",
        "view": "sum_c1",
        "seed": 0,
        "tstr_cnn": accuracy,
        "prototype_accuracy": accuracy + 0.05,
        "fid_lenet84_mnist": 10 / accuracy,
        "fid_floor_lenet84_mnist": 1.0,
        "bytes_up": 2_000_000,
        "bytes_down": 1_000_000,
        "seconds": 120.0,
        **more,
    }


def records() -> list[dict[str, Any]]:
    return [
        *(record("none", 0.60 + wobble, seed=seed) for seed, wobble in enumerate((-0.01, 0.0, 0.01))),
        record("none", 0.5, replace(BASE, beta=0.1)),
        record("none", 0.62, replace(BASE, beta=None)),
        record("none", 0.45, replace(BASE, clients=50, beta=0.1)),
        record("none", 0.52, replace(BASE, beta=0.1, prox_mu=0.01)),
        record("distributed", 0.4),
        record("distributed", 0.3, replace(BASE, clients=50, beta=0.1)),
        record("pooled", 0.8),
        record("alone", 0.2, hospital=3),
        record("alone", 0.4, hospital=7),
    ]


def test_the_title_is_computed_from_the_numbers() -> None:
    said = figure.finding(records())
    assert "MNIST: TSTR of the base scenario 60.0% ± 2.5 over seeds" in said
    assert "all records in one place 80.0% (one seed), hospitals alone on average 30.0% (one seed)" in said
    # one run is held against the base's own run of that seed, 0.59, and not against the mean of three
    assert "from -14.0 (50 clients, β = 0.1, one run) to +3.0 points (IID, one run)" in said
    again = [*records(), record("none", 0.65, replace(BASE, beta=None), seed=1)]
    assert "(50 clients, β = 0.1, one run) to +4.0 points (IID);" in figure.finding(again)
    assert "private, by the recipe for ε = 10, the base is -19.0 points off (one run)" in said
    elsewhere = [*records(), record("none", 0.99, replace(BASE, local_epochs=5), seed=7)]
    assert figure.finding(elsewhere) == said  # no seed in common: no difference
    once = [r for r in records() if not r["seed"]]
    assert "all records in one place 80.0%, hospitals alone on average 30.0%;" in figure.finding(once)
    assert figure.finding([record("pooled", 0.5)]) == "Too few cells for a comparison"


def test_hospitals_of_one_seed_are_averaged_before_seeds_are_compared() -> None:
    several = [record("alone", 0.2, seed=0), record("alone", 0.4, seed=0), record("alone", 0.5, seed=1)]
    (line,) = figure.lines(several)
    cell = line.cell("tstr_cnn")
    assert cell is not None
    assert cell.repetitions == 2
    assert cell.mean == pytest.approx(0.4)
    # means 0.3 and 0.5: 12.706 * 0.1414 / sqrt(2)
    assert cell.half_width == pytest.approx(12.7062 * 0.1, rel=1e-3)


def test_each_scenario_is_one_line_private_cells_are_never_mixed_with_others() -> None:
    labels = [(line.group, line.label, len(line.records)) for line in figure.lines(records())]
    assert labels[0] == ("pooled", "all records in one place", 1)
    assert ("base", "base (10 of 30 a round, β = 0.5, 1 local epoch, FedAvg)", 3) in labels
    assert ("private", "ε = 10 (base)", 1) in labels
    assert ("private", "ε = 10 (50 clients, β = 0.1)", 1) in labels
    assert labels[-1] == ("alone", "hospitals alone (base)", 2)


def test_figure_and_table_are_made_from_the_results_alone(tmp_path: Path) -> None:
    results = {"command": "c", "commit": "d", "machine": "m", "records": records()}
    results["minutes_of_all_cells_one_after_another"] = 3.0
    path = tmp_path / "mnist_results.json"
    path.write_text(json.dumps(results))
    png = figure.draw(path, figure.beside(path))
    assert png == tmp_path / "mnist_figure.png"
    assert png.read_bytes().startswith(b"\x89PNG")
    readme = tmp_path / "README.md"
    readme.write_text("head\n<!-- mnist -->\nstale\n<!-- end of mnist -->\ntail\n")
    into_readme(readme, "mnist", table.markdown(results, png.name))
    text = readme.read_text()
    assert text.startswith("head\n")
    assert text.endswith("tail\n")
    assert "stale" not in text
    assert "| skew | β = 0.1 | 1 | 50.0 % | 55.0 % | 20.0 | 3 | 2.0 |" in text
    assert "60.0 % ± 2.5" in text
    assert "(mnist_figure.png)" in text


def test_the_page_of_a_data_set_is_its_figure_and_its_part_of_the_readme(tmp_path: Path) -> None:
    results = {"command": "c", "commit": "d", "machine": "m", "records": records()}
    results["minutes_of_all_cells_one_after_another"] = 3.0
    path, readme = tmp_path / "mnist_results.json", tmp_path / "README.md"
    path.write_text(json.dumps(results))
    readme.write_text("<!-- mnist -->\nstale\n<!-- end of mnist -->\n")
    run.write_pages(readme, "mnist", path)
    assert "stale" not in readme.read_text()
    assert "](mnist_figure.png)\n<!-- end of mnist -->" in readme.read_text()


@pytest.mark.parametrize("name", [name for name in run.SETS if run.results_file(name).exists()])
def test_the_readme_holds_the_table_of_the_committed_results(name: str, tmp_path: Path) -> None:
    text, copy = (run.HERE / "README.md").read_text(encoding="utf-8"), tmp_path / "README.md"
    copy.write_text(text, encoding="utf-8")
    path = run.results_file(name)
    results = json.loads(path.read_text(encoding="utf-8"))
    into_readme(copy, name, table.markdown(results, figure.beside(path).name))
    assert copy.read_text(encoding="utf-8") == text


@pytest.mark.slow
def test_two_cells_and_the_baselines_give_results_and_are_not_run_again(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(CONFIG, encoding="utf-8")
    (tmp_path / "grid.toml").write_text(
        'base = "base.toml"\n[settings]\nprivacy.mode = "none"\nevaluation.samples = 90\n'
        '[axes]\nseed = [0]\nmode = ["none", "distributed"]\n',
        encoding="utf-8",
    )
    (tmp_path / "baselines.toml").write_text(
        '[[quick]]\nmode = "pooled"\nseeds = [0]\nshare = 0.1\n'
        '[[quick]]\nmode = "alone"\nseeds = [0]\nshare = 0.1\nhospitals = 2\nbeta = 0.1\n',
        encoding="utf-8",
    )
    words = ["--quick", "--grid", str(tmp_path / "grid.toml"), "--out", str(tmp_path / "out"), "--jobs", "2"]
    words += ["--baselines", str(tmp_path / "baselines.toml"), "--results", str(tmp_path / "results.json")]
    assert run.main(words) == 0
    found = json.loads((tmp_path / "results.json").read_text())["records"]
    assert sorted(r["mode"] for r in found) == ["alone", "alone", "distributed", "none", "pooled"]
    assert all(r["tstr_cnn"] is not None for r in found)
    assert (tmp_path / "figure.png").exists()
    kept = [*(tmp_path / "out").glob("sweep/cells/*/ledger.jsonl"), *(tmp_path / "out").glob("alone/*.json")]
    before = {path: path.read_bytes() for path in kept}
    assert len(before) == 5
    assert run.main(words) == 0
    assert run.main([*words, "--collect"]) == 0
    assert json.loads((tmp_path / "results.json").read_text())["records"] == found
    assert {path: path.read_bytes() for path in before} == before
