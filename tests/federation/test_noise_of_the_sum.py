"""The noise that reaches the sum has the variance that the accountant was told."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2

from secure_fed_diffusion.dp.mechanism import INNER_STDDEV
from secure_fed_diffusion.federation.rounds import run_rounds
from tests.federation.small import federation, settings_for

ERROR = 1e-9  # probability that a correct run fails one of these tests, two-sided


def assert_variance(noise: np.ndarray, variance: float) -> None:
    """Compare with chi-square; a discrete Gaussian this wide has the variance of the continuous one."""
    statistic = float((noise.astype(np.float64) ** 2).sum()) / variance
    low, high = chi2.ppf([ERROR / 2, 1 - ERROR / 2], len(noise))
    assert low < statistic < high


@pytest.mark.parametrize("mode", ["distributed", "central", "client"])
def test_the_released_sum_carries_what_the_plan_says(mode: str) -> None:
    seeds = {"seed": "noise"}
    settings = settings_for(mode, "warmup.covariances.draws=1")
    noisy, exact = federation(settings, **seeds), federation(settings, noise=False, **seeds)
    for number, name in enumerate(("prototypes", "covariances"), start=1):
        first, silent = (
            next(run_rounds(f.plan, f.server, f.engine, f.book, first=number, note=print))
            for f in (noisy, exact)
        )
        mechanism = noisy.plan.releases[name].mechanism
        shares = 1 if mode == "central" else len(first.survivors)
        assert_variance(first.total - silent.total, shares * mechanism.draw_stddev**2)
        exact.server.apply(first.total)  # both are shown the same means
        noisy.server.apply(first.total)


def test_honest_survivors_alone_already_carry_the_guard_s_noise() -> None:
    plan = federation(settings_for("distributed")).plan
    for release in plan.releases.values():
        honest = plan.federation.min_survivors - plan.federation.colluders
        variance = honest * release.mechanism.share_stddev**2 - INNER_STDDEV**2
        told = release.mechanism.noise_multiplier(plan.guard)
        assert np.sqrt(variance) / release.grid.norm_bound == pytest.approx(told, rel=1e-9)


def test_noise_is_drawn_afresh_for_a_retry() -> None:
    it = federation(settings_for("distributed"), seed="retry")
    twin = federation(settings_for("distributed"), seed="retry")
    release = it.plan.releases["prototypes"]
    weights = np.zeros(it.plan.dimension, dtype=np.float32)
    one = it.contributors[0].vector(release, weights, number=1, attempt=0)
    two = twin.contributors[0].vector(release, weights, number=1, attempt=0)
    assert (one != two).mean() > 0.9  # the same coins, and yet other noise
