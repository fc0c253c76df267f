"""The curves against closed forms: a curve too high would make bounds that are not bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from secure_fed_diffusion import dp
from secure_fed_diffusion.audit.tradeoff import GaussianFamily, NoiseLadder, gaussian_delta, gaussian_epsilon
from secure_fed_diffusion.errors import ConfigError
from tests.audit.simulated import run

GAUSSIAN = GaussianFamily()


@pytest.mark.parametrize(("mu", "epsilon"), [(1.0, 4.377), (0.5, 1.978), (2.0, 10.0)])
def test_epsilon_and_delta_of_the_gaussian_are_inverse(mu: float, epsilon: float) -> None:
    found = gaussian_epsilon(mu, 1e-5)
    assert gaussian_delta(mu, found) == pytest.approx(1e-5, rel=1e-6)
    assert found == pytest.approx(epsilon, rel=0.1)
    assert gaussian_epsilon(-mu, 1e-5) == gaussian_epsilon(0.0, 1e-5) == 0.0


@pytest.mark.parametrize("mu", [0.25, 1.0, 3.0])
def test_the_ladder_of_one_unsampled_round_lies_just_below_the_gaussian_curve(mu: float) -> None:
    ladder = NoiseLadder(rounds=((1.0, 1.0, 1),))
    for a in (0.01, 0.1, 0.3, 0.45, 0.7):
        exact = float(ndtr(ndtri(1.0 - a) - mu))
        found = ladder.false_negative(mu, a)
        assert exact - 0.04 <= found <= exact + 1e-9


def test_the_ladder_never_rejects_what_an_optimal_attack_on_its_own_rung_achieves() -> None:
    # One Poisson-sampled round: the likelihood ratio increases with s, so its tests are thresholds on s.
    rate, multiplier = 0.3, 0.7
    ladder = NoiseLadder(rounds=((multiplier, rate, 1),))
    for threshold in np.linspace(-2.0, 4.0, 61):
        a = float(ndtr(-threshold / multiplier))
        absent = float(ndtr(threshold / multiplier))
        b = (1 - rate) * absent + rate * float(ndtr((threshold - 1.0) / multiplier))
        assert not ladder.rejects(1.0, a, b)
        assert not ladder.rejects(1.0, b, a)
    a = b = (1.0 - rate * (2.0 * float(ndtr(0.5 / multiplier)) - 1.0)) / 2.0  # half of 1 − δ(0)
    assert ladder.rejects(1.0, a - 1e-3, b - 1e-3)


def test_epsilon_on_the_ladder_is_the_accountants() -> None:
    ladder = NoiseLadder(rounds=((2.0, 0.1, 10),))
    mechanism = dp.Mechanism(
        kind="central",
        unit="example",
        relation="add_remove",
        sampling_rate=0.1,
        sensitivity=1.0,
        share_stddev=0.0,
        server_stddev=1.0,
        min_survivors=1,
        integer=False,
        dimension=1,
    )
    expected = dp.epsilon({mechanism: 10}, delta=1e-5, view=dp.View(name="released_model"))
    assert ladder.epsilon(2.0, 1e-5) == expected


def test_the_search_finds_the_last_rejected_rung_on_either_side_of_the_plan() -> None:
    ladder = NoiseLadder(rounds=((1.0, 1.0, 1),))
    for limit in (0.04, 0.3, 0.99, 1.0, 1.7, 25.0):
        found = ladder.largest(lambda loss, limit=limit: loss <= limit)
        assert found is not None
        assert found <= limit < found * 1.007
    assert ladder.largest(lambda loss: False) is None
    assert ladder.largest(lambda loss: True) == pytest.approx(32.0)
    assert GAUSSIAN.largest(lambda loss: loss <= 0.5) == pytest.approx(0.5, rel=1e-6)
    assert GAUSSIAN.largest(lambda loss: False) is None


def test_the_ladder_of_a_canary_has_the_noise_and_the_rates_of_its_own_rounds() -> None:
    seen = run(np.random.default_rng(1), n_canaries=4, n_rounds=6, rate=0.25, multiplier=1.5)
    assert NoiseLadder.of(seen).rounds == ((1.5, 0.25, 6),)
    seen.rates[:2, 3], seen.counts[:2, 3] = 0.0, 0
    assert NoiseLadder.of(seen, 3).rounds == ((1.5, 0.25, 4),)
    with pytest.raises(ConfigError, match="rates"):
        NoiseLadder.of(run(np.random.default_rng(1), n_canaries=4, rate=0.0))


def test_a_bound_in_closed_form_agrees_with_the_ladder_in_one_unsampled_round() -> None:
    ladder = NoiseLadder(rounds=((1.0, 1.0, 1),))
    for a, b in ((0.35, 0.35), (0.2, 0.4), (0.3, 0.15)):
        loss = ladder.largest(lambda loss, a=a, b=b: ladder.rejects(loss, a, b))
        mu = float(-ndtri(a) - ndtri(b))
        assert loss is not None
        assert mu / 1.05 < loss <= mu * (1 + 1e-6)
        assert math.isclose(ladder.epsilon(loss, 1e-5), gaussian_epsilon(loss, 1e-5), rel_tol=1e-3)
