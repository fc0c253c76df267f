from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn

from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.evaluation.fid import frechet_distance, frechet_inception_distance

D = 4


class Pixels(nn.Module):
    """The identity as an extractor: the features are the pixels."""

    name = "pixels"
    image_shape = (1, 2, 2)
    num_features = D

    def __init__(self):
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))  # tells the device

    def forward(self, images):
        return images.flatten(1)


def with_moments(rng, mean, covariance, n=500):
    """Draw a sample whose mean and (n − 1) covariance are exactly those asked for."""
    raw = rng.standard_normal((n, len(mean)))
    raw -= raw.mean(axis=0)
    whitened = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw.T))).T
    return whitened @ np.linalg.cholesky(covariance).T + mean


def spd(rng):
    factor = rng.standard_normal((D, D))
    return factor @ factor.T + np.eye(D)


@pytest.mark.parametrize("seed", range(5))
def test_it_equals_the_closed_form_between_two_gaussians(seed):
    rng = np.random.default_rng(seed)
    means, covariances = rng.standard_normal((2, D)), [spd(rng), spd(rng)]
    samples = [with_moments(rng, m, c) for m, c in zip(means, covariances, strict=True)]
    root = np.real(sqrtm(covariances[0] @ covariances[1]))
    expected = np.sum((means[0] - means[1]) ** 2) + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet_distance(*samples) == pytest.approx(expected, rel=1e-9)


def test_diagonal_gaussians_differ_by_the_squares_of_means_and_of_deviations():
    rng = np.random.default_rng(0)
    first = with_moments(rng, np.zeros(D), np.diag([1.0, 4.0, 9.0, 16.0]))
    second = with_moments(rng, np.array([1.0, 0, 0, 0]), np.eye(D))
    assert frechet_distance(first, second) == pytest.approx(1 + 0 + 1 + 4 + 9, rel=1e-9)


def test_a_difference_that_float32_would_lose_beside_a_large_mean_is_measured():
    rng = np.random.default_rng(0)
    first = with_moments(rng, np.full(D, 1e4), np.eye(D))
    second = with_moments(rng, np.full(D, 1e4), 1.21 * np.eye(D))
    assert frechet_distance(first, second) == pytest.approx(D * 0.1**2, rel=1e-4)


def test_equal_sets_are_at_distance_zero_in_any_order():
    images = np.random.default_rng(0).integers(0, 256, (100, 1, 2, 2)).astype(np.uint8)
    assert 0 <= frechet_inception_distance(Pixels(), images, images[::-1].copy()) < 1e-10


def test_pixels_reach_the_extractor_between_0_and_1_in_float64():
    black, white = (np.full((10, 1, 2, 2), level, dtype=np.uint8) for level in (0, 255))
    assert frechet_inception_distance(Pixels(), black, white) == pytest.approx(D, abs=1e-12)
    grey = np.full((10, 1, 2, 2), 1, dtype=np.uint8)
    assert frechet_inception_distance(Pixels(), black, grey) == pytest.approx(D / 255**2, rel=1e-9)


@pytest.mark.parametrize(("n_real", "n_fake", "kind"), [(D, 50, "real"), (50, D, "fake"), (50, 0, "fake")])
def test_no_more_images_than_features_are_refused(n_real, n_fake, kind):
    images = np.random.default_rng(0).integers(0, 256, (50, 1, 2, 2)).astype(np.uint8)
    with pytest.raises(ConfigError, match=f"needs more than {D} {kind} images"):
        frechet_inception_distance(Pixels(), images[:n_real], images[:n_fake])


def test_nothing_warns_and_the_global_random_state_stays():
    images = np.random.default_rng(0).integers(0, 256, (50, 1, 2, 2)).astype(np.uint8)
    before = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frechet_inception_distance(Pixels(), images, images)
    assert torch.equal(before, torch.get_rng_state())
