"""The trade-off's simpler methods, its grids, and its commands."""

from __future__ import annotations

import json
import math
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from experiments.tradeoff import published, run
from experiments.tradeoff.baselines import class_gaussians, class_means, dp_classifier, dp_merf
from experiments.tradeoff.baselines.measure import METHODS, Job, measure
from experiments.tradeoff.baselines.release import Plan
from secure_fed_diffusion import config
from secure_fed_diffusion.data.datasets import ImageSet, load
from secure_fed_diffusion.data.facts import facts
from secure_fed_diffusion.data.settings import DataSettings
from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.evaluation.prototypes import nearest_mean_accuracy
from secure_fed_diffusion.federation.prepare import plan_for
from secure_fed_diffusion.federation.workbench import Workbench
from secure_fed_diffusion.sweep import estimate
from secure_fed_diffusion.sweep.command import find_places
from secure_fed_diffusion.sweep.grid import read_grid
from tests.federation.small import CONFIG, seeded

N_CLASSES = 10
DIGITS = load(DataSettings(name="digits"))
FEW = DIGITS.train.subset(slice(200))


def plan_of(dimension: int, clip_norm: float = 1.0, epsilon: float = math.inf, **more: Any) -> Plan:
    return Plan.calibrated(dimension=dimension, clip_norm=clip_norm, epsilon=epsilon, delta=1e-5, **more)


def test_one_release_has_the_noise_of_the_analytic_gaussian_mechanism() -> None:
    # Balle and Wang 2018: sigma = 3.7304 at (1, 1e-5)
    plan = plan_of(50, epsilon=1.0)
    assert plan.epsilon_spent <= 1.0
    assert 3.7304 <= plan.noise_stddev / plan.grid.norm_bound <= 3.7304 * 1.005
    noise = plan.release(np.zeros(50, np.int64), seeded("release")) * plan.grid.scale / plan.noise_stddev
    assert 0.3 < float((noise**2).mean()) < 2.2


def test_without_a_promise_nothing_is_added() -> None:
    plan = plan_of(3)
    assert plan.release(np.array([1, -2, 3])).tolist() == plan.grid.to_float(np.array([1, -2, 3])).tolist()
    assert math.isinf(plan.epsilon_spent)


def test_random_features_have_norm_one_and_approach_the_gaussian_kernel() -> None:
    features = dp_merf.Features(64, 40_000, 20.0, torch.Generator().manual_seed(0))
    x = torch.from_numpy(FEW.images[:6]).flatten(1).float() / 255
    phi = features(x)
    assert torch.allclose(phi.norm(dim=1), torch.ones(6), atol=1e-5)
    kernel = torch.exp(-torch.cdist(x, x).square() / (2 * 20.0))
    # 20,000 frequencies: a standard error below 0.0071 for each of 36 entries, five of them allowed
    assert (phi @ phi.T - kernel).abs().max() < 0.036


def test_a_record_moves_the_embedding_in_its_own_class_by_at_most_the_sensitivity() -> None:
    features = dp_merf.Features(64, 100, 20.0, torch.Generator().manual_seed(0))
    plan = plan_of(N_CLASSES * 100)
    whole = dp_merf.embedding_sum(FEW, features, plan, N_CLASSES)
    for gone in (0, 17, 199):
        rest = FEW.subset(np.delete(np.arange(200), gone))
        moved = (whole - dp_merf.embedding_sum(rest, features, plan, N_CLASSES)).reshape(N_CLASSES, -1)
        assert int((moved**2).sum()) <= plan.grid.norm_bound**2
        assert int((moved**2).sum()) > (0.99 * plan.grid.norm_bound) ** 2
        assert set(np.flatnonzero(moved.any(axis=1))) == {FEW.labels[gone]}


