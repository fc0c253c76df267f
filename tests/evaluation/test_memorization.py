"""Shares, distances and ratios against cases known in advance, and the interval against simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.neighbors import NearestNeighbors

from secure_fed_diffusion.errors import DataError
from secure_fed_diffusion.evaluation import memorization as module
from secure_fed_diffusion.evaluation.memorization import COPY_RATIO, memorization, nearest_two


def clouds(seed: int, *sizes: int, dimension: int = 6) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(size, dimension)) for size in sizes]


def test_nearest_neighbours_are_scikit_learns_across_chunks(monkeypatch):
    samples, references = clouds(0, 90, 40)
    distances, nearest = NearestNeighbors(n_neighbors=2).fit(references).kneighbors(samples)
    monkeypatch.setattr(module, "_CHUNK", 16)
    found, index = nearest_two(samples, references)
    assert found == pytest.approx(distances)
    assert np.array_equal(index, nearest[:, 0])


def test_an_exact_copy_of_every_sample_is_found_and_said_to_be_one():
    train, held_out = clouds(1, 60, 60)
    figures = memorization(train + 1e-6, train, held_out)
    assert figures["share_closer_to_train"] == 1.0
    assert figures["share_interval"] == pytest.approx((0.025 ** (1 / 60), 1.0))
    assert figures["nearest"]["train"]["copies"] == 1.0
    assert figures["nearest"]["train"]["distance_median"] < 1e-4
    assert figures["nearest"]["held_out"]["copies"] < 0.1
    mirrored = memorization(train + 1e-6, held_out, train)
    assert mirrored["share_closer_to_train"] == 0.0
    assert mirrored["nearest"]["held_out"]["copies"] == 1.0


def test_many_samples_of_one_training_image_count_as_one_trial():
    train, held_out = clouds(2, 60, 60)
    figures = memorization(np.repeat(train[:1], 500, axis=0), train, held_out)
    assert figures["share_closer_to_train"] == 1.0
    assert figures["share_interval"] == pytest.approx((0.025, 1.0))  # one image: a coin could have done it


def test_some_memorised_images_among_fresh_ones_raise_the_share_by_half_of_theirs():
    train, held_out, fresh = clouds(3, 400, 400, 300)
    samples = np.concatenate([fresh, train[:100]])
    share = memorization(samples, train, held_out)["share_closer_to_train"]
    # 100 of 400 are certain, of the others half: 0.625, with a standard deviation of about 0.03
    assert abs(share - 0.625) < 0.13  # wrong once in 50,000
    assert memorization(samples, train, held_out)["nearest"]["train"]["copies"] >= 0.25


def test_the_interval_holds_a_half_where_nothing_was_memorised():
    trials, held = 300, 0
    for seed in range(trials):
        samples, train, held_out = clouds(1000 + seed, 150, 50, 50, dimension=3)
        low, high = memorization(samples, train, held_out)["share_interval"]
        held += low <= 0.5 <= high
    # with a true coverage of 95 % or more, fewer than 267 come up with probability 1e-5
    assert binom.cdf(266, trials, 0.95) < 2e-5
    assert held >= 267
    # and the effective number is not wastefully small: an interval for independent samples covers less
    assert held < trials


def test_an_interval_that_takes_samples_for_independent_would_be_too_narrow():
    deviations = []
    for seed in range(200):
        samples, train, held_out = clouds(5000 + seed, 300, 25, 25, dimension=3)
        deviations.append(memorization(samples, train, held_out)["share_closer_to_train"] - 0.5)
    assert np.std(deviations) > 1.5 * 0.5 / np.sqrt(300)


def test_equally_near_counts_half_and_two_equal_references_single_nothing_out():
    both, far = np.array([[0.0, 0.0]]), np.array([[9.0, 9.0]])
    references = np.concatenate([both, far])
    figures = memorization(both, references, references)
    assert figures["share_closer_to_train"] == 0.5
    twins = np.concatenate([both, both])
    assert memorization(both, twins, references)["nearest"]["train"]["ratio_median"] == 1.0
    assert memorization(both, twins, references)["nearest"]["train"]["copies"] == 0.0


def test_the_ratio_compares_the_nearest_with_the_second_nearest():
    train = np.array([[0.0], [10.0]])
    for position, copy in ((3.0, True), (3.4, False)):
        neighbours = memorization(np.array([[position]]), train, train)["nearest"]["train"]
        assert neighbours["ratio_median"] == pytest.approx(position / (10 - position))
        assert neighbours["copies"] == float(copy)
        assert (position / (10 - position) < COPY_RATIO) is copy


def test_sets_of_unequal_size_are_refused():
    samples, train, held_out = clouds(4, 10, 30, 29)
    with pytest.raises(DataError, match="equal sets, got 30 training and 29 held-out"):
        memorization(samples, train, held_out)
    with pytest.raises(DataError, match="2 references"):
        nearest_two(samples, train[:1])
