"""Class means by one sum: exact without noise, of bounded sensitivity, and quiet about what is not there."""

from __future__ import annotations

import numpy as np
import pytest

from secure_fed_diffusion.data.datasets import ImageSet
from secure_fed_diffusion.dp.grid import IntegerGrid
from secure_fed_diffusion.federation.class_means import COUNT_SHARE, estimate_means, prototype_rows

CLASSES, SHAPE, PIXELS = 3, (1, 4, 4), 16
CLIP = 100.0  # far beyond any row: nothing is clipped unless a test wants it
LENGTH = CLASSES * PIXELS + CLASSES


def images_of(labels: list[int], seed: int = 0) -> ImageSet:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, size=(len(labels), *SHAPE), dtype=np.uint8)
    return ImageSet(pixels, np.array(labels, dtype=np.int64))


def estimate(totals: np.ndarray, noise_stddev: float = 0.0, clip_norm: float = CLIP) -> np.ndarray:
    return estimate_means(
        totals, n_classes=CLASSES, image_shape=SHAPE, clip_norm=clip_norm, noise_stddev=noise_stddev
    )


def totals_of(counts: list[float], mean: float | np.ndarray) -> np.ndarray:
    sums = np.array(counts)[:, None] * np.broadcast_to(mean, (CLASSES, PIXELS))
    return np.concatenate([sums.ravel(), COUNT_SHARE * CLIP * np.array(counts)])


def test_without_noise_the_sums_and_counts_give_the_class_means_back() -> None:
    images = images_of([0, 1, 1, 2, 2, 2, 0, 1])
    rows = prototype_rows(images, CLASSES, CLIP)
    assert rows.shape == (8, LENGTH)
    means = estimate(rows.sum(axis=0))
    for label in range(CLASSES):
        expected = images.images[images.labels == label].mean(axis=0) / 255
        np.testing.assert_allclose(means[label], expected, atol=1e-6)
    counts = rows.sum(axis=0)[CLASSES * PIXELS :] / (COUNT_SHARE * CLIP)
    assert counts.tolist() == [2, 3, 3]


def test_a_clip_and_the_grid_cost_no_more_than_their_own_step() -> None:
    images = images_of([0, 1, 1, 2, 2, 2, 0, 1])
    clip = 30.0
    grid = IntegerGrid.for_dimension(LENGTH, clip)
    total = grid.round(prototype_rows(images, CLASSES, clip)).sum(axis=0)
    means = estimate(grid.to_float(total), clip_norm=clip)
    for label in range(CLASSES):
        expected = images.images[images.labels == label].mean(axis=0) / 255
        np.testing.assert_allclose(means[label], expected, atol=2 / grid.scale)


def test_a_row_holds_one_class_and_nothing_of_the_others() -> None:
    images = images_of([1])
    sums = prototype_rows(images, CLASSES, CLIP)[0]
    assert not sums[:PIXELS].any()
    assert np.array_equal(sums[PIXELS : 2 * PIXELS], images.images.ravel() / 255)
    assert not sums[2 * PIXELS : 3 * PIXELS].any()
    assert sums[3 * PIXELS :].tolist() == [0, COUNT_SHARE * CLIP, 0]


@pytest.mark.parametrize("clip", [0.5, 2.0, 100.0])
def test_one_record_moves_the_sum_by_at_most_the_norm_bound(clip: float) -> None:
    images = images_of([0, 1, 2, 2, 0, 1, 1])
    grid = IntegerGrid.for_dimension(LENGTH, clip)

    def total(index: list[int]) -> np.ndarray:
        return grid.round(prototype_rows(images.subset(np.array(index)), CLASSES, clip)).sum(axis=0)

    everyone = list(range(7))
    for record in everyone:
        moved = total(everyone) - total([i for i in everyone if i != record])
        assert 0 < int((moved**2).sum()) <= grid.norm_bound**2
    if clip < 1:  # where the clip bites, the bound is used up
        assert int((moved**2).sum()) > 0.98 * grid.norm_bound**2


def test_no_records_sum_to_nothing() -> None:
    rows = prototype_rows(images_of([]), CLASSES, CLIP)
    assert rows.shape == (0, LENGTH)
    assert not rows.sum(axis=0).any()


def test_a_class_that_nobody_has_becomes_the_mean_of_the_others() -> None:
    images = images_of([0, 0, 2])
    means = estimate(prototype_rows(images, CLASSES, CLIP).sum(axis=0))
    assert np.isfinite(means).all()
    np.testing.assert_allclose(means[1], (means[0] + means[2]) / 2, atol=1e-6)


def test_a_count_that_noise_made_small_or_negative_is_taken_for_absent() -> None:
    for count in (0.9, 0.0, -3.0):
        means = estimate(totals_of([10, count, 10], 0.5))
        np.testing.assert_allclose(means, 0.5, atol=1e-6)


def test_where_no_class_is_left_the_means_are_black() -> None:
    means = estimate(totals_of([0.2, -1.0, 0.0], 0.5))
    assert means.shape == (CLASSES, *SHAPE)
    assert means.dtype == np.float32
    assert not means.any()


def test_pixels_below_their_own_noise_become_zero_and_the_others_stay() -> None:
    mean = np.tile(np.linspace(0.0, 1.0, PIXELS), (CLASSES, 1))
    means = estimate(totals_of([10, 20, 40], mean), noise_stddev=4.0).reshape(CLASSES, PIXELS)
    for label, count in enumerate([10, 20, 40]):
        floor = 4.0 / count
        kept = mean[label] >= floor
        assert not means[label][~kept].any()
        np.testing.assert_allclose(means[label][kept], mean[label][kept], atol=1e-6)
        assert 0 < kept.sum() < PIXELS


def test_means_stay_in_the_range_of_pixels() -> None:
    totals = totals_of([5, 5, 5], np.linspace(-1.0, 3.0, PIXELS))
    means = estimate(totals)
    assert float(means.min()) == 0.0
    assert float(means.max()) == 1.0
