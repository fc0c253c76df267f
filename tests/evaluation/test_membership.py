"""The statistics against closed forms and scikit-learn, the scores against denoisers known in advance."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid
from scipy.stats import binom, binomtest, norm
from sklearn import metrics
from torch import nn

from secure_fed_diffusion.data.datasets import ImageSet
from secure_fed_diffusion.diffusion.objective import DiffusionSettings, Objective
from secure_fed_diffusion.errors import DataError
from secure_fed_diffusion.evaluation.intervals import clopper_pearson, effective_size
from secure_fed_diffusion.evaluation.membership import (
    ATTACKS,
    SIMA_TIMESTEP,
    Guarantee,
    auc,
    auc_interval,
    loss_scores,
    loss_timesteps,
    membership_figures,
    roc_curve,
    sima_scores,
    tpr_at_fpr,
)


def guarantee(epsilon: float, delta: float = 0.0, unit: str = "example") -> Guarantee:
    return Guarantee(epsilon=epsilon, delta=delta, unit=unit, view="released_model")


def with_ties(seed: int, m: int = 70, n: int = 45) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(0.6, 1, m).round(1), rng.normal(0, 1, n).round(1)


def labelled(members: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.repeat([1, 0], [len(members), len(others)]), np.concatenate([members, others])


@pytest.mark.parametrize("seed", range(5))
def test_auc_and_roc_curve_are_scikit_learns_with_ties(seed):
    members, others = with_ties(seed)
    truth, scores = labelled(members, others)
    assert auc(members, others) == pytest.approx(metrics.roc_auc_score(truth, scores), abs=1e-12)
    fpr, tpr = roc_curve(members, others)
    assert metrics.auc(fpr, tpr) == pytest.approx(auc(members, others), abs=1e-12)
    all_fpr, all_tpr, _ = metrics.roc_curve(truth, scores, drop_intermediate=False)
    assert {*zip(fpr.round(9), tpr.round(9), strict=True)} <= {
        *zip(all_fpr.round(9), all_tpr.round(9), strict=True)
    }
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_rate_at_a_small_false_positive_rate_is_the_best_point_of_scikit_learns_curve(seed, rate):
    members, others = with_ties(seed)
    fpr, tpr, _ = metrics.roc_curve(*labelled(members, others), drop_intermediate=False)
    point = tpr_at_fpr(members, others, rate)
    assert point["tpr"] == pytest.approx(tpr[fpr <= rate + 1e-9].max())
    assert point["false_positives"] <= rate * len(others) + 1e-9
    low, high = point["tpr_interval"]
    assert low <= point["tpr"] <= high


def test_the_auc_of_two_gaussians_is_the_closed_form():
    rng = np.random.default_rng(1)
    members, others = rng.normal(1, 1, 40_000), rng.normal(0, 1, 40_000)
    truth = norm.cdf(1 / math.sqrt(2))
    assert abs(auc(members, others) - truth) < 0.008  # 5 standard deviations: wrong once in 2 million
    low, high = auc_interval(members, others)
    # DeLong's variance, in closed form for two Gaussians: (P[two members above one] − AUC²) / m, twice
    shared = norm.cdf(1 / math.sqrt(2)) - 2 * _owen(1 / math.sqrt(2), 1 / math.sqrt(3))
    stddev = math.sqrt(2 * (shared - truth**2) / 40_000)
    assert (high - low) / (2 * 1.96 * stddev) == pytest.approx(1, abs=0.02)


def _owen(h: float, a: float) -> float:
    from scipy.special import owens_t

    return float(owens_t(h, a))


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.5])
def test_the_interval_of_the_auc_covers_it(shift):
    rng = np.random.default_rng(7)
    truth, trials, held = norm.cdf(shift / math.sqrt(2)), 400, 0
    for _ in range(trials):
        low, high = auc_interval(rng.normal(shift, 1, 60), rng.normal(0, 1, 40))
        held += low <= truth <= high
    # with a true coverage of 93.5 % or more, fewer than 352 come up with probability 1e-5
    assert binom.cdf(351, trials, 0.935) < 2e-5
    assert held >= 352
    assert held < trials  # an interval that is always right is no 95 % interval


def test_full_separation_and_full_ties_do_not_make_the_interval_a_point():
    assert auc_interval(np.arange(10.0) + 100, np.arange(30.0)) == pytest.approx((0.025 ** (1 / 10), 1.0))
    assert auc_interval(np.arange(10.0), np.arange(30.0) + 100) == pytest.approx((0.0, 1 - 0.025 ** (1 / 10)))
    low, high = auc_interval(np.zeros(20), np.zeros(20))
    assert low < 0.3
    assert high > 0.7


def test_scores_that_are_no_numbers_or_too_few_are_refused():
    with pytest.raises(DataError, match="not finite"):
        auc(np.array([1.0, np.nan]), np.array([0.0, 1.0]))
    with pytest.raises(DataError, match="at least 2 members"):
        auc(np.array([1.0]), np.array([0.0, 1.0]))


@pytest.mark.parametrize(("hits", "trials"), [(0, 12), (12, 12), (3, 300), (150, 300)])
def test_the_interval_of_a_share_is_clopper_and_pearsons(hits, trials):
    exact = binomtest(hits, trials).proportion_ci(0.95, method="exact")
    assert clopper_pearson(hits, trials) == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_clusters_count_as_fewer_trials():
    assert effective_size(np.ones(40, dtype=int)) == 40
    assert effective_size(np.full(10, 4)) == pytest.approx(10)
    assert effective_size(np.array([40])) == 1
    with pytest.raises(DataError):
        clopper_pearson(3, 2)


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0, 4.0, 9.74])
def test_without_delta_the_bound_on_the_auc_is_the_logistic_of_epsilon(epsilon):
    assert guarantee(epsilon).auc_bound() == pytest.approx(1 / (1 + math.exp(-epsilon)), abs=1e-12)


@pytest.mark.parametrize(("epsilon", "delta"), [(0.0, 0.1), (1.0, 1e-5), (1.0, 0.2), (3.0, 0.01), (800, 0.0)])
def test_the_bound_on_the_auc_is_the_area_under_the_bound_on_the_roc_curve(epsilon, delta):
    fpr = np.linspace(0, 1, 400_001)
    area = trapezoid(guarantee(epsilon, delta).tpr_bound(fpr), fpr)
    assert guarantee(epsilon, delta).auc_bound() == pytest.approx(area, abs=3e-6)


@pytest.mark.parametrize(("epsilon", "delta"), [(0.3, 0.0), (1.0, 0.05), (2.0, 1e-3)])
def test_the_mechanism_that_leaks_all_that_epsilon_and_delta_allow_lies_on_the_bound(epsilon, delta):
    # Kairouz, Oh, Viswanath 2015: four outcomes; without the record, and with it
    e = math.exp(epsilon)
    absent = np.array([delta, (1 - delta) * e / (1 + e), (1 - delta) / (1 + e), 0.0])
    present = absent[::-1]
    fpr, tpr = np.cumsum(absent[::-1]), np.cumsum(present[::-1])  # the likeliest-if-present outcome first
    assert guarantee(epsilon, delta).tpr_bound(fpr) == pytest.approx(np.minimum(tpr, 1), abs=1e-12)


@pytest.mark.parametrize("epsilon", [0.2, 1.0, 3.0])
def test_the_best_test_against_a_gaussian_mechanism_touches_the_bound_and_never_crosses_it(epsilon):
    mu = 1.2
    delta = norm.cdf(-epsilon / mu + mu / 2) - math.exp(epsilon) * norm.cdf(-epsilon / mu - mu / 2)
    fpr = np.linspace(1e-6, 1 - 1e-6, 200_001)
    gap = guarantee(epsilon, delta).tpr_bound(fpr) - norm.cdf(norm.ppf(fpr) + mu)
    assert gap.min() > -1e-9
    assert gap.min() < 1e-6


def test_a_guarantee_for_a_client_bounds_one_of_its_images_by_two_steps():
    assert guarantee(1.5, 1e-5).for_one_image() == (1.5, 1e-5)
    epsilon, delta = guarantee(1.5, 1e-5, unit="client").for_one_image()
    assert epsilon == 3.0
    assert delta == pytest.approx((1 + math.exp(1.5)) * 1e-5)
    assert guarantee(1.5, 1e-5, unit="client").auc_bound() > guarantee(1.5, 1e-5).auc_bound()


class Known(nn.Module):
    """A denoiser whose output is a multiple of its input; it remembers the timesteps."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))
        self.seen: list[int] = []

    def forward(self, x, t, class_labels, return_dict):
        assert len(x) == len(t) == len(class_labels)
        assert not return_dict
        self.seen += t.tolist()
        return (self.factor * x,)


