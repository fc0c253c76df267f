"""Replace-one: the dominating pair of docs/privacy.md, section 4, against quadrature and in the plane."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation
from dp_accounting.rdp import RdpAccountant
from scipy import stats

from secure_fed_diffusion.dp import View, calibrate, delta_curve, epsilon
from secure_fed_diffusion.errors import PrivacyError
from tests.dp import quadrature
from tests.dp.plans import MODEL, gaussian, shares
from tests.dp.test_accounting import exact_epsilon

Floats = npt.NDArray[np.float64]


SINGLE = [
    (multiplier, rate, value)
    for multiplier in (0.5, 1.0, 3.0)
    for rate in (0.01, 0.1, 0.5, 1.0)
    for value in (0.1, 0.7)
]


@pytest.mark.parametrize(("multiplier", "rate", "value"), SINGLE)
def test_one_step_is_the_quadrature_of_its_pair(multiplier: float, rate: float, value: float) -> None:
    exact = quadrature.one_step_delta(multiplier, rate, value)
    found = float(delta_curve(multiplier, rate, 1, [value], replace=True)[0])
    assert exact - 1e-9 <= found <= exact * (1 + 5e-4) + 1e-9


@pytest.mark.parametrize(
    ("multiplier", "rate", "steps"), [(1.0, 0.1, 8), (2.0, 0.3, 16), (0.8, 0.02, 32), (4.0, 1.0, 4)]
)
def test_composed_steps_are_the_convolution_of_their_privacy_losses(
    multiplier: float, rate: float, steps: int
) -> None:
    curve = quadrature.composed(multiplier, rate, steps)
    for value in (0.5, 2.0):
        found = float(delta_curve(multiplier, rate, steps, [value], replace=True)[0])
        assert found == pytest.approx(curve(value), rel=3e-3, abs=1e-9)


@pytest.mark.parametrize(("multiplier", "steps"), [(1.0, 1), (2.0, 1), (10.0, 12)])
def test_without_sampling_it_is_the_gaussian_at_twice_the_distance(multiplier: float, steps: int) -> None:
    exact = exact_epsilon(multiplier / 2, steps)
    found = epsilon({gaussian(multiplier, relation="replace_one"): steps}, delta=1e-5, view=MODEL)
    assert exact - 1e-6 <= found <= exact * (1 + 1e-3) + 1e-5


def test_the_reference_figure_that_dp_accountings_rdp_misses() -> None:
    """If dp_accounting mends its RDP, this test says so, and the refusal can go."""
    theirs = RdpAccountant(neighboring_relation=NeighboringRelation.REPLACE_ONE)
    theirs.compose(GaussianDpEvent(2.0))
    found = epsilon({gaussian(2.0, relation="replace_one"): 1}, delta=1e-5, view=MODEL)
    assert found == pytest.approx(4.38, abs=0.01)
    assert theirs.get_epsilon(1e-5) < 0.6 * found


def test_a_client_that_is_replaced_is_a_plain_gaussian_at_twice_the_distance() -> None:
    step = shares(8192.0, unit="client", relation="replace_one", sampling_rate=1.0)
    half = shares(8192.0, unit="client", relation="zero_out", sampling_rate=1.0, sensitivity=16384.0)
    view = View(name="sum", colluders=1)
    assert epsilon({step: 3}, delta=1e-5, view=view) == pytest.approx(
        epsilon({half: 3}, delta=1e-5, view=view), rel=1e-3
    )


def test_replacing_costs_more_than_adding_and_less_than_adding_and_removing() -> None:
    for multiplier, rate in ((1.0, 0.1), (2.0, 0.5), (0.7, 0.02)):
        one = epsilon({gaussian(multiplier, rate): 20}, delta=1e-5, view=MODEL)
        replaced = epsilon({gaussian(multiplier, rate, relation="replace_one"): 20}, delta=1e-5, view=MODEL)
        # two changes of one record each: ε doubles, δ grows to (1 + e^ε)·δ
        smaller = 1e-5 / (1 + math.exp(2 * one))
        twice = 2 * epsilon({gaussian(multiplier, rate): 20}, delta=max(smaller, 1e-10), view=MODEL)
        assert one < replaced < twice


def test_no_pair_of_vectors_costs_more_than_the_opposite_ones() -> None:
    """Kahane's inequality at work: δ of u against v, by quadrature in the plane that they span."""
    multiplier, rate = 0.9, 0.3
    points = np.linspace(-9.0, 9.0, 901)
    x, y = np.meshgrid(points, points)
    cell = (points[1] - points[0]) ** 2

    def density(place: tuple[float, float]) -> Floats:
        peak = 2 * math.pi * multiplier**2
        mixed: Floats = np.zeros_like(x)
        for weight, (a, b) in ((1 - rate, (0.0, 0.0)), (rate, place)):
            mixed += weight * np.exp(-((x - a) ** 2 + (y - b) ** 2) / (2 * multiplier**2)) / peak
        return mixed

    upper = density((1.0, 0.0))
    for value in (-0.2, 0.1, 0.5):
        worst = quadrature.one_step_delta(multiplier, rate, value)
        seen = []
        for length in (0.0, 0.5, 1.0):
            for angle in (0.0, math.pi / 3, 2 * math.pi / 3, math.pi):
                lower = density((length * math.cos(angle), length * math.sin(angle)))
                seen.append(float(np.maximum(upper - math.exp(value) * lower, 0.0).sum() * cell))
        assert seen[-1] == pytest.approx(worst, abs=1e-5)  # the opposite vector itself; the grid errs by 1e-6
        assert max(seen) == seen[-1]


