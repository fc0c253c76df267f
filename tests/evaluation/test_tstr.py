from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from secure_fed_diffusion.data.datasets import ImageSet, load
from secure_fed_diffusion.data.settings import DataSettings
from secure_fed_diffusion.errors import DataError
from secure_fed_diffusion.evaluation.tstr import accuracy_interval, train_synthetic_test_real


@pytest.fixture(scope="module")
def digits():
    return load(DataSettings(name="digits", train_limit=1000))


def test_real_digits_teach_and_digits_with_shuffled_labels_do_not(digits):
    # bounds fixed beforehand: chance is 0.10
    shuffled = ImageSet(digits.train.images, np.random.default_rng(0).permutation(digits.train.labels))
    assert train_synthetic_test_real(digits.train, digits.test, 10, epochs=20) > 0.75
    assert train_synthetic_test_real(shuffled, digits.test, 10, epochs=20) < 0.30


def test_the_seed_decides_the_result_and_the_callers_randomness_is_left_alone(digits):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = train_synthetic_test_real(digits.train, digits.test, 10, epochs=1, seed=1)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    assert train_synthetic_test_real(digits.train, digits.test, 10, epochs=1, seed=1) == first


def test_progress_is_told_after_each_epoch(digits):
    calls = []
    train_synthetic_test_real(
        digits.train.subset(slice(10)), digits.test, 10, epochs=3, progress=lambda *call: calls.append(call)
    )
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_an_empty_set_is_refused(digits):
    with pytest.raises(DataError, match="0 synthetic"):
        train_synthetic_test_real(digits.train.subset([]), digits.test, 10)


@pytest.mark.parametrize("classifier", ["mlp", "logreg"])
def test_the_other_classifiers_of_the_published_tables_learn_too(digits, classifier):
    options = {"classifier": classifier, "epochs": 50}
    shuffled = ImageSet(digits.train.images, np.random.default_rng(0).permutation(digits.train.labels))
    assert train_synthetic_test_real(digits.train, digits.test, 10, **options) > 0.75
    assert train_synthetic_test_real(shuffled, digits.test, 10, **options) < 0.40


def test_the_interval_is_the_binomial_one_of_the_test_set():
    low, high = accuracy_interval(0.9, 1000)
    exact = binomtest(900, 1000).proportion_ci(0.95, method="exact")
    assert (low, high) == pytest.approx((exact.low, exact.high))
