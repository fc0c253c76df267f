"""Class covariances by one sum: exact without noise, of bounded sensitivity, and blind to what is noise."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch

from secure_fed_diffusion.data.images import ImageSet
from secure_fed_diffusion.dp.grid import IntegerGrid
from secure_fed_diffusion.errors import BudgetExceededError, ConfigError, FrameError
from secure_fed_diffusion.federation.class_covariances import (
    covariance_length,
    covariance_mean,
    covariance_sum,
    estimate_factors,
    low_frequencies,
)
from secure_fed_diffusion.federation.messages import Announcement, announced_round
from secure_fed_diffusion.federation.rounds import run_rounds
from secure_fed_diffusion.federation.warmup_settings import CovarianceSettings, WarmupSettings
from secure_fed_diffusion.training.vectors import flatten
from tests.federation.small import federation, settings_for

CLASSES, SHAPE, FREQUENCIES = 3, (2, 4, 5), 3
SIZE = SHAPE[0] * FREQUENCIES**2
LENGTH = covariance_length(SHAPE, n_classes=CLASSES, frequencies=FREQUENCIES)
CLIP = 500.0  # beyond any row: nothing is clipped unless a test wants it


def images_of(labels: list[int], seed: int = 0) -> ImageSet:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, size=(len(labels), *SHAPE), dtype=np.uint8)
    return ImageSet(pixels, np.array(labels, dtype=np.int64))


def means_of(seed: int = 1) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).random((CLASSES, *SHAPE), dtype=np.float32)


def estimate(totals: np.ndarray, noise_stddev: float = 0.0, clip_norm: float = CLIP) -> np.ndarray:
    return estimate_factors(
        totals,
        n_classes=CLASSES,
        image_shape=SHAPE,
        frequencies=FREQUENCIES,
        clip_norm=clip_norm,
        noise_stddev=noise_stddev,
    )


def covariance_of(images: ImageSet, means: np.ndarray, label: int) -> np.ndarray:
    """In the image's own pixels, of its low frequencies alone."""
    basis = low_frequencies(SHAPE, FREQUENCIES)
    away = images.images[images.labels == label].reshape(-1, math.prod(SHAPE)) / 255 - means[label].ravel()
    low = away @ basis.T @ basis
    return low.T @ low / len(low)


def test_the_frequencies_are_orthonormal_and_the_lowest_is_each_channel_s_mean() -> None:
    basis = low_frequencies(SHAPE, FREQUENCIES)
    np.testing.assert_allclose(basis @ basis.T, np.eye(SIZE), atol=1e-12)
    flat = np.concatenate([np.full(20, 3.0), np.full(20, 5.0)])
    shown = basis @ flat
    assert np.flatnonzero(np.abs(shown) > 1e-9).tolist() == [0, FREQUENCIES**2]
    np.testing.assert_allclose(shown @ basis, flat)


def test_without_noise_the_sum_gives_each_class_s_covariance_back() -> None:
    images, means = images_of([0] * 30 + [1] * 40 + [2] * 50), means_of()
    factors = estimate(covariance_mean(images, means, FREQUENCIES, CLIP) * len(images))
    for label in range(CLASSES):
        found = factors[label].T @ factors[label]
        np.testing.assert_allclose(found, covariance_of(images, means, label), atol=1e-5)


def test_the_grid_costs_no_more_than_its_own_step() -> None:
    images, means = images_of([0] * 30 + [1] * 40 + [2] * 50), means_of()
    grid = IntegerGrid.for_dimension(LENGTH, 80.0)
    rounded = grid.to_float(covariance_sum(images, means, FREQUENCIES, grid))
    exact = covariance_mean(images, means, FREQUENCIES, 80.0) * len(images)
    assert np.abs(rounded - exact).max() <= 0.5 * 50 / grid.scale + 1e-9


