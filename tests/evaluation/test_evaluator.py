from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch

from secure_fed_diffusion import config
from secure_fed_diffusion.data.datasets import Dataset, ImageSet, load
from secure_fed_diffusion.data.settings import DataSettings
from secure_fed_diffusion.errors import ConfigError, DataError
from secure_fed_diffusion.evaluation import names
from secure_fed_diffusion.evaluation.evaluator import Evaluator
from secure_fed_diffusion.evaluation.features import embed
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
    families = ("fid", "kid", "precision", "recall", "density", "coverage")
    through = {f"{family}_lenet32_digits" for family in families}
    assert set(real) == through | {"prototype_accuracy", "interval_prototype_accuracy"}
    assert set(evaluator.floor) == {names.floor_key(key) for key in (*through, "prototype_accuracy")}
    assert 0 < floor < 2
    assert real["fid_lenet32_digits"] < 3 * floor
    assert real["prototype_accuracy"] > 0.9
    bad = evaluator.measure(noise, with_tstr=False)
    assert bad["fid_lenet32_digits"] > 10 * floor
    assert abs(real["kid_lenet32_digits"]) < 0.05 * bad["kid_lenet32_digits"]
    assert bad["precision_lenet32_digits"] + bad["coverage_lenet32_digits"] < 0.2
    assert min(real["precision_lenet32_digits"], real["coverage_lenet32_digits"]) > 0.8
    assert bad["prototype_accuracy"] < 0.35


def test_tstr_is_measured_only_when_asked_for_and_nothing_warns_or_draws(digits):
    settings = EvaluationSettings(samples=100, tstr_epochs=1)
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = Evaluator(digits, settings).measure(digits.train.subset(slice(100)), with_tstr=True)
    assert torch.equal(before, torch.get_rng_state())
    assert 0 <= metrics["tstr_cnn"] <= 1


def test_real_images_are_embedded_once_and_samples_once_for_all_figures(digits, monkeypatch):
    calls = []

    def counting(extractor, images, **options):
        calls.append(len(images))
        return embed(extractor, images, **options)

    monkeypatch.setattr("secure_fed_diffusion.evaluation.evaluator.embed", counting)
    evaluator = Evaluator(digits, EvaluationSettings(samples=200))
    assert not calls  # nothing before the first figure
    for _ in range(2):
        evaluator.measure(digits.train.subset(slice(150)), with_tstr=False)
        _ = evaluator.floor
    assert calls == [len(digits.test), 150, 200, 150]


def test_each_classifier_has_its_figure_its_interval_and_where_asked_its_floor(digits):
    settings = EvaluationSettings(
        samples=100, tstr_epochs=2, tstr_floor=True, classifiers=("logreg", "mlp", "cnn")
    )
    calls: list[tuple[int, int]] = []
    evaluator = Evaluator(digits, settings)
    samples = digits.train.subset(slice(100))
    metrics = evaluator.measure(samples, with_tstr=True, progress=lambda *call: calls.append(call))
    for name in settings.classifiers:
        low, high = metrics[f"interval_tstr_{name}"]
        assert 0 <= low < metrics[f"tstr_{name}"] < high <= 1
        assert f"floor_tstr_{name}" in evaluator.floor
    assert calls == [(done, 6) for done in range(1, 7)]
    assert json.loads(json.dumps(metrics)) == metrics
    parts = {"embedding", "fid", "kid", "neighbours", "prototypes", "tstr_cnn", "tstr_mlp", "tstr_logreg"}
    assert set(evaluator.seconds) >= parts


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


@pytest.mark.parametrize("classifiers", [(), ("cnn", "cnn")])
def test_no_classifier_or_the_same_one_twice_is_refused(classifiers):
    with pytest.raises(ConfigError, match=r"evaluation\.classifiers: expected each of cnn, mlp, logreg"):
        EvaluationSettings(classifiers=classifiers)


@pytest.mark.parametrize("name", ["svm", "CNN"])
def test_an_unknown_classifier_is_refused_by_the_configuration(name):
    with pytest.raises(ConfigError, match=r"evaluation\.classifiers"):
        config.parse(f'[evaluation]\nclassifiers = ["{name}"]')
    assert config.parse('[evaluation]\nclassifiers = ["mlp"]').evaluation.classifiers == ("mlp",)


@pytest.mark.parametrize(("key", "value"), [("every", 0), ("samples", 1), ("tstr_epochs", 0)])
def test_a_bad_setting_is_refused_with_its_key(key, value):
    with pytest.raises(ConfigError, match=f"evaluation.{key}: expected at least"):
        EvaluationSettings(**{key: value})
