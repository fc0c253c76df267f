"""The moving average against its formula, and its state."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from secure_fed_diffusion.diffusion.ema import (
    ExponentialMovingAverage,
    PowerFunctionAverage,
    RunningAverage,
    TailAverage,
    gamma_of_width,
)
from secure_fed_diffusion.errors import ConfigError


def test_the_average_follows_its_formula_warm_up_included() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(5, generator=generator)
    average, expected = ExponentialMovingAverage(start, 0.5), start.double()
    decays = []
    for t in range(1, 15):
        weights = torch.randn(5, generator=generator)
        average.update(weights)
        decays.append(min(0.5, (1 + t) / (10 + t)))
        expected = decays[-1] * expected + (1 - decays[-1]) * weights.double()
        torch.testing.assert_close(average.average.double(), expected, rtol=1e-6, atol=1e-6)
    assert decays[0] == pytest.approx(2 / 11)
    assert decays[-1] == 0.5  # the warm-up is over


def test_without_decay_the_average_is_the_newest() -> None:
    average = ExponentialMovingAverage(torch.zeros(3), 0.0)
    average.update(torch.ones(3))
    assert torch.equal(average.average, torch.ones(3))


def test_the_average_owns_its_memory() -> None:
    weights = torch.zeros(3, requires_grad=True)
    average = ExponentialMovingAverage(weights, 0.9)
    with torch.no_grad():
        weights += 1
    assert torch.equal(average.average, torch.zeros(3))
    assert not average.average.requires_grad
    average.restart(weights)
    with torch.no_grad():
        weights += 1
    assert torch.equal(average.average, torch.ones(3))


def test_a_restart_forgets_the_past_and_warms_up_again() -> None:
    average = ExponentialMovingAverage(torch.zeros(2), 0.9)
    for _ in range(20):
        average.update(torch.full((2,), 5.0))
    average.restart(torch.ones(2))
    fresh = ExponentialMovingAverage(torch.ones(2), 0.9)
    for one in (average, fresh):
        one.update(torch.full((2,), 3.0))
    assert torch.equal(average.average, fresh.average)


def test_a_saved_state_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    one = ExponentialMovingAverage(torch.zeros(4), 0.8)
    for step in range(3):
        one.update(torch.full((4,), float(step)))
    torch.save(one.state_dict(), tmp_path / "state.pt")
    two = ExponentialMovingAverage(torch.ones(4), 0.8)
    two.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for each in (one, two):
        each.update(torch.full((4,), 7.0))
    assert torch.equal(one.average, two.average)
    assert one.updates == two.updates == 4


def profile(average: RunningAverage, n: int) -> torch.Tensor:
    """Return each vector's share in the average of `n` (n,): the t-th is the t-th unit vector."""
    assert len(average.average) == n
    for row in torch.eye(n):
        average.update(row)
    return average.average.double()


def test_the_power_function_s_profile_is_t_to_the_gamma_and_as_wide_as_it_was_asked_for() -> None:
    n = 2000
    for width in (0.05, 0.1, 0.2):
        gamma = gamma_of_width(width)
        shares = profile(PowerFunctionAverage.of_width(torch.full((n,), 9.0), width), n)
        assert float(shares.sum()) == pytest.approx(1.0, abs=1e-4)  # and nothing of the start
        t = torch.arange(1, n + 1, dtype=torch.float64) / n
        expected = (gamma + 1) * t**gamma / n  # eq. 3
        late = slice(n // 2, n)
        torch.testing.assert_close(shares[late], expected[late], rtol=2e-2, atol=0.0)
        mean = (shares * t).sum()
        assert float((shares * (t - mean) ** 2).sum().sqrt()) == pytest.approx(width, rel=2e-2)  # eq. 5


def test_karras_own_figures_for_the_width_are_reproduced() -> None:
    assert gamma_of_width(0.05) == pytest.approx(16.97, abs=0.01)  # section 3.1: sigma_rel 5 % and 10 %
    assert gamma_of_width(0.10) == pytest.approx(6.94, abs=0.01)
    for width in (0.29, 0.0, float("nan")):
        with pytest.raises(ConfigError, match=r"relative_stddev: expected .* got"):
            gamma_of_width(width)


def test_at_gamma_zero_the_power_function_is_the_plain_mean() -> None:
    shares = profile(PowerFunctionAverage(torch.ones(50), gamma=0.0), 50)
    torch.testing.assert_close(shares, torch.full((50,), 0.02, dtype=torch.float64), rtol=1e-4, atol=0.0)


def test_the_tail_is_the_plain_mean_of_the_last_and_before_it_the_newest() -> None:
    average = TailAverage(torch.full((10,), 5.0), first=7)
    rows = torch.eye(10)
    for t in range(6):
        average.update(rows[t])
        assert torch.equal(average.average, rows[t])
    for t in range(6, 10):
        average.update(rows[t])
    expected = torch.cat([torch.zeros(6), torch.full((4,), 0.25)])
    torch.testing.assert_close(average.average, expected)


@pytest.mark.parametrize(
    "make",
    [lambda w: PowerFunctionAverage(w, 3.0), lambda w: TailAverage(w, 3)],
    ids=["power", "tail"],
)
def test_every_average_goes_on_from_its_saved_state(make: object, tmp_path: Path) -> None:
    one = make(torch.zeros(4))  # type: ignore[operator]
    for step in range(5):
        one.update(torch.full((4,), float(step)))
    torch.save(one.state_dict(), tmp_path / "state.pt")
    two = make(torch.ones(4))  # type: ignore[operator]
    two.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for each in (one, two):
        each.update(torch.full((4,), 7.0))
    assert torch.equal(one.average, two.average)
    one.restart(torch.ones(4))
    fresh = make(torch.ones(4))  # type: ignore[operator]
    for each in (one, fresh):
        each.update(torch.full((4,), 2.0))
    assert torch.equal(one.average, fresh.average)