def test_a_generator_that_meets_the_embedding_draws_the_classes() -> None:
    labels = np.arange(200) % N_CLASSES
    recipe = dp_merf.Recipe(features=300, epochs=8, batch=60)
    drawn, plan = dp_merf.synthesize(
        DIGITS.train,
        DIGITS.public,
        labels,
        n_classes=N_CLASSES,
        declared_records=1200,
        epsilon=math.inf,
        delta=1e-5,
        seed=0,
        recipe=recipe,
    )
    assert math.isinf(plan.epsilon_spent)
    assert drawn.images.shape == (200, 1, 8, 8)
    means = np.stack([drawn.images[labels == k].mean(axis=0) / 255 for k in range(N_CLASSES)])
    assert nearest_mean_accuracy(means.astype(np.float32), DIGITS.test) > 0.7  # chance: 0.1


def test_class_means_without_noise_are_the_means_of_unclipped_records() -> None:
    means, _ = class_means.release_means(
        FEW, n_classes=N_CLASSES, clip_norm=20.0, epsilon=math.inf, delta=1e-5
    )
    exact = np.stack([FEW.images[FEW.labels == k].mean(axis=0) / 255 for k in range(N_CLASSES)])
    assert np.abs(means - exact).max() < 0.03  # the step of the grid, over some twenty records a class


def test_class_means_under_a_budget_cost_no_more_than_it_and_noise_costs_accuracy() -> None:
    accuracies = []
    for epsilon in (0.01, 10.0):
        means, plan = class_means.release_means(
            DIGITS.train, n_classes=N_CLASSES, clip_norm=5.0, epsilon=epsilon, delta=1e-5
        )
        assert 0.98 * epsilon <= plan.epsilon_spent <= epsilon
        accuracies.append(nearest_mean_accuracy(means, DIGITS.test))
    assert accuracies[1] > 0.75
    assert accuracies[0] < accuracies[1] - 0.2


def test_class_gaussians_have_the_means_and_the_spread_of_the_classes() -> None:
    """Without noise; pixels near black and white are cut off, so only the others are compared."""
    labels = np.arange(8000) % N_CLASSES
    recipe = class_gaussians.Recipe(clip_norm=20.0, covariance_clip_norm=60.0, frequencies=8)
    drawn, plan = class_gaussians.synthesize(
        DIGITS.train, labels, n_classes=N_CLASSES, epsilon=math.inf, delta=1e-5, seed=0, recipe=recipe
    )
    assert math.isinf(plan.epsilon_spent)
    compared = 0
    for label in range(N_CLASSES):
        real = DIGITS.train.images[DIGITS.train.labels == label].reshape(-1, 64) / 255
        ours = drawn.images[labels == label].reshape(-1, 64) / 255
        inner = (real.mean(axis=0) - 1.5 * real.std(axis=0) > 0) & (
            real.mean(axis=0) + 1.5 * real.std(axis=0) < 1
        )
        compared += int(inner.sum())
        assert np.abs(ours.mean(axis=0) - real.mean(axis=0))[inner].max(initial=0) < 0.05
        assert np.abs(ours.std(axis=0) - real.std(axis=0))[inner].max(initial=0) < 0.05
    assert compared > 20


def test_two_releases_together_cost_the_budget_and_more_than_one_of_them() -> None:
    both = Plan.together([(650, 5.0), (2000, 8.0)], epsilon=1.0, delta=1e-5)
    one = Plan.calibrated(dimension=650, clip_norm=5.0, epsilon=1.0, delta=1e-5)
    assert {plan.epsilon_spent for plan in both} == {both[0].epsilon_spent}
    assert 0.98 <= both[0].epsilon_spent <= 1.0
    multipliers = [plan.noise_stddev / plan.grid.norm_bound for plan in (*both, one)]
    assert multipliers[0] == pytest.approx(multipliers[1], rel=1e-3)
    assert multipliers[0] == pytest.approx(multipliers[2] * math.sqrt(2), rel=0.02)


def test_the_classifiers_gradients_are_those_of_one_record_each() -> None:
    model = dp_classifier.tanh_cnn((1, 8, 8), N_CLASSES)
    images, labels = dp_classifier.pixels(FEW), torch.from_numpy(FEW.labels)
    drawn = torch.tensor([3, 50, 51])
    (found,) = dp_classifier._gradients(model, images, labels, drawn)
    for row, index in enumerate(drawn.tolist()):
        model.zero_grad()
        torch.nn.functional.cross_entropy(
            model(images[index : index + 1]), labels[index : index + 1]
        ).backward()
        for name, parameter in model.named_parameters():
            assert torch.allclose(found[name][row], parameter.grad, atol=1e-5)


