"""Statistical tests here fail a correct sampler with a probability below 1e-9 each."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from secure_fed_diffusion.dp import View, discrete_gaussian, log_sampling_distance, noise, poisson_sample
from secure_fed_diffusion.entropy import Keystream, system
from secure_fed_diffusion.errors import ConfigError
from tests.dp.plans import shares

_FALSE_ALARM = 1e-9


def pmf(stddev: float, reach: float = 14.0) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return the support of N_Z(0, stddev²), cut at `reach` standard deviations, and its masses."""
    bound = math.ceil(reach * stddev)
    values = np.arange(-bound, bound + 1)
    masses = np.exp(-(values**2) / (2.0 * stddev**2))
    return values, masses / masses.sum()


@pytest.mark.parametrize(("stddev", "draws"), [(8.0, 400_000), (64.0, 1_000_000), (834.0, 2_000_000)])
def test_draws_follow_the_exact_mass_function(stddev: float, draws: int) -> None:
    sample = discrete_gaussian(stddev, draws)
    values, masses = pmf(stddev)
    assert abs(sample).max() <= values[-1]
    counts = np.bincount(sample + values[-1], minlength=len(values))
    bins = np.minimum((np.cumsum(masses) * draws / 50.0).astype(int), int(draws / 50.0) - 1)  # 50 draws a bin
    expected = np.bincount(bins, weights=masses * draws)
    observed = np.bincount(bins, weights=counts)
    filled = expected > 20
    statistic = ((observed - expected)[filled] ** 2 / expected[filled]).sum()
    assert stats.chi2.sf(statistic, filled.sum() - 1) > _FALSE_ALARM


@pytest.mark.parametrize("stddev", [1.0, 8.0, 64.0, 834.0, 10_848.0, 1e6])
def test_moments_are_those_of_the_discrete_gaussian(stddev: float) -> None:
    draws = 400_000
    sample = discrete_gaussian(stddev, draws) / stddev
    limit = stats.norm.isf(_FALSE_ALARM / 2)
    assert abs(sample.mean()) * math.sqrt(draws) < limit
    assert abs((sample**2).mean() - 1.0) / math.sqrt(2.0 / draws) < limit
    assert abs((sample**3).mean()) / math.sqrt(15.0 / draws) < limit
    assert abs((sample**4).mean() - 3.0) / math.sqrt(96.0 / draws) < limit


def test_a_sum_of_shares_has_the_variance_that_the_accountant_is_told() -> None:
    step = shares(40.0, sensitivity=64.0, min_survivors=5)
    draws, colluders = 400_000, 2
    view = View(name="sum", colluders=colluders)
    total = sum(discrete_gaussian(step.share_stddev, draws) for _ in range(step.min_survivors - colluders))
    told = (step.noise_multiplier(view) * step.sensitivity) ** 2 + 4.0**2
    ratio = float(np.mean(np.square(total))) / told
    assert abs(ratio - 1.0) / math.sqrt(2.0 / draws) < stats.norm.isf(_FALSE_ALARM / 2)


def test_neighbouring_draws_are_uncorrelated() -> None:
    sample = discrete_gaussian(834.0, 400_000) / 834.0
    limit = stats.norm.isf(_FALSE_ALARM / 2) / math.sqrt(len(sample))
    for lag in (1, 2, 1 << 16):
        assert abs((sample[:-lag] * sample[lag:]).mean()) < limit * 1.2


@pytest.mark.parametrize("stddev", [1.0, 7.3, 110.0, 110.5, 300.0, 834.0, 2000.0, 1e5, 1e9, 2.0**40])
def test_the_convolution_is_wide_enough_and_smooth_enough(stddev: float) -> None:
    plan = noise._plan(stddev)
    variance = plan.stddev**2 * sum(plan.step ** (2 * term) for term in range(plan.terms))
    assert stddev**2 * (1 - 1e-15) <= variance <= stddev**2 * (1 + 1e-12)
    assert plan.terms == 1 or plan.stddev / math.sqrt(1 + plan.step**2) >= 4.9
    assert noise.log_convolution_loss(stddev) < -490
    assert -710 < log_sampling_distance(stddev) < -690


@pytest.mark.parametrize("stddev", [1.0, 8.0, 20.0])
def test_thresholds_err_by_less_than_the_two_units_that_are_charged(stddev: float) -> None:
    """Against the mass function in exact rationals of exp() at 400 digits, each value by itself."""
    table = noise._table(stddev)
    with localcontext() as context:
        context.prec = 400
        masses = [(-(x * x) / (2 * Decimal(stddev) ** 2)).exp() for x in map(Decimal, range(table.bound + 1))]
        total = 2 * sum(masses) - masses[0]
        cumulative = Decimal(0)
        for x, threshold in zip(range(-table.bound, table.bound), table.thresholds, strict=True):
            cumulative += masses[abs(x)]
            assert -1 < threshold - cumulative / total * (1 << 1024) < Decimal("1e-9")


def test_the_tail_beyond_the_table_weighs_what_is_charged() -> None:
    for stddev in (1.0, 8.0, 834.0):
        plan = noise._plan(stddev)
        beyond = float(stats.norm.logsf(noise._bound(plan.stddev) / plan.stddev))
        assert math.log(2 * plan.terms) + beyond < log_sampling_distance(stddev)


