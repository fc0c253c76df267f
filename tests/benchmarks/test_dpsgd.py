"""The benchmark of the private step measures what it says, and its ratios are quotients of its rates."""

from __future__ import annotations

import warnings

import pytest
import torch
from opacus import GradSampleModule

from secure_fed_diffusion.benchmarks import dpsgd
from secure_fed_diffusion.diffusion.objective import DiffusionSettings, Objective, draw
from secure_fed_diffusion.diffusion.unet import ModelSettings, build_unet
from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.training.per_example import Records, per_example_gradients

TINY = ModelSettings(channels=(8, 8), norm_groups=4, attention_head_dim=4)
CASES = {
    "flat": dpsgd.Case(image_shape=(1, 8, 8), model=TINY, batch=4),
    "colour": dpsgd.Case(image_shape=(3, 8, 8), model=TINY, batch=4),
}


@pytest.fixture(scope="module")
def figures() -> dict[str, object]:
    return dpsgd.run(cases=CASES)


def test_the_ratios_are_quotients_of_the_rates(figures: dict) -> None:
    assert set(figures) == {"ratios", "examples_per_second", "sizes", "repetitions", "note"}
    assert (
        set(figures["ratios"]) == set(figures["examples_per_second"]) == set(figures["sizes"]) == set(CASES)
    )
    for name, ratios in figures["ratios"].items():
        rate = figures["examples_per_second"][name]
        assert set(rate) == {"plain", "ours", "opacus"}
        assert min(rate.values()) > 0
        assert ratios == {
            "ours_over_plain": rate["ours"] / rate["plain"],
            "ours_over_opacus": rate["ours"] / rate["opacus"],
        }


def test_it_says_that_the_peers_gradients_are_wrong(figures: dict) -> None:
    assert "wrong on this U-Net" in figures["note"]
    assert "GradSampleModule" in figures["note"]
    assert figures["repetitions"] == 5
    assert "batch 4" in figures["sizes"]["flat"]


def test_the_peers_gradients_are_wrong_indeed() -> None:
    case = dpsgd.CASES["quickstart"]
    diffusion = DiffusionSettings()
    objective = Objective(diffusion)
    model = build_unet(case.model, image_shape=case.image_shape, n_classes=3, n_timesteps=1000)
    images = torch.rand((3, *case.image_shape), generator=torch.Generator().manual_seed(0)) * 2 - 1
    draws = draw(diffusion, case.image_shape, keys=[(record,) for record in range(3)])
    records = Records(images, torch.arange(3), draws)
    right = per_example_gradients(model, objective, records)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hooked = GradSampleModule(model)
        objective.loss_batch(hooked, images, records.labels, draws.timesteps, draws.noise).backward()
    wrong = {
        name
        for name, p in model.named_parameters()
        if (p.grad_sample - right[name]).norm() > 0.5 * right[name].norm() > 0
    }
    assert "mid_block.resnets.0.conv1.weight" in wrong  # once this is empty, the note is to be rewritten
    assert len(wrong) < 0.1 * len(right)  # and the rest is right, so the comparison is a fair one


def test_each_action_really_computes_gradients() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    actions, length = dpsgd._actions(CASES["flat"])
    for action in actions.values():
        action()
    assert torch.equal(torch.get_rng_state(), before)
    assert length > 1000


def test_fewer_than_five_repetitions_are_refused() -> None:
    with pytest.raises(ConfigError, match="repetitions: expected repetitions >= 5, got 4"):
        dpsgd.run(repetitions=4)


def test_the_number_of_threads_is_put_back() -> None:
    before = torch.get_num_threads()
    dpsgd.run(cases={"flat": CASES["flat"]})
    assert torch.get_num_threads() == before


def test_the_cases_are_the_sizes_of_the_experiments() -> None:
    assert dpsgd.CASES["quickstart"].image_shape == (1, 8, 8)
    assert dpsgd.CASES["28x28_patch_2"].model == ModelSettings(channels=(16, 32), patch=2)
    assert {case.batch for case in dpsgd.CASES.values()} == {64}