def test_a_classifier_learns_and_pays_for_every_step() -> None:
    recipe = dp_classifier.Recipe(steps=30, batch=200, learning_rate=2.0)
    promise: dict[str, Any] = {"n_classes": N_CLASSES, "declared_records": 1200, "delta": 1e-5, "seed": 0}
    model, _ = dp_classifier.train(DIGITS.train, epsilon=math.inf, recipe=recipe, **promise)
    assert dp_classifier.accuracy(model, DIGITS.test) > 0.6
    _, plan = dp_classifier.train(FEW, epsilon=8.0, recipe=recipe, **promise)
    assert plan.steps == 30
    assert 7.5 < plan.epsilon_spent <= 8.0
    shorter = plan_of(plan.dimension, 0.1, 8.0, steps=3, sampling_rate=plan.sampling_rate)
    assert shorter.noise_stddev < plan.noise_stddev


def test_28_pixel_images_meet_the_published_network() -> None:
    model = dp_classifier.tanh_cnn((1, 28, 28), N_CLASSES)
    assert sum(p.numel() for p in model.parameters()) == 26_010  # Papernot et al. 2021, table 1: "26k"


@pytest.mark.parametrize(("name", "cells", "hours"), [("grid", 37, 2.0), ("quick", 27, 0.6)])
def test_the_committed_grids_are_what_their_readme_says(
    tmp_path: Path, name: str, cells: int, hours: float
) -> None:
    places = find_places(run.HERE / f"{name}.toml", tmp_path, full=False)
    assert len(places) == cells
    assert sum(estimate.seconds(place.settings) for place in places) / 2 / 3600 < hours
    repeated: dict[tuple[Any, ...], int] = {}
    for place in places:
        axes = place.cell.axes
        kind = (axes["mode"], axes["epsilon"], axes["clients"])
        repeated[kind] = repeated.get(kind, 0) + 1
    # whatever the title compares has at least three repetitions
    top = max(e for _, e, _ in repeated if not math.isinf(e))
    compared = [
        n for (mode, e, _), n in repeated.items() if e == top and mode in ("central", "distributed", "local")
    ]
    assert len(compared) == 5
    assert set(compared) == {3}
    assert (run.HERE / "README.md").read_text(encoding="utf-8").count(f"{cells} cells") >= 1


@pytest.mark.parametrize("mode", ["central", "distributed", "local", "client", "none"])
def test_the_hardest_cell_of_each_mode_can_be_planned_within_its_budget(mode: str, tmp_path: Path) -> None:
    places = find_places(run.HERE / "grid.toml", tmp_path, full=False)
    own = [place.settings for place in places if place.settings.privacy.mode == mode]
    hardest = min(own, key=lambda settings: settings.privacy.epsilon)
    known = facts(hardest.data.name)
    bench = Workbench.make(hardest, image_shape=known.image_shape, n_classes=known.n_classes)
    plan = plan_for(hardest, known, bench.model)
    assert plan.noise_multiplier > 0 or mode == "none"
    assert ("covariances" in plan.releases) == (mode != "client")


def test_a_baseline_is_measured_like_a_cell_of_the_sweep() -> None:
    settings = config.parse("[evaluation]\nsamples = 90\ntstr_epochs = 1\n")
    job = Job(method="class_means", epsilon=10.0, seed=0, settings=settings, recipe={"clip_norm": 5.0})
    found = measure(job)
    assert found["epsilon_spent"] <= 10.0
    expected = {
        "mode": "class_means",
        "unit": "example",
        "view": "released_model",
        "data": "digits",
        "clients": None,
    }
    assert {key: found[key] for key in expected} == expected
    assert found["accuracy_nearest_mean"] > 0.75
    assert {"tstr_cnn", "prototype_accuracy", "fid_lenet32_digits", "fid_floor_lenet32_digits"} <= set(found)


