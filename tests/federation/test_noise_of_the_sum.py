"""The noise that reaches the sum has the variance that the accountant was told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import chi2

from secure_fed_diffusion.dp.mechanism import INNER_STDDEV
from secure_fed_diffusion.entropy import Entropy
from secure_fed_diffusion.federation import server
from secure_fed_diffusion.federation.contribution import Contributor
from secure_fed_diffusion.federation.release import draw_noise
from secure_fed_diffusion.federation.rounds import run_rounds
from tests.federation.small import federation, seeded, settings_for

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


@pytest.mark.parametrize("masked", [True, False])
def test_the_trusted_server_s_noise_is_in_the_sum_before_the_ring_reduces_it(
    monkeypatch: pytest.MonkeyPatch, masked: bool
) -> None:
    """A false declaration lets a sum wrap around; one record more may then move it by no more than before."""

    def released(value: int) -> np.ndarray:
        it = federation(settings_for("central", f"federation.masked={str(masked).lower()}"))
        release = it.plan.releases["prototypes"]
        edge = (1 << (release.modulus_bits - 1)) - 1  # the largest sum that is read as positive

        def vector(self: Contributor, *_: Any, **__: Any) -> np.ndarray:
            return np.full(release.length, edge + value if self.client_id == 0 else 0, dtype=np.uint64)

        def same_noise(stddev: float, length: int, _: Entropy) -> np.ndarray:
            return draw_noise(stddev, length, seeded("server"))

        monkeypatch.setattr(Contributor, "vector", vector)
        monkeypatch.setattr(server, "draw_noise", same_noise)
        total: np.ndarray = next(
            run_rounds(it.plan, it.server, it.engine, it.book, first=1, note=print)
        ).total
        return total

    moved = released(1) - released(0)
    assert (moved == 1).mean() > 0.98  # elsewhere the noise itself ends at the edge


def test_noise_is_drawn_afresh_for_a_retry() -> None:
    it = federation(settings_for("distributed"), seed="retry")
    twin = federation(settings_for("distributed"), seed="retry")
    release = it.plan.releases["prototypes"]
    weights = np.zeros(it.plan.dimension, dtype=np.float32)
    one = it.contributors[0].vector(release, weights, number=1, attempt=0)
    two = twin.contributors[0].vector(release, weights, number=1, attempt=0)
    assert (one != two).mean() > 0.9  # the same coins, and yet other noise
