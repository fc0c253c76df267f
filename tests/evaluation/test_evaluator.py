from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from secure_fed_diffusion.data.datasets import Dataset, ImageSet, load
from secure_fed_diffusion.data.settings import DataSettings
from secure_fed_diffusion.errors import ConfigError, DataError
from secure_fed_diffusion.evaluation.evaluator import Evaluator
from secure_fed_diffusion.evaluation.settings import EvaluationSettings


@pytest.fixture(scope="module")
def digits():
    return load(DataSettings(name="digits"))


def test_real_images_score_near_the_floor_and_noise_far_from_it(digits):
    evaluator = Evaluator(digits, EvaluationSettings(samples=300))
    noise = ImageSet(
        np.random.default_rng(0).integers(0, 256, (300, 1, 8, 8)).astype(np.uint8), digits.public.labels
    )
    floor = evaluator.floor["fid_floor_lenet32_digits"]
    # the file is ordered by writer, so the first 300 would be a few people's hands, and farther away
    chosen = np.random.default_rng(1).choice(len(digits.train), 300, replace=False)
    real = evaluator.measure(digits.train.subset(chosen), with_tstr=False)
    assert set(real) == {"fid_lenet32_digits", "prototype_accuracy"}
    assert 0 < floor < 2
    assert real["fid_lenet32_digits"] < 3 * floor
    assert real["prototype_accuracy"] > 0.9
    bad = evaluator.measure(noise, with_tstr=False)
    assert bad["fid_lenet32_digits"] > 10 * floor
    assert bad["prototype_accuracy"] < 0.35


def test_tstr_is_measured_only_when_asked_for_and_nothing_warns_or_draws(digits):
    settings = EvaluationSettings(samples=100, tstr_epochs=1)
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = Evaluator(digits, settings).measure(digits.train.subset(slice(100)), with_tstr=True)
    assert torch.equal(before, torch.get_rng_state())
    assert 0 <= metrics["tstr_cnn"] <= 1


def test_no_private_image_is_read(digits):
    empty = ImageSet(np.empty((0, 1, 8, 8), dtype=np.uint8), np.empty(0, dtype=np.int64))
    without = Dataset("digits", digits.class_names, empty, digits.public, digits.test)
    settings, samples = EvaluationSettings(samples=200), digits.public.subset(slice(200))
    with_train, blind = (Evaluator(d, settings) for d in (digits, without))
    assert with_train.floor == blind.floor
    assert with_train.measure(samples, with_tstr=False) == blind.measure(samples, with_tstr=False)


def test_no_more_samples_than_features_are_refused_before_the_run(digits):
    with pytest.raises(ConfigError, match=r"evaluation\.samples: expected more samples than the 32 features"):
        Evaluator(digits, EvaluationSettings(samples=32))


def test_labels_outside_the_classes_are_refused(digits):
    evaluator = Evaluator(digits, EvaluationSettings(samples=100))
    samples = digits.public.subset(slice(100))
    with pytest.raises(DataError, match=r"labels in 0\.\.9"):
        evaluator.measure(ImageSet(samples.images, samples.labels + 1), with_tstr=False)


def test_the_labels_to_draw_follow_the_public_split(digits):
    labels = Evaluator(digits, EvaluationSettings(samples=300)).sample_labels()
    assert np.array_equal(np.bincount(labels), np.bincount(digits.public.labels))
    fewer = Evaluator(digits, EvaluationSettings(samples=45)).sample_labels()
    assert len(fewer) == 45
    assert np.all(np.abs(np.bincount(fewer, minlength=10) - 4.5) < 1.5)


def test_an_evaluation_is_due_each_nth_round_and_after_the_last():
    settings = EvaluationSettings(every=4)
    assert [r for r in range(10) if settings.due(r, 10)] == [3, 7, 9]


@pytest.mark.parametrize(("key", "value"), [("every", 0), ("samples", 1), ("tstr_epochs", 0)])
def test_a_bad_setting_is_refused_with_its_key(key, value):
    with pytest.raises(ConfigError, match=f"evaluation.{key}: expected at least"):
        EvaluationSettings(**{key: value})