def jobs(*epsilons: float) -> list[Job]:
    settings = config.parse("")
    return [
        Job(method=method, epsilon=epsilon, seed=seed, settings=settings)
        for seed in (0, 1)
        for epsilon in epsilons
        for method in ("class_means", "dp_merf")
    ]


def test_a_part_is_of_the_sweep_of_the_simpler_methods_or_of_both() -> None:
    cells = read_grid(run.HERE / "quick.toml").cells()
    words, some = run.part(cells, jobs(1.0, 10.0), [])
    assert (words, len(some)) == ((), 8)
    words, some = run.part(cells, jobs(1.0, 10.0), ["seed=1", "epsilon=10"])
    assert words == ("seed=1", "epsilon=10")
    assert {(job.seed, job.epsilon) for job in some} == {(1, 10.0)}
    words, some = run.part(cells, jobs(1.0, 10.0), ["mode=dp_merf", "epsilon=1"])
    assert words is None
    assert {(job.method, job.epsilon) for job in some} == {("dp_merf", 1.0)}
    words, some = run.part(cells, jobs(1.0, 10.0), ["mode=central", "mode=dp_merf", "seed=0"])
    assert words == ("mode=central", "seed=0")
    assert {(job.method, job.seed) for job in some} == {("dp_merf", 0)}
    assert run.part(cells, jobs(1.0), ["clients=24"]) == (("clients=24",), [])
    with pytest.raises(ConfigError, match=r"expected mode= one of .*dp_merf"):
        run.part(cells, jobs(1.0), ["mode=nonsense"])


def test_a_recipe_may_differ_by_epsilon() -> None:
    table = {"steps": 3, "learning_rate": 1.0, "at": {"10": {"learning_rate": 10.0}}}
    assert run.recipe_of("m", table, 10.0, [0.5, 10]) == {"steps": 3, "learning_rate": 10.0}
    assert run.recipe_of("m", table, 0.5, [0.5, 10]) == {"steps": 3, "learning_rate": 1.0}
    assert run.recipe_of("m", {}, 1.0, [1.0]) == {}
    with pytest.raises(ConfigError, match=r"m\.at: expected some of 0\.5, 1 as quoted keys, got '10'"):
        run.recipe_of("m", table, 1.0, [0.5, 1.0])


def test_a_data_set_without_recipes_is_named() -> None:
    with pytest.raises(ConfigError, match=r"data\.name: expected one of mnist, got 'digits'"):
        run.jobs_of({"mnist": {}}, run.HERE / "config.toml", ['data.name="digits"'], full=False)


def test_a_simpler_methods_record_is_known_by_what_decides_it() -> None:
    def digest(recipe: dict[str, Any], *overrides: str) -> str:
        settings = config.parse("", list(overrides))
        return Job(method="dp_merf", epsilon=1.0, seed=0, settings=settings, recipe=recipe).digest

    plain = digest({"features": 9})
    assert digest({"epochs": 5, "features": 9}, 'data.directory="/elsewhere"') == plain  # 5 is the default
    assert digest({"features": 8}) != plain
    assert digest({"features": 9}, "sampler.steps=7", "modes.central.rounds=3") == plain  # a network's
    for decisive in ("evaluation.samples=90", "privacy.delta=1e-6", "federation.declared_records=7"):
        assert digest({"features": 9}, decisive) != plain
    with pytest.raises(ConfigError, match=r"dp_merf: expected some of features, .* got feature"):
        digest({"feature": 9})


def test_the_committed_records_of_the_simpler_methods_are_of_the_committed_recipes() -> None:
    recipes = tomllib.loads((run.HERE / "baselines.toml").read_text(encoding="utf-8"))
    wanted = {job.cell: job.digest for job in run.jobs_of(recipes, run.HERE / "config.toml", (), full=False)}
    records = json.loads((run.HERE / "results.json").read_text(encoding="utf-8"))["records"]
    held = {r["cell"]: r["settings"] for r in records if r["mode"] in METHODS}
    assert len(held) >= 40
    assert held.items() <= wanted.items()