def some_images(n: int = 7) -> ImageSet:
    rng = np.random.default_rng(3)
    return ImageSet(rng.integers(0, 256, (n, 1, 4, 4)).astype(np.uint8), np.arange(n) % 3)


def test_sima_is_the_fourth_power_norm_of_the_noise_predicted_at_the_clean_image():
    records = some_images()
    x = records.images.astype(np.float64).reshape(7, -1) / 127.5 - 1
    for prediction in ("epsilon", "v"):
        settings = DiffusionSettings(prediction=prediction, timesteps=100)
        model = Known(0.7)
        found = sima_scores(model, Objective(settings), records, patch=2)
        assert model.seen == [round(SIMA_TIMESTEP * 100)] * 7  # one query an image
        a, s = (float(v[4]) for v in (Objective(settings)._signal, Objective(settings)._noise))
        factor = 0.7 if prediction == "epsilon" else a * 0.7 + s
        assert found == pytest.approx(-((factor * x) ** 4).sum(axis=1), rel=1e-5)


def test_the_loss_score_averages_small_timesteps_with_noise_that_all_images_share():
    settings = DiffusionSettings(timesteps=1000)
    assert loss_timesteps(settings) == (5, 10, 15, 20, 25, 30, 35, 40)
    assert loss_timesteps(DiffusionSettings(timesteps=50)) == (0, 1, 2)
    model, records = Known(0.0), some_images()
    before = torch.get_rng_state()
    found = loss_scores(model, Objective(settings), records, patch=1)
    assert torch.equal(before, torch.get_rng_state())
    assert set(model.seen) == set(loss_timesteps(settings))
    assert found == pytest.approx(-np.ones(7), abs=0.35)  # a denoiser that says 0 errs by about the noise
    twice = ImageSet(np.repeat(records.images[:1], 2, axis=0), np.array([0, 0]))
    same = loss_scores(model, Objective(settings), twice, patch=1)
    assert same[0] == pytest.approx(same[1], abs=1e-12)
    assert same[0] == pytest.approx(found[0], abs=1e-6)


