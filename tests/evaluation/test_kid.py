"""KID against loops, against its expectation, and against torchmetrics on the same features."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.image.kid import KernelInceptionDistance

from secure_fed_diffusion.errors import DataError
from secure_fed_diffusion.evaluation import kid
from secure_fed_diffusion.evaluation.kid import KernelReference


def clouds(seed: int, *sizes: int, d: int = 5) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(0.3 * i, 1 + 0.1 * i, (n, d)) for i, n in enumerate(sizes)]


class Same(nn.Module):
    num_features = 5

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def torchmetrics_kid(real: np.ndarray, fake: np.ndarray, *, subsets: int, size: int) -> tuple[float, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric = KernelInceptionDistance(feature=Same(), subsets=subsets, subset_size=size)
    metric = metric.set_dtype(torch.float64)
    metric.update(torch.from_numpy(real), real=True)
    metric.update(torch.from_numpy(fake), real=False)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        mean, deviation = metric.compute()
    return float(mean), float(deviation)


def test_it_is_the_sum_over_all_pairs_of_different_images(monkeypatch):
    real, fake = clouds(0, 23, 31)
    monkeypatch.setattr(kid, "_BLOCK_ROWS", 7)

    def k(x, y):
        return (x @ y / 5 + 1) ** 3

    within = [[k(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j] for s in (real, fake)]
    across = [k(x, y) for x in real for y in fake]
    expected = np.mean(within[0]) + np.mean(within[1]) - 2 * np.mean(across)
    assert KernelReference(real).distance(fake) == pytest.approx(expected, rel=1e-10)


def test_on_sets_of_equal_size_it_is_what_torchmetrics_computes_of_the_whole_sets():
    real, fake = clouds(1, 120, 120)
    expected, deviation = torchmetrics_kid(real, fake, subsets=2, size=120)
    assert deviation < 1e-12
    assert KernelReference(real).distance(fake) == pytest.approx(expected, rel=1e-9)


def test_the_mean_over_many_subsets_tends_to_it():
    real, fake = clouds(2, 400, 300)
    mean, deviation = torchmetrics_kid(real, fake, subsets=400, size=100)
    # the subsets are fixed by a seed; five standard errors of their mean
    assert abs(KernelReference(real).distance(fake) - mean) < 5 * deviation / np.sqrt(400)


def test_it_has_no_bias_between_samples_of_one_distribution():
    # x·y of standard normals: the kernel has a finite variance, so the mean of 300 draws is normal enough
    found = []
    for seed in range(300):
        real, fake = np.random.default_rng(seed).standard_normal((2, 20, 5))
        found.append(KernelReference(real).distance(fake))
    error = np.std(found) / np.sqrt(len(found))
    assert abs(np.mean(found)) < 4.5 * error  # wrong once in 100,000
    assert min(found) < 0 < max(found)


def test_it_meets_its_expectation_between_two_points_masses():
    # all of X at 0, all of Y at y: 1 + (y²/d + 1)³ − 2
    real, fake = np.zeros((10, 1)), np.full((4, 1), 2.0)
    assert KernelReference(real).distance(fake) == pytest.approx(1 + 125 - 2)


def test_one_image_or_features_of_another_length_are_refused():
    real, fake = clouds(3, 10, 10)
    with pytest.raises(DataError, match="at least 2 images on each side, got 1"):
        KernelReference(real[:1])
    with pytest.raises(DataError, match="at least 2 images on each side, got 1"):
        KernelReference(real).distance(fake[:1])
    with pytest.raises(DataError, match=r"expected features \(m, 5\), got \(10, 4\)"):
        KernelReference(real).distance(fake[:, :4])
