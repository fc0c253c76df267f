"""T21 and T21b ask about one record in sums of the real warm-up, under the noise that they name."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
from scipy.stats import norm

from secure_fed_diffusion.federation.class_covariances import covariance_sum
from threat_models.adversaries.curious_server import SumsAndRecords
from threat_models.claim import Arm, Counts, Staged
from threat_models.claims import t21_membership_in_class_means as t21
from threat_models.claims import t21b_membership_in_class_covariances as t21b
from threat_models.staging import one_record
from threat_models.staging.denoisers import N_CLASSES, SIDE, MlpDenoiser
from threat_models.staging.small_federation import (
    chosen_digits,
    digits,
    federation,
    in_unit_range,
    settings_for,
)

SEED, N_SUMS = 7, 4
BOTH = pytest.mark.parametrize("claimed", [t21, t21b], ids=["T21", "T21b"])


@pytest.fixture(autouse=True)
def _few_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(one_record, "COINS", N_SUMS)


def _left_over(staged: Staged[SumsAndRecords]) -> np.ndarray:
    """Return what is in each sum besides the known records and, where it is in, the candidate's copies."""
    view = staged.view
    return view.totals - view.others - view.copies * staged.truth[:, np.newaxis] * view.candidates


@BOTH
def test_without_noise_a_sum_is_the_known_records_and_the_candidate_where_it_is_in(
    claimed: ModuleType,
) -> None:
    staged = claimed.stage(Arm.OFF, SEED)
    assert 0 < staged.truth.sum() < N_SUMS  # both cases are there
    np.testing.assert_allclose(_left_over(staged), 0.0, atol=1e-9)
    assert claimed.CLAIM.judge(claimed.CLAIM.attack(staged.view), staged.truth) == Counts(N_SUMS, N_SUMS)


@BOTH
@pytest.mark.parametrize("arm", [Arm.ON, Arm.DROPPED])
def test_the_noise_in_a_sum_is_the_multiplier_times_the_clip(claimed: ModuleType, arm: Arm) -> None:
    """2600 draws and more: their standard deviation is off by 8 % with probability below 1e-7."""
    noise = _left_over(claimed.stage(arm, SEED))
    assert noise.size >= 2600
    assert noise.std() == pytest.approx(claimed.NOISE_MULTIPLIER * claimed.CLIP, rel=0.08)


@BOTH
def test_no_candidate_is_longer_than_the_clip_and_some_are_about_as_long(claimed: ModuleType) -> None:
    lengths = np.linalg.norm(claimed.stage(Arm.ON, SEED).view.candidates, axis=1)
    assert lengths.max() <= claimed.CLIP * (1 + 1 / 3000)  # a grid unit is that much longer: `dp.grid`
    assert lengths.max() > 0.8 * claimed.CLIP


@BOTH
def test_the_thresholds_lie_on_either_side_of_what_theory_says(claimed: ModuleType) -> None:
    best = norm.cdf(1 / (2 * claimed.NOISE_MULTIPLIER))
    assert best < claimed.CLAIM.threshold.fails - 0.1
    assert norm.cdf(0.8 * claimed.COPIES / (2 * claimed.NOISE_MULTIPLIER)) > claimed.CLAIM.threshold.succeeds
    assert "0.54" in claimed.CLAIM.statement
    assert best == pytest.approx(0.54, abs=0.011)


def test_the_clients_covariances_are_about_the_means_that_round_2_announces() -> None:
    settings = settings_for(
        "distributed",
        clients=2,
        rounds=1,
        warmup__draws=1,
        warmup__sampling_rate=1.0,
        warmup__covariances__draws=1,
        warmup__covariances__frequencies=t21b.FREQUENCIES,
    )
    images = [chosen_digits(200, c) for c in range(2)]
    staged = federation(settings, MlpDenoiser, images, seed=SEED, noise=0.0)
    np.testing.assert_array_equal(staged.announced(1), staged.weights)
    staged.server.apply(staged.run_round(1))
    announced = staged.announced(2).reshape(N_CLASSES, 1, SIDE, SIDE)
    pixels = np.concatenate([in_unit_range(part.images) for part in images])
    labels = np.concatenate([part.labels for part in images])
    exact = np.stack([pixels[labels == label].mean(axis=0) for label in range(N_CLASSES)])
    np.testing.assert_allclose(announced, exact, atol=0.05)  # every record was shortened a little
    grid = staged.release_of(2).grid
    about = [covariance_sum(images[0], means, t21b.FREQUENCIES, grid) for means in (announced, 0 * announced)]
    contribution = staged.contribution(0, 2)
    np.testing.assert_allclose(contribution, grid.to_float(about[0]), atol=1e-9)
    assert not np.allclose(contribution, grid.to_float(about[1]), atol=1.0)
    assert digits().image_shape == announced.shape[1:]