def test_the_guide_agrees_with_the_thresholds() -> None:
    table = noise._table(8.0)
    for word in [*range(0, 1 << 16, 997), (1 << 16) - 1]:
        low = sum(threshold <= word << 1008 for threshold in table.thresholds) - table.bound
        high = sum(threshold < (word + 1) << 1008 for threshold in table.thresholds) - table.bound
        assert table.guide[word] == (low if low == high else noise._OPEN)


class _Scripted:
    """A stream that deals prepared words, to reach what happens once in 10^15 draws."""

    def __init__(self, head: int, rest: int) -> None:
        self.fills = [head >> 48, (head & ((1 << 48) - 1)) << 16]
        self.rest = rest

    def fill(self, out: npt.NDArray[Any]) -> None:
        out[:] = self.fills.pop(0)

    def read(self, n_bytes: int) -> bytes:
        return self.rest.to_bytes(n_bytes, "little")


@pytest.mark.parametrize("place", [9, 150, 155, 290])
def test_a_draw_that_ties_with_a_threshold_is_decided_by_further_bits(place: int) -> None:
    table = noise._table(8.0)
    threshold = table.thresholds[place]
    rank = sum(other <= threshold for other in table.thresholds)
    head, rest = threshold >> 960, threshold & ((1 << 960) - 1)
    for further, expected in ((rest, rank), (rest - 1, rank - 1)):
        stream: Any = _Scripted(head, further)
        assert noise._draw(table, stream, noise._Desk.of(1), 1)[0] == expected - table.bound


def test_equal_keys_give_equal_draws_and_the_system_gives_fresh_ones() -> None:
    def fixed(n_bytes: int) -> bytes:
        return bytes(range(n_bytes))

    assert np.array_equal(discrete_gaussian(834.0, 70_000, fixed), discrete_gaussian(834.0, 70_000, fixed))
    assert not np.array_equal(discrete_gaussian(834.0, 1_000), discrete_gaussian(834.0, 1_000, system))


def test_whoever_has_a_draws_key_has_all_its_noise() -> None:
    """Why no ε holds against an unbounded adversary: it tries the 2^256 keys."""
    handed_out: list[bytes] = []

    def watched(n_bytes: int) -> bytes:
        handed_out.append(system(n_bytes))
        return handed_out[-1]

    drawn = discrete_gaussian(834.0, 5_000, entropy=watched)
    coins = poisson_sample(5_000, 0.3, entropy=watched)
    assert [len(key) for key in handed_out] == [32, 32]
    assert np.array_equal(discrete_gaussian(834.0, 5_000, entropy=lambda _: handed_out[0]), drawn)
    assert np.array_equal(poisson_sample(5_000, 0.3, entropy=lambda _: handed_out[1]), coins)


def test_no_draws_are_no_error() -> None:
    assert discrete_gaussian(8.0, 0).shape == (0,)


@pytest.mark.parametrize("stddev", [0.0, 0.99, math.nan, math.inf, -8.0])
def test_noise_that_cannot_be_drawn_is_refused(stddev: float) -> None:
    with pytest.raises(ConfigError, match="stddev"):
        discrete_gaussian(stddev, 1)


@pytest.mark.parametrize("rate", [0.001, 0.0683, 0.5, 0.99])
def test_each_record_takes_part_at_the_public_rate(rate: float) -> None:
    records = 400_000
    taken = int(poisson_sample(records, rate).sum())
    deviation = abs(taken - records * rate) / math.sqrt(records * rate * (1 - rate))
    assert deviation < stats.norm.isf(_FALSE_ALARM / 2)


def test_the_coin_is_rounded_down_never_up() -> None:
    threshold = int(0.1 * 2**64)
    key = bytes(32)
    words = np.frombuffer(Keystream(key).read(80_000), dtype=np.uint64)
    sample = poisson_sample(10_000, 0.1, lambda n_bytes: key[:n_bytes])
    assert np.array_equal(sample, words < np.uint64(threshold))
    assert not poisson_sample(10_000, 2.0**-65).any()


def test_a_coin_that_equals_the_rate_stays_out() -> None:
    key = bytes(32)
    words = np.frombuffer(Keystream(key).read(800_000), dtype=np.uint64)
    record = int(np.flatnonzero(words & np.uint64(0x7FF) == 0)[0])  # 53 bits: a float64 holds it exactly
    rate = int(words[record]) / 2**64
    sample = poisson_sample(len(words), rate, lambda n_bytes: key[:n_bytes])
    assert not sample[record]
    assert sample.sum() == (words < words[record]).sum()


def test_a_rate_of_one_leaves_nobody_out() -> None:
    assert poisson_sample(1_000, 1.0).all()


def test_a_further_record_shifts_no_coin() -> None:
    key = bytes(32)
    long = poisson_sample(1_001, 0.3, lambda n_bytes: key[:n_bytes])
    assert np.array_equal(long[:-1], poisson_sample(1_000, 0.3, lambda n_bytes: key[:n_bytes]))


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.01, math.nan])
def test_a_rate_outside_zero_to_one_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match="sampling_rate"):
        poisson_sample(10, rate)