def test_kahanes_inequality_holds_for_the_mixtures_that_the_proof_compares() -> None:
    """E[f(Σ p_i·exp(X_i − Var/2))] grows with the covariances, f convex; exact on a grid of normal scores."""
    scores = stats.norm.ppf((np.arange(1500) + 0.5) / 1500)
    g, h = np.meshgrid(scores, scores)
    weights, lengths, angle = (0.4, 0.6), (0.8, 1.7), 1.1
    first = lengths[0] * g
    apart = lengths[1] * (math.cos(angle) * g + math.sin(angle) * h)
    aligned = lengths[1] * g
    for threshold in (0.5, 1.0, 2.0):
        values = []
        for second in (apart, aligned):
            ratio = weights[0] * np.exp(first - lengths[0] ** 2 / 2)
            ratio += weights[1] * np.exp(second - lengths[1] ** 2 / 2)
            values.append(float(np.maximum(ratio - threshold, 0.0).mean()))
        assert values[0] < values[1]


def test_rdp_is_refused_for_replace_one_and_says_why() -> None:
    for relation_of in (gaussian(2.0, 0.1, relation="replace_one"), shares(relation="replace_one")):
        with pytest.raises(PrivacyError, match=r"RDP.*under-reports.*#378.*pld"):
            epsilon({relation_of: 1}, delta=1e-5, view=View(name="released_model"), accountant="rdp")


def test_noise_is_calibrated_to_replace_one_as_to_the_others() -> None:
    scales = {
        relation: calibrate(
            lambda scale, relation=relation: {gaussian(scale, 0.1, relation=relation): 60},  # type: ignore[misc]
            target_epsilon=2.0,
            delta=1e-5,
            view=MODEL,
        )
        for relation in ("add_remove", "replace_one")
    }
    assert 1.5 < scales["replace_one"] / scales["add_remove"] < 2.5


def test_the_two_relations_have_no_common_epsilon() -> None:
    with pytest.raises(PrivacyError, match="relations"):
        epsilon({gaussian(1.0): 1, gaussian(1.0, relation="replace_one"): 1}, delta=1e-5, view=MODEL)