@pytest.mark.parametrize("announced", [0.0, 1.0, -7.5, 1e-30, 1e18, -3e38])
def test_a_record_moves_the_sum_by_no_more_than_the_bound_whatever_means_were_announced(
    announced: float,
) -> None:
    means = np.full((CLASSES, *SHAPE), announced, dtype=np.float32)
    images = images_of([0, 1, 1, 2, 0, 2])
    grid = IntegerGrid.for_dimension(LENGTH, 2.0)  # every row is clipped
    whole = covariance_sum(images, means, FREQUENCIES, grid)
    longest = 0.0
    for i in range(len(images)):
        kept = np.flatnonzero(np.arange(len(images)) != i)
        moved = whole - covariance_sum(images.subset(kept), means, FREQUENCIES, grid)
        longest = max(longest, float(np.linalg.norm(moved.astype(np.float64))))
    assert longest <= grid.norm_bound
    assert longest > 0.99 * grid.norm_bound


def test_a_record_is_rounded_by_itself_however_many_stand_beside_it() -> None:
    images, means = images_of([0] * 600, seed=3), means_of()
    grid = IntegerGrid.for_dimension(LENGTH, 3.0)
    single = sum(covariance_sum(images.subset(np.array([i])), means, FREQUENCIES, grid) for i in range(600))
    assert np.array_equal(covariance_sum(images, means, FREQUENCIES, grid), single)


def test_a_record_touches_its_own_class_alone() -> None:
    grid = IntegerGrid.for_dimension(LENGTH, 3.0)
    blocks = covariance_sum(images_of([1]), means_of(), FREQUENCIES, grid).reshape(CLASSES, -1)
    assert blocks[1].any()
    assert not blocks[[0, 2]].any()


def test_no_records_are_zeros() -> None:
    grid = IntegerGrid.for_dimension(LENGTH, 3.0)
    assert covariance_sum(images_of([]), means_of(), FREQUENCIES, grid).tolist() == [0] * LENGTH
    assert not covariance_mean(images_of([]), means_of(), FREQUENCIES, 3.0).any()


