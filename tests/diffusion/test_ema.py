"""The moving average against its formula, and its state."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from secure_fed_diffusion.diffusion.ema import ExponentialMovingAverage


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
