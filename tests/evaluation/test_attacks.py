"""The attacks as a run meets them: a control that must succeed, one that must not, and where figures go."""

from __future__ import annotations

import copy
import json
import math
import stat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from secure_fed_diffusion import config
from secure_fed_diffusion.data.datasets import Dataset, ImageSet, load
from secure_fed_diffusion.data.settings import DataSettings
from secure_fed_diffusion.diffusion.objective import DiffusionSettings, Objective
from secure_fed_diffusion.diffusion.sampler import SamplerSettings, sample
from secure_fed_diffusion.diffusion.unet import ModelSettings, build_unet
from secure_fed_diffusion.evaluation.attacks import WARNING, Attacks
from secure_fed_diffusion.evaluation.membership import Guarantee
from secure_fed_diffusion.federation.prepare import prepare
from secure_fed_diffusion.training.local import ClientData, LocalOptimizer, train_plain
from secure_fed_diffusion.training.vectors import flatten
from tests.federation.small import settings_for

SPACES = ("pixels", "lenet32_digits")


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load(DataSettings(name="digits"))


@pytest.fixture(scope="module")
def members(digits: Dataset) -> ImageSet:
    return digits.train.subset(np.random.default_rng(0).permutation(len(digits.train))[:32])


class Case:
    """A model, small unless `large`, and what attacks find in it."""

    def __init__(self, digits: Dataset, members: ImageSet, *, large: bool = False) -> None:
        self.digits, self.members = digits, members
        self.diffusion = DiffusionSettings(timesteps=1000 if large else 20)
        shape = (
            ModelSettings(channels=(16, 16))
            if large
            else ModelSettings(channels=(8, 8), norm_groups=4, attention_head_dim=4)
        )
        self.model: nn.Module = build_unet(
            shape, image_shape=(1, 8, 8), n_classes=10, n_timesteps=self.diffusion.timesteps
        )
        self.attacks = Attacks(digits, members, copy.deepcopy(self.model), self.objective, patch=1)

    @property
    def objective(self) -> Objective:
        return Objective(self.diffusion)

    def figures(self, guarantee: Guarantee | None = None) -> dict[str, Any]:
        labels = np.repeat(self.members.labels, 3)
        settings = SamplerSettings(steps=20)
        drawn = sample(self.model, labels, diffusion=self.diffusion, settings=settings, patch=1, seed=5)
        return self.attacks.measure(flatten(self.model), ImageSet(drawn, labels), guarantee)


@pytest.mark.slow
def test_a_model_overfitted_on_32_images_is_caught_by_every_attack(digits, members):
    case = Case(digits, members, large=True)
    train_plain(
        case.model,
        case.objective,
        ClientData(members, patch=1, device="cpu"),
        LocalOptimizer(learning_rate=3e-3),
        epochs=260,  # of one batch each
        batch=32,
        key=("positive control",),
    )
    figures = case.figures()
    for attack in ("loss_threshold", "sima"):
        found = figures["membership"][attack]
        assert found["auc"] > 0.9
        assert found["auc_interval"][0] > 0.5
        assert found["control_interval"][0] < 0.5 < found["control_interval"][1]
    for space in SPACES:
        found = figures["memorization"][space]
        assert found["share_closer_to_train"] > 0.8
        assert found["share_interval"][0] > 0.5
        assert found["control_interval"][0] < 0.5 < found["control_interval"][1]
        neighbours = found["nearest"]
        assert neighbours["train"]["distance_median"] < 0.8 * neighbours["held_out"]["distance_median"]