def counts_of(count: float) -> np.ndarray:
    """A sum of `count` records a class that do not vary at all."""
    return np.tile(np.append(np.zeros(SIZE * (SIZE + 1) // 2), 0.25 * CLIP * count), CLASSES)


def test_noise_alone_has_no_directions() -> None:
    """The largest eigenvalue of noise passes the edge by 2 m^(-2/3) of it with probability below 1 %."""
    rng = np.random.default_rng(5)
    found = 0
    for _ in range(30):
        noise = rng.normal(size=LENGTH) * 4.0
        noise.reshape(CLASSES, -1)[:, -1] = 0.0
        factors = estimate(counts_of(500.0) + noise, noise_stddev=4.0)
        found += int((np.abs(factors).sum(axis=2) > 0).sum())
    assert found <= 5  # of 90 matrices, each of which has one largest; more with probability below 1e-3


def test_a_direction_out_of_the_noise_has_its_true_length_and_not_the_noise_s() -> None:
    """One direction of variance 2 under noise whose edge is 1.2; seen as 2.18 if nothing is turned back."""
    rng, count, true = np.random.default_rng(6), 500.0, 2.0
    stddev = 1.2 / math.sqrt(2 * SIZE) * count
    direction = np.linalg.qr(rng.normal(size=(SIZE, 1)))[0][:, 0]
    first, second = np.triu_indices(SIZE)
    row = true * count * direction[first] * direction[second]
    row *= np.where(first == second, 1.0, math.sqrt(2.0))
    lengths = []
    for _ in range(40):
        totals = counts_of(count).reshape(CLASSES, -1)
        totals[:, :-1] += row + rng.normal(size=(CLASSES, len(row))) * stddev
        lengths += [(factor**2).sum(axis=1).max() for factor in estimate(totals.ravel(), noise_stddev=stddev)]
    error = np.std(lengths) / math.sqrt(len(lengths))
    assert abs(np.mean(lengths) - true) < 4 * error + 0.02  # the formula holds to 1 / size
    assert abs(np.mean(lengths) - (true + 0.36 / true)) > 4 * error  # what would be seen: λ + s² m / λ


def test_a_class_nobody_has_varies_as_the_others_do_together() -> None:
    images, means = images_of([0] * 30 + [2] * 30), means_of()
    factors = estimate(covariance_mean(images, means, FREQUENCIES, CLIP) * len(images))
    together = (covariance_of(images, means, 0) + covariance_of(images, means, 2)) / 2
    np.testing.assert_allclose(factors[1].T @ factors[1], together, atol=1e-5)


def test_a_sum_of_nothing_has_no_factors() -> None:
    assert estimate(np.zeros(LENGTH)).shape == (CLASSES, 0, math.prod(SHAPE))


def test_covariances_need_means_to_be_taken_about() -> None:
    with pytest.raises(ConfigError, match=r"warmup\.covariances\.draws.*about them"):
        WarmupSettings(draws=0, covariances=CovarianceSettings(draws=1))


def test_no_more_frequencies_than_the_image_has() -> None:
    with pytest.raises(ConfigError, match=r"warmup\.covariances\.frequencies.*at most 8.*got 9"):
        federation(
            settings_for("distributed", "warmup.covariances.draws=1", "warmup.covariances.frequencies=9")
        )


def test_a_warm_up_that_overspends_names_its_covariances() -> None:
    with pytest.raises(BudgetExceededError, match=r"warmup\.covariances\.noise_multiplier=0\.1"):
        federation(
            settings_for(
                "distributed", "warmup.covariances.draws=1", "warmup.covariances.noise_multiplier=0.1"
            )
        )


def test_a_server_that_stopped_between_two_draws_goes_on_as_if_it_had_not() -> None:
    settings = settings_for("central", "federation.masked=false", "warmup.covariances.draws=2")
    whole, resumed = federation(settings, seed="stop"), federation(settings, seed="stop")
    initial = flatten(whole.server.model).clone()
    for outcome in run_rounds(whole.plan, whole.server, whole.engine, whole.book, first=1, note=print):
        whole.server.apply(outcome.total)
        if outcome.planned.number == 2:
            assert torch.equal(flatten(whole.server.model), initial)  # the warm-up waits for the last draw
            resumed.server.load_state_dict(whole.server.state_dict())
        if outcome.planned.number == 3:
            break
    assert not torch.equal(flatten(whole.server.model), initial)
    resumed.server.open(3, 0)
    resumed.server.apply(outcome.total)
    assert torch.equal(flatten(resumed.server.model), flatten(whole.server.model))


def test_the_means_are_announced_in_place_of_the_weights_and_bound_to_the_round() -> None:
    it = federation(settings_for("distributed", "warmup.covariances.draws=1"), seed="announced")
    outcome = next(run_rounds(it.plan, it.server, it.engine, it.book, first=1, note=print))
    it.server.apply(outcome.total)
    means = it.server.classes.means
    frame = next(iter(it.server.open(2, 0).values()))
    assert announced_round(frame) == 2
    heard = Announcement.decode(frame, it.plan.announced(2))
    assert np.array_equal(heard.weights, means.ravel())
    with pytest.raises(FrameError, match="expected an announcement"):
        Announcement.decode(frame, it.plan.announced(3))


def test_a_class_whose_count_may_be_noise_does_not_vary_wildly() -> None:
    """Class 1 has nobody, and a noisy count of 3 standard deviations: by itself it would vary by noise."""
    totals = counts_of(500.0).reshape(CLASSES, -1)
    totals[:, :-1] += np.random.default_rng(7).normal(size=totals[:, :-1].shape) * 4.0
    totals[1, -1] = 12.0
    factors = estimate(totals.ravel(), noise_stddev=4.0)
    assert (factors[1] ** 2).sum() <= 0.1  # alone: noise of 4 over a count of .1