class Remembering(nn.Module):
    """A denoiser that takes every input for one image under noise: v-prediction."""

    def __init__(self, settings: DiffusionSettings, image: torch.Tensor) -> None:
        super().__init__()
        self.image = nn.Parameter(image)
        self.objective = Objective(settings)

    def forward(self, x, t, class_labels, return_dict):
        a, s = (c[t].view(-1, 1, 1, 1) for c in (self.objective._signal, self.objective._noise))
        return (a * (x - a * self.image) / s - s * self.image,)


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_a_denoiser_that_knows_one_image_gives_that_one_away(name):
    settings, records = DiffusionSettings(), some_images()
    known = torch.from_numpy(records.images[3:4]).float() / 127.5 - 1
    scores = ATTACKS[name](Remembering(settings, known), Objective(settings), records, patch=1)
    assert scores.argmax() == 3
    assert scores[3] == pytest.approx(0, abs=1e-2)
    assert np.delete(scores, 3).max() < -1


@pytest.mark.parametrize("name", sorted(ATTACKS))
def test_a_score_depends_on_no_other_image_and_the_model_is_left_as_it_was(name, monkeypatch):
    model, records = Known(0.4).train(), some_images()
    whole = ATTACKS[name](model, Objective(DiffusionSettings()), records, patch=1)
    monkeypatch.setattr("secure_fed_diffusion.evaluation.membership._BATCH", 2)
    pieces = ATTACKS[name](model, Objective(DiffusionSettings()), records.subset([5, 2, 6]), patch=1)
    assert pieces == pytest.approx(whole[[5, 2, 6]], rel=1e-5)
    assert model.training
    assert model.factor.grad is None


def test_the_figures_of_an_attack_hold_together():
    rng = np.random.default_rng(2)
    members, others = rng.normal(1, 1, 300), rng.normal(0, 1, 200)
    figures = membership_figures(members, others)
    assert (figures["members"], figures["non_members"]) == (300, 200)
    assert figures["auc_interval"][0] < figures["auc"] < figures["auc_interval"][1]
    assert [point["false_positives"] for point in figures["tpr_at_fpr"]] == [2, 0]
    curve = SimpleNamespace(**figures["roc"])
    assert metrics.auc(curve.fpr, curve.tpr) == pytest.approx(figures["auc"], abs=1e-5)
