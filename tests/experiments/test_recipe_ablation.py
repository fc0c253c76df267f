"""The ablation of the recipe: what its grid changes, and how an effect and its interval are made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import ttest_ind

from experiments.recipe_ablation import figure, run, table
from experiments.results import into_readme
from secure_fed_diffusion import config
from secure_fed_diffusion.data.facts import facts
from secure_fed_diffusion.federation.prepare import plan_for
from secure_fed_diffusion.federation.workbench import Workbench
from secure_fed_diffusion.sweep.command import find_places

# Each part of the recipe that issue by issue became a switch, and the key that some variant turns.
PARTS = (
    "warmup.draws",
    "warmup.covariances.draws",
    "diffusion.truncation",
    "diffusion.prediction",
    "diffusion.noise_multiplicity",
    "diffusion.label_dropout",
    "modes.central.clipping",
    "modes.central.schedule",
    "modes.central.label_balance",
    "modes.central.server.schedule",
    "modes.central.ema_decay",
    "modes.central.server.average",
    "modes.central.server.optimizer",
    "sampler.kind",
)


def value(settings: object, key: str) -> Any:
    for name in key.split("."):
        settings = getattr(settings, name)
    return settings


def record(variant: str, seed: int, tstr: float, epsilon: float = 10.0) -> dict[str, Any]:
    figures = {"tstr_cnn": tstr, "prototype_accuracy": 0.9, "fid_lenet84_mnist": 20.0, "seconds": 90.0}
    return {"variant": variant, "epsilon": epsilon, "seed": seed, **figures}


RECORDS = [
    *(record("recipe", seed, tstr) for seed, tstr in enumerate((0.900, 0.902, 0.904))),
    *(record("no warm-up", seed, tstr) for seed, tstr in enumerate((0.40, 0.45, 0.41))),
    *(record("no average", seed, tstr) for seed, tstr in enumerate((0.90, 0.89, 0.91))),
    record("recipe", 0, 0.8, epsilon=1.0),
    record("no average", 0, 0.81, epsilon=1.0),
]


def test_every_part_is_turned_by_some_variant_at_both_budgets_and_three_seeds(tmp_path: Path) -> None:
    places = find_places(run.HERE / "grid.toml", tmp_path, full=False)
    by_variant: dict[str, list[Any]] = {}
    for place in places:
        by_variant.setdefault(str(place.cell.axes["variant"]), []).append(place)
    for variant, cells in by_variant.items():
        found = sorted((place.cell.axes["epsilon"], place.cell.axes["seed"]) for place in cells)
        assert found == [(e, seed) for e in (1.0, 10.0) for seed in range(3)], variant
    base = by_variant.pop(table.BASE)[0].settings
    for key in PARTS:
        others = {repr(value(cells[0].settings, key)) for cells in by_variant.values()}
        assert others - {repr(value(base, key))}, key
    dumped = {config.dump(cells[0].settings) for cells in by_variant.values()}
    assert len(dumped | {config.dump(base)}) == len(by_variant) + 1  # no two are the same


def test_every_variant_can_be_planned_within_its_budget(tmp_path: Path) -> None:
    known = facts("mnist")
    charged = {}  # by what a charge depends on
    for place in find_places(run.HERE / "grid.toml", tmp_path, full=False):
        settings = place.settings
        if settings.privacy.epsilon == 1.0:
            charged[repr((settings.warmup, settings.modes.central.phases))] = settings
    assert len(charged) >= 4
    for settings in charged.values():
        bench = Workbench.make(settings, image_shape=known.image_shape, n_classes=known.n_classes)
        assert plan_for(settings, known, bench.model).noise_multiplier > 0.5


def test_an_effect_is_the_difference_of_the_means_with_welchs_interval() -> None:
    found = table.effect(RECORDS, "no warm-up", 10.0)
    base, changed = (0.900, 0.902, 0.904), (0.40, 0.45, 0.41)
    between = ttest_ind(changed, base, equal_var=False).confidence_interval(0.95)
    assert found is not None
    assert found.mean == pytest.approx(-48.2)
    assert (found.low, found.high) == pytest.approx((100 * between.low, 100 * between.high))
    assert found.clear
    within = table.effect(RECORDS, "no average", 10.0)
    assert within is not None
    assert not within.clear
    once = table.effect(RECORDS, "no average", 1.0)
    assert once == table.Effect(mean=pytest.approx(1.0))
    assert table.effect(RECORDS, "no warm-up", 1.0) is None


def test_the_table_and_the_sentence_say_what_is_clear_of_chance() -> None:
    results = {"command": "c", "commit": "1", "machine": "m", "records": RECORDS}
    text = table.markdown(results)
    assert "more accurate than the recipe none, the opposite no warm-up (-48.2);" in text
    assert "| recipe | 10 | 3 | 90.2 % | – | 20.0 | – | – | 90.0 % | 1.5 |" in text
    assert "| no warm-up | 10 | 3 | 42.0 % | **-48.2 (" in text
    assert "| no average | 1 | 1 | 81.0 % | +1.0 |" in text
    assert "| no warm-up | 1 |" not in text
    assert "At ε = 1, one run of each, which tells nothing from chance." in text


def test_a_lower_fid_is_a_gain() -> None:
    fids = {"recipe": (20.0, 21.0, 22.0), "no average": (10.0, 11.0, 12.0), "no warm-up": (80.0, 81.0, 82.0)}
    found = [
        record(variant, seed, 0.9) | {"fid_lenet84_mnist": fid}
        for variant, values in fids.items()
        for seed, fid in enumerate(values)
    ]
    gained = table.effect(found, "no average", 10.0, table.FID)
    assert gained is not None
    assert gained.mean == pytest.approx(-10.0)
    assert gained.clear
    assert table.by_seed(found[1:], "no average", 10.0, table.FID) == [-10.0, -10.0]  # seed 0 has no recipe
    said = table.finding(found)
    assert "of lower FID than the recipe no average (-10.0), the opposite no warm-up (+60.0)" in said


def test_the_figure_is_drawn_from_the_records_alone(tmp_path: Path) -> None:
    assert figure.draw(RECORDS, tmp_path / "figure.png").read_bytes()[1:4] == b"PNG"


def test_the_readme_holds_the_table_of_the_committed_results(tmp_path: Path) -> None:
    results = run.HERE / "results.json"
    if not results.exists():
        assert "Not run yet." in (run.HERE / "README.md").read_text(encoding="utf-8")
        return
    text, copy = (run.HERE / "README.md").read_text(encoding="utf-8"), tmp_path / "README.md"
    copy.write_text(text, encoding="utf-8")
    into_readme(copy, "results", table.markdown(json.loads(results.read_text(encoding="utf-8"))))
    assert copy.read_text(encoding="utf-8") == text


@pytest.mark.slow
def test_two_variants_give_results_and_a_figure(tmp_path: Path) -> None:
    grid = tmp_path / "grid.toml"
    grid.write_text(
        f'base = "{run.HERE.parent / "mnist_cpu" / "config.toml"}"\n[axes]\nseed = [0]\nmode = ["central"]\n'
        'epsilon = [10.0]\n[[axes.variant]]\nvalue = "recipe"\n[[axes.variant]]\nvalue = "no average"\n'
        "modes.central.ema_decay = 0.0\n",
        encoding="utf-8",
    )
    small = (
        "data.name=digits",
        "data.train_limit=200",
        "federation.declared_records=200",
        "model.patch=1",
        "model.channels=[8, 8]",
        "warmup.noise_multiplier=8.0",
        "warmup.covariances.frequencies=4",
        "warmup.steps=2",
        "modes.central.rounds=2",
        "modes.central.sampling_rate=0.25",
        "modes.central.divisor=50",
        "sampler.steps=2",
        "evaluation.samples=100",
        "evaluation.tstr_epochs=1",
    )
    words = ["--grid", str(grid), "--out", str(tmp_path / "out"), "--results", str(tmp_path / "results.json")]
    words += ["--jobs", "1", *(word for override in small for word in ("--set", override))]
    assert run.main(words) == 0
    records = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["records"]
    assert [r["variant"] for r in records] == ["recipe", "no average"]
    assert all(r["epsilon_spent"] <= 10.0 for r in records)
    assert (tmp_path / "figure.png").exists()
    assert run.main([*words, "--collect"]) == 0
