from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from secure_fed_diffusion.audit.client_canaries import (
    Normal,
    cosines,
    estimate_client_epsilon,
    normals_epsilon,
)
from secure_fed_diffusion.audit.tradeoff import gaussian_epsilon
from secure_fed_diffusion.errors import ConfigError

DELTA = 1e-5


@pytest.mark.parametrize("mu", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 50.0])
def test_two_normals_of_one_variance_are_the_gaussian_mechanism(mu: float, scale: float) -> None:
    found = normals_epsilon(Normal(0.0, scale), Normal(mu * scale, scale), DELTA)
    assert found == pytest.approx(gaussian_epsilon(mu, DELTA), rel=1e-6)


@pytest.mark.parametrize(
    ("one", "two"), [((0.0, 1.0), (0.7, 1.4)), ((0.3, 2.0), (0.0, 1.0)), ((0, 1), (0, 1.1))]
)
def test_two_normals_of_different_variances_agree_with_quadrature(
    one: tuple[float, float], two: tuple[float, float]
) -> None:
    found = normals_epsilon(Normal(*one), Normal(*two), 1e-3)
    x = np.linspace(-40.0, 40.0, 1_600_001)
    p, q = stats.norm.pdf(x, *one), stats.norm.pdf(x, *two)
    excess = [np.maximum(0.0, a - np.exp(found) * b).sum() * (x[1] - x[0]) for a, b in ((p, q), (q, p))]
    assert max(excess) == pytest.approx(1e-3, rel=1e-3)


def test_the_estimate_of_a_gaussian_mechanism_lies_near_its_epsilon() -> None:
    # 500 canary clients in 10,000 dimensions under noise of σ = 1: each is seen at μ = 1. (With 60, the
    # fitted variance alone makes the mean estimate 6.5: one reason why this is no bound.)
    rng = np.random.default_rng(51)
    estimates = []
    for _ in range(3):
        canaries = rng.normal(size=(500, 10_000))
        canaries /= np.linalg.norm(canaries, axis=1, keepdims=True)
        released = canaries.sum(axis=0) + rng.normal(size=10_000)
        estimates.append(estimate_client_epsilon(cosines(canaries, released), dimension=10_000, delta=DELTA))
    assert np.mean([each.epsilon for each in estimates]) == pytest.approx(
        gaussian_epsilon(1.0, DELTA), rel=0.25
    )
    assert "estimate" in estimates[0].auditor
    assert estimates[0].n_canaries == 500


def test_canaries_that_took_no_part_look_private() -> None:
    rng = np.random.default_rng(52)
    canaries, released = rng.normal(size=(400, 1000)), rng.normal(size=1000)
    found = estimate_client_epsilon(cosines(canaries, released), dimension=1000, delta=DELTA)
    assert found.epsilon < 2.0


def test_a_measured_null_replaces_the_theoretical_one() -> None:
    rng = np.random.default_rng(53)
    unobserved, observed = rng.normal(3.0, 0.1, size=4000), rng.normal(3.1, 0.1, size=4000)
    found = estimate_client_epsilon(observed, dimension=100, delta=DELTA, unobserved=unobserved)
    assert found.epsilon == pytest.approx(gaussian_epsilon(1.0, DELTA), rel=0.25)
    assert estimate_client_epsilon(observed, dimension=100, delta=DELTA).epsilon > 100.0


def test_a_released_zero_has_no_direction() -> None:
    assert cosines(np.ones((3, 4)), np.zeros(4)).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(("k", "dimension", "delta"), [(1, 10, 1e-5), (5, 0, 1e-5), (5, 10, 0.0)])
def test_what_cannot_be_estimated_is_refused(k: int, dimension: int, delta: float) -> None:
    with pytest.raises(ConfigError):
        estimate_client_epsilon(np.linspace(0.0, 0.5, k), dimension=dimension, delta=delta)
