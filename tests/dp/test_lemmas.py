"""The lemmas of docs/privacy.md at sizes where their error terms are large enough to be seen.

Each test compares the exact log-ratio with the bound that the code computes; where averaging does not
hide the lattice, it also asks that the ratio come near the bound, so that the test could fail.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from secure_fed_diffusion.dp.noise import log_lattice_loss

Masses = npt.NDArray[np.float64]
_VALUES = np.arange(-60, 61)


def discrete(stddev: float, centre: float = 0.0) -> Masses:
    masses = np.exp(-((_VALUES - centre) ** 2) / (2.0 * stddev**2))
    return masses / masses.sum()


def largest_log_ratio(left: Masses, right: Masses) -> float:
    seen = right > 1e-20  # where the sums and the quadrature above still have their digits
    return float(np.abs(np.log(left[seen] / right[seen])).max())


@pytest.mark.parametrize("stddev", [0.55, 0.7, 0.9])
@pytest.mark.parametrize("shares", [2, 3, 5])
def test_lemma_a_a_sum_of_shares_is_nearly_one_discrete_gaussian(stddev: float, shares: int) -> None:
    total = discrete(stddev)
    for _ in range(shares - 1):
        total = np.convolve(total, discrete(stddev), mode="same")
    bound = sum(math.exp(log_lattice_loss(stddev**2 * k / (k + 1))) for k in range(1, shares))
    ratio = largest_log_ratio(total, discrete(stddev * math.sqrt(shares)))
    assert ratio <= bound <= (shares - 1) * math.exp(log_lattice_loss(stddev**2 / 2))
    assert shares > 2 or ratio > bound / 5  # a third share averages the parity of two away
    assert shares > 2 or ratio > shares * math.exp(log_lattice_loss(stddev**2))  # which is no bound


@pytest.mark.parametrize(
    ("inner", "outer", "centre"), [(0.45, 0.64, 0), (0.45, 1.5, 2), (0.5, 2.0, 3), (0.6, 1.2, -1)]
)
def test_lemma_b_rounding_a_continuous_gaussian_is_nearly_a_discrete_one(
    inner: float, outer: float, centre: int
) -> None:
    spread = math.sqrt(outer**2 - inner**2)
    points = np.linspace(centre - 12 * spread, centre + 12 * spread, 6001)  # trapezia: exact to 1e-14 here
    density = np.exp(-((points - centre) ** 2) / (2 * spread**2)) * (points[1] - points[0])
    density /= spread * math.sqrt(2 * math.pi)
    kernel = np.exp(-((_VALUES[:, None] - points[None, :]) ** 2) / (2 * inner**2))
    kernel /= kernel.sum(axis=0, keepdims=True)
    bound = math.exp(log_lattice_loss(inner**2))
    ratio = largest_log_ratio(kernel @ density, discrete(outer, centre))
    assert ratio <= bound
    assert outer > 1 or ratio > bound / 50  # a wide outer Gaussian averages the lattice away


@pytest.mark.parametrize(("stddev", "step"), [(1.2, 2), (1.6, 3), (2.1, 4)])
def test_integer_multiples_of_narrow_draws_are_nearly_one_wide_draw(stddev: float, step: int) -> None:
    stretched = np.zeros(len(_VALUES))
    stretched[_VALUES % step == 0] = discrete(stddev)[60 - 60 // step : 61 + 60 // step]
    wide = np.convolve(discrete(stddev), stretched, mode="same")
    bound = math.exp(log_lattice_loss(stddev**2 / (1 + step**2)))
    ratio = largest_log_ratio(wide, discrete(stddev * math.sqrt(1 + step**2)))
    assert bound / 5 < ratio <= bound


@pytest.mark.parametrize("variance", [0.3, 0.5, 1.0, 4.0])
def test_the_bound_is_twice_the_inverse_hyperbolic_tangent_from_above(variance: float) -> None:
    e = 2 * math.exp(-2 * math.pi**2 * variance)
    exact = math.log(2 * math.atanh(e))
    assert exact <= log_lattice_loss(variance) < exact + 0.01


def test_no_size_makes_the_bound_vanish_or_overflow() -> None:
    assert log_lattice_loss(1e6) == pytest.approx(-2 * math.pi**2 * 1e6, rel=1e-6)
    assert log_lattice_loss(0.01) == math.inf


def test_why_one_dimension_is_not_enough() -> None:
    """At σ = 1.5 a shift by (1, 1, 1, 1) costs more than the shift by 2 of the same length."""
    epsilon, stddev = 2.0, 1.5
    here, there = discrete(stddev), discrete(stddev, 1.0)
    keep = here > 1e-14
    masses, losses = np.ones(1), np.zeros(1)
    for _ in range(4):  # losses lie on a lattice: merge equal ones
        losses = (losses[:, None] + np.log(here[keep] / there[keep])[None, :]).round(9).ravel()
        masses = (masses[:, None] * here[keep][None, :]).ravel()
        losses, place = np.unique(losses, return_inverse=True)
        masses = np.bincount(place, weights=masses)
    spread_out = float((masses * np.maximum(0.0, -np.expm1(epsilon - losses))).sum())
    at_once = float(np.maximum(0.0, here - math.exp(epsilon) * discrete(stddev, 2.0)).sum())
    assert spread_out == pytest.approx(0.0922, abs=1e-4)
    assert at_once == pytest.approx(0.0896, abs=1e-4)
