from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from secure_fed_diffusion.errors import ConfigError
from tests.audit.simulated import run


def test_the_first_rounds_are_what_was_seen_so_far() -> None:
    seen = run(np.random.default_rng(1), n_canaries=7, n_rounds=5, rate=0.5)
    part = seen.upto(3)
    assert (part.n_rounds, part.n_canaries) == (3, 7)
    assert np.array_equal(part.sums, seen.sums[:3])
    assert np.array_equal(part.residuals(), seen.residuals()[:3])
    with pytest.raises(ConfigError):
        seen.upto(6)


def test_residuals_are_the_sums_without_the_canaries() -> None:
    seen = run(np.random.default_rng(2), n_canaries=50, n_rounds=4, rate=0.5, noise_factor=0.0)
    assert seen.sums.any()
    assert not seen.residuals().any()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sums", np.zeros((2, 3))),
        ("sums", np.zeros((0, 3), dtype=np.int64)),
        ("included", np.ones(4, dtype=bool)),
        ("counts", np.ones((2, 3), dtype=np.int64)),  # of canaries that are not included
        ("counts", -np.ones((2, 3), dtype=np.int64)),
        ("rates", np.full((2, 3), 1.5)),
        ("rates", np.full((3, 2), 0.5)),
        ("magnitudes", np.array([1, 5000])),
        ("magnitudes", np.array([0, 0])),
        ("noise_stddevs", np.array([1.0, 0.0])),
        ("noise_stddevs", np.array([1.0, np.nan])),
        ("sensitivities", np.array([1024.0])),
    ],
)
def test_what_does_not_fit_together_is_refused_by_name(name: str, value: Any) -> None:
    good = run(np.random.default_rng(3), n_canaries=3, n_rounds=2, included=np.zeros(3, dtype=bool))
    with pytest.raises(ConfigError, match=rf"observations\.{name}"):
        dataclasses.replace(good, **{name: value})
