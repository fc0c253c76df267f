"""The benchmark of the noise measures what it says; no figure of speed is asserted here."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from secure_fed_diffusion.benchmarks import noise
from secure_fed_diffusion.errors import ConfigError


@pytest.fixture(scope="module")
def figures() -> dict:
    return noise.run(n_samples=20_000)


def test_every_width_has_its_rate_its_ratios_and_its_seconds(figures: dict) -> None:
    assert set(figures) == {"ratios", "samples_per_second", "seconds", "sizes", "repetitions"}
    widths = {f"{stddev:g}" for stddev in noise.STDDEVS}
    assert "834" in widths
    for part in ("ratios", "samples_per_second", "seconds", "sizes"):
        assert set(figures[part]) == widths
    for name in widths:
        assert set(figures["ratios"][name]) == {"ours_over_search", "ours_over_cipher"}
        assert set(figures["seconds"][name]) == {"ours", "search", "cipher", "table"}
        assert min(figures["seconds"][name].values()) > 0
        assert figures["samples_per_second"][name] == 20_000 / figures["seconds"][name]["ours"]


def test_the_sizes_say_how_many_draws_make_a_sample(figures: dict) -> None:
    assert "20000 samples, 1 draws" in figures["sizes"]["64"]
    assert "2 draws of stddev 69" in figures["sizes"]["834"]
    assert figures["repetitions"] == 5


def test_what_is_compared_draws_the_same_noise() -> None:
    """Both samplers' variances are the variance asked for, within 1e-9 false alarms."""
    draws, stddev = 200_000, 834.0
    actions = noise._actions(stddev, draws)
    for name in ("ours", "search"):
        sample = np.asarray(actions[name](), dtype=np.float64)
        assert sample.shape == (draws,)
        score = ((sample**2).mean() / stddev**2 - 1) / np.sqrt(2 / draws)
        assert abs(score) < stats.norm.isf(0.5e-9)
        assert abs(sample.mean()) / stddev * np.sqrt(draws) < stats.norm.isf(0.5e-9)


def test_fewer_than_five_repetitions_or_no_samples_are_refused() -> None:
    with pytest.raises(ConfigError, match="repetitions"):
        noise.run(repetitions=4)
    with pytest.raises(ConfigError, match="n_samples"):
        noise.run(n_samples=0)
