"""The benchmark of an evaluation measures what it says; no figure of speed is asserted here."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from secure_fed_diffusion import config
from secure_fed_diffusion.benchmarks import evaluation
from secure_fed_diffusion.benchmarks.evaluation import Case
from secure_fed_diffusion.diffusion.settings import ModelSettings, SamplerSettings
from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.evaluation.classifiers import FairDropout, dpdm_cnn
from secure_fed_diffusion.evaluation.settings import EvaluationSettings

SMALL = Case(
    dataset="digits",
    image_shape=(1, 8, 8),
    n_public=40,
    n_test=50,
    model=ModelSettings(channels=(8, 8), norm_groups=4, attention_head_dim=4),
    sampler=SamplerSettings(steps=2),
    evaluation=EvaluationSettings(samples=45, tstr_epochs=1, classifiers=("cnn", "mlp")),
)


@pytest.fixture(scope="module")
def figures() -> dict:
    return evaluation.run(case=SMALL, threads=1)


def test_every_part_is_timed_and_the_sum_is_of_what_one_evaluation_does(figures) -> None:
    seconds = figures["seconds"]
    counted = {"sampling", "embedding", "fid", "kid", "neighbours", "prototypes", "tstr_cnn"}
    assert set(seconds) == counted | {"real_images", "tstr_mlp", "one_evaluation"}
    assert min(seconds.values()) > 0
    assert seconds["one_evaluation"] == pytest.approx(sum(seconds[part] for part in counted))
    assert figures["ratios"]["share_of_six_minutes"] == pytest.approx(seconds["one_evaluation"] / 360)
    assert figures["ratios"]["training_step_over_plain"] > 0
    assert figures["memory_bytes"] >= 0
    assert (
        "45 samples of (1, 8, 8), 2 steps of dpm++, 50 test and 40 public images, 1 epochs"
        in figures["sizes"]
    )
    assert json.loads(json.dumps(figures)) == figures


def test_by_default_it_is_ten_thousand_samples_of_mnist_by_the_sampler_of_a_run() -> None:
    case = Case()
    assert (case.evaluation.samples, case.evaluation.tstr_epochs) == (10_000, 50)
    assert case.sampler == config.parse("").sampler
    assert (case.dataset, case.image_shape, case.n_test) == ("mnist", (1, 28, 28), 10_000)


def test_the_plain_step_differs_in_its_dropout_alone() -> None:
    model = dpdm_cnn((1, 8, 8), 10)
    weights = [p.clone() for p in model.parameters()]
    evaluation._with_plain_dropout(model)
    kinds = [type(module) for module in model.modules()]
    assert kinds.count(nn.Dropout) == 3
    assert FairDropout not in kinds
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))


def test_the_callers_randomness_and_threads_are_left_alone() -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    evaluation._step_ratio((1, 8, 8), 5)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_num_threads() == threads


def test_fewer_than_five_repetitions_are_refused() -> None:
    with pytest.raises(ConfigError, match="repetitions >= 5, got 4"):
        evaluation.run(repetitions=4)