@pytest.mark.slow
def test_two_cells_and_the_baselines_give_results_and_a_figure(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(CONFIG, encoding="utf-8")
    (tmp_path / "grid.toml").write_text(
        'base = "base.toml"\n[settings]\nevaluation.samples = 90\nevaluation.tstr_epochs = 1\n'
        '[axes]\nmode = ["none", "distributed"]\nepsilon = [8.0]\nseed = [0]\n',
        encoding="utf-8",
    )
    (tmp_path / "recipes.toml").write_text(
        "[digits]\nepsilons = [8.0]\nseeds = [0]\n[digits.class_means]\nclip_norm = 5.0\n"
        "[digits.class_gaussians]\nclip_norm = 5.0\ncovariance_clip_norm = 8.0\nfrequencies = 6\n"
        "[digits.dp_merf]\nfeatures = 100\nepochs = 1\n[digits.dp_classifier]\nsteps = 2\nbatch = 60\n",
        encoding="utf-8",
    )
    words = ["--grid", str(tmp_path / "grid.toml"), "--out", str(tmp_path / "out"), "--jobs", "2"]
    words += ["--results", str(tmp_path / "results.json"), "--recipes", str(tmp_path / "recipes.toml")]
    assert run.main(words) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert {r["mode"] for r in results["records"]} == {
        "none",
        "distributed",
        "class_means",
        "class_gaussians",
        "dp_merf",
        "dp_classifier",
    }
    assert (tmp_path / "figure.png").exists()
    ledger = (tmp_path / "out" / "sweep" / "cells").glob("*/ledger.jsonl")
    before = {path: path.read_bytes() for path in ledger}
    assert len(before) == 2
    assert run.main([*words, "--collect"]) == 0
    assert json.loads((tmp_path / "results.json").read_text())["records"] == results["records"]
    assert run.main(words) == 0  # nothing is done again
    assert {path: path.read_bytes() for path in before} == before
    elsewhere = ["--out", str(tmp_path / "new"), "--only", "mode=class_means"]
    assert run.main([*words, *elsewhere]) == 0  # a part, elsewhere: the other records are kept
    again = json.loads((tmp_path / "results.json").read_text())["records"]
    assert [r["cell"] for r in again] == [r["cell"] for r in results["records"]]
    assert [a["cell"] for a, b in zip(again, results["records"], strict=True) if a != b] == [
        "class_means_epsilon-8_seed-0"
    ]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["baselines"]
    with pytest.raises(SystemExit, match="2 records of other settings"):
        run.main([*words, "--set", "sampler.steps=3", "--collect"])


def test_dp_merf_is_set_beside_its_published_accuracy(tmp_path: Path) -> None:
    record = {"epsilon": 1.0, "tstr_cnn": 0.78, "fid_lenet84_mnist": 90.0, "seed": 0, "seconds": 60.0}
    results = {"command": "c", "commit": "1", "machine": "m", "records": [record]}
    assert "| 1 | 78.0 % | 80.3 % | -2.3 | 90.0 | 0 | 1 |" in published.markdown(results)


def test_the_published_command_measures_the_papers_recipe_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "FID", "fid_lenet32_digits")  # MNIST needs a file
    words = ["--out", str(tmp_path / "out"), "--results", str(tmp_path / "found.json"), "--jobs", "1"]
    for override in (
        'data.name="digits"',
        "federation.declared_records=1200",
        "evaluation.samples=90",
        "evaluation.tstr_epochs=1",
    ):
        words += ["--set", override]
    words += ["--recipe", "features=100", "--recipe", "epochs=1"]
    assert published.main(words) == 0
    records = json.loads((tmp_path / "found.json").read_text())["records"]
    assert [record["epsilon"] for record in records] == [1.0, 10.0]
    assert all(record["epsilon_spent"] <= record["epsilon"] for record in records)
    files = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert published.main(words) == 0  # nothing is measured again
    assert {path: path.read_bytes() for path in files} == files


def test_images_sets_of_the_baselines_are_valid() -> None:
    means = np.zeros((N_CLASSES, 1, 8, 8), np.float32)
    copies = class_means.moved_copies(means, np.arange(20) % N_CLASSES, 0)
    assert isinstance(copies, ImageSet)
    assert len(copies) == 20