def test_an_untrained_model_gives_nothing_away_and_is_left_as_it_was(digits, members):
    # eight intervals of 95 %, so one in three choices of 32 images would fail; this one is fixed and does not
    case = Case(digits, members)
    weights, state = flatten(case.model).clone(), torch.get_rng_state()
    figures = json.loads(json.dumps(case.figures()))
    assert torch.equal(weights, flatten(case.model))
    assert torch.equal(state, torch.get_rng_state())
    assert figures["warning"] == WARNING
    assert "not covered by ε" in WARNING
    assert figures["covered_by_epsilon"] is False
    assert figures["bound"] is None
    for attack in ("loss_threshold", "sima"):
        found = figures["membership"][attack]
        assert (found["members"], found["non_members"]) == (32, 300)
        assert found["auc_interval"][0] < 0.5 < found["auc_interval"][1]
        assert found["auc"] == pytest.approx(found["control_auc"])  # the control IS the initial model
        assert "bound" not in found["tpr_at_fpr"][0]
    for space in SPACES:
        found = figures["memorization"][space]
        assert found["references"] == 32
        assert found["share_interval"][0] < 0.5 < found["share_interval"][1]
        assert found["control_interval"][0] < 0.5 < found["control_interval"][1]


def test_beside_each_figure_stands_what_epsilon_allows(digits, members):
    claimed = Guarantee(epsilon=1.0, delta=1e-5, unit="example", view="sum_c1")
    figures = Case(digits, members).figures(claimed)
    assert figures["bound"]["view"] == "sum_c1"
    assert figures["bound"]["auc"] == pytest.approx(math.e / (1 + math.e), abs=1e-5)
    for found in figures["membership"].values():
        assert [point["bound"] for point in found["tpr_at_fpr"]] == pytest.approx(
            [0.01 * math.e + 1e-5, 0.001 * math.e + 1e-5]
        )


def test_features_are_never_compared_with_the_images_that_the_extractor_was_trained_on(digits, members):
    case = Case(digits, members)
    copies = digits.public.subset(np.arange(96))
    found = case.attacks.measure(flatten(case.model), copies, None)["memorization"]
    assert found["pixels"]["held_out"] == "public"
    assert found["pixels"]["nearest"]["held_out"]["distance_5_percent"] == 0  # some of them are the samples
    assert found["lenet32_digits"]["held_out"] == "test"
    assert found["lenet32_digits"]["nearest"]["held_out"]["distance_5_percent"] > 0


def test_at_most_so_many_images_of_each_side_are_attacked(digits, members, monkeypatch):
    monkeypatch.setattr("secure_fed_diffusion.evaluation.attacks.MOST_IMAGES", 25)
    figures = Case(digits, members).figures()
    for found in figures["membership"].values():
        assert (found["members"], found["non_members"]) == (25, 25)
    assert {found["references"] for found in figures["memorization"].values()} == {25}


class Silent:
    """Remembers remarks."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def round(self, record: dict[str, Any]) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)


def run_in(folder: Path, mode: str, *overrides: str) -> Silent:
    settings = settings_for(mode, *overrides)
    run = prepare(settings, folder, config_text=config.dump(settings))
    observer = Silent()
    try:
        run.execute(observer)
    finally:
        run.ledger.close()
    return observer


def test_a_run_is_not_attacked_unless_it_asks(tmp_path):
    observer = run_in(tmp_path / "run", "none")
    assert not (tmp_path / "run" / "attacks.json").exists()
    assert "attacks = false" in (tmp_path / "run" / "config.toml").read_text()
    assert not [note for note in observer.notes if "attacks" in note]


def test_a_run_that_asks_writes_the_figures_into_a_file_apart_and_says_what_they_are(tmp_path):
    folder = tmp_path / "run"
    observer = run_in(folder, "central", "evaluation.attacks=true", "modes.central.rounds=1")
    figures = json.loads((folder / "attacks.json").read_text())
    assert figures["warning"] == WARNING
    assert any(WARNING in note for note in observer.notes)
    assert stat.S_IMODE((folder / "attacks.json").stat().st_mode) & 0o077 == 0
    summary = json.loads((folder / "summary.json").read_text())
    promised, spent = (min(summary[key]["released_model"].values()) for key in ("plan_epsilon", "epsilon"))
    assert figures["bound"]["epsilon"] == promised > spent  # a repeat was reserved, and not needed
    # every client is in some cohort of this plan, so all 300 images are members
    assert {found["members"] for found in figures["membership"].values()} == {300}
    for name in ("metrics.jsonl", "summary.json", "server_view.json", "ledger.jsonl"):
        text = (folder / name).read_text()
        assert "auc" not in text
        assert "memorization" not in text
