from __future__ import annotations

import numpy as np
import pytest

from secure_fed_diffusion.audit.scores import Guesses, errors, guess, likelihood_ratios
from secure_fed_diffusion.errors import ConfigError
from tests.audit.simulated import MAGNITUDE, run


def test_a_score_is_the_log_likelihood_ratio_of_the_plan() -> None:
    seen = run(np.random.default_rng(1), n_canaries=300, n_rounds=30, rate=0.2)
    s = seen.sums / MAGNITUDE
    expected = np.log(0.8 + 0.2 * np.exp(s - 0.5)).sum(axis=0)
    found = likelihood_ratios(seen)
    assert np.median(np.abs(found - expected)) < 0.05  # the mixture's other factors weigh a thousandth each
    assert np.corrcoef(found, expected)[0, 1] > 0.99


def test_a_canary_that_could_be_in_no_round_has_no_evidence() -> None:
    seen = run(np.random.default_rng(2), n_canaries=20, n_rounds=3, rate=0.0)
    assert likelihood_ratios(seen) == pytest.approx(np.zeros(20))


def test_without_sampling_the_threshold_is_half_the_magnitude() -> None:
    seen = run(np.random.default_rng(3), n_canaries=500, rate=1.0)
    assert np.array_equal(likelihood_ratios(seen) > 0.0, seen.sums[0] > MAGNITUDE / 2)


def test_scores_tell_the_coins_apart_though_the_noise_is_half_of_the_plans() -> None:
    # Under the plan's own formula every one of these scores is far below 0.
    seen = run(np.random.default_rng(4), n_canaries=300, n_rounds=100, rate=0.1, noise_factor=0.5)
    found = errors(likelihood_ratios(seen), seen.included)
    assert found.false_positives / found.excluded < 0.2
    assert found.false_negatives / found.included < 0.25


def test_the_auditors_knowledge_of_the_samples_is_not_used() -> None:
    import dataclasses

    seen = run(np.random.default_rng(5), n_canaries=50, n_rounds=10, rate=0.3)
    blind = dataclasses.replace(seen, counts=np.zeros_like(seen.counts))
    assert np.array_equal(likelihood_ratios(seen), likelihood_ratios(blind))


def test_guesses_are_the_extremes_and_nothing_else() -> None:
    scores = np.array([5.0, 4.0, 0.0, 0.1, -3.0, -9.0])
    included = np.array([True, False, True, False, False, True])
    assert guess(scores, included, n_guesses=4) == Guesses(n_canaries=6, n_guesses=4, n_correct=2)
    assert guess(scores, included, n_guesses=1) == Guesses(n_canaries=6, n_guesses=1, n_correct=1)
    assert guess(scores, included, n_guesses=6).n_correct == 2
    with pytest.raises(ConfigError):
        guess(scores, included, n_guesses=7)


def test_guesses_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError):
        Guesses(n_canaries=10, n_guesses=5, n_correct=6)
