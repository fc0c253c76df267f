"""One private step by hand: the integer sum, the noise, and what Opacus' optimiser keeps between steps."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch import Tensor, nn

from secure_fed_diffusion.dp.grid import IntegerGrid
from secure_fed_diffusion.dp.noise import discrete_gaussian
from secure_fed_diffusion.training.dpsgd import IntegerDPOptimizer, private_step
from secure_fed_diffusion.training.integer_sums import integer_sum
from secure_fed_diffusion.training.vectors import flatten
from tests.federation.small import seeded

ERROR = 1e-6  # probability that a correct optimiser fails one of the tests of its noise
CLIP, DIVISOR = 0.7, 8


def model_of(width: int = 5) -> nn.Module:
    """A model whose middle weights are frozen: they take no part in anything."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, width), nn.Linear(width, width), nn.Linear(width, 2))
    model[1].requires_grad_(False)
    return model


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def gradients(model: nn.Module, n: int, seed: int) -> dict[str, Tensor]:
    """Return per-example gradients of `n` records, some inside the clip and some far beyond."""
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.logspace(-2, 2, n).unsqueeze(1) if n else torch.zeros(0, 1)
    return {
        name: torch.randn((n, p.numel()), generator=generator).mul(sizes).view(n, *p.shape)
        for name, p in trainable(model).items()
    }


def cut(whole: dict[str, Tensor], size: int) -> list[dict[str, Tensor]]:
    n = len(next(iter(whole.values())))
    return [{name: g[i : i + size].clone() for name, g in whole.items()} for i in range(0, n, size)]


def grid_of(model: nn.Module) -> IntegerGrid:
    return IntegerGrid.for_dimension(sum(p.numel() for p in trainable(model).values()), CLIP)


def optimizer_of(
    model: nn.Module, *, stddev: float = 0.0, base: Callable[..., torch.optim.Optimizer] = torch.optim.SGD
) -> IntegerDPOptimizer:
    return IntegerDPOptimizer(
        base(list(trainable(model).values()), lr=1.0),
        grid=grid_of(model),
        noise_stddev=stddev,
        divisor=DIVISOR,
        entropy=seeded("noise", stddev),
    )


def by_hand(model: nn.Module, whole: dict[str, Tensor], noise: np.ndarray | None = None) -> Tensor:
    """Return sum(rounded rows) / scale / divisor as the optimiser is meant to take it: (d,) float32."""
    grid = grid_of(model)
    rows = torch.cat([g.flatten(1) for g in whole.values()], dim=1).double().numpy()
    total = grid.round(rows).sum(axis=0)
    if noise is not None:
        total = total + noise
    return torch.from_numpy(total.astype(np.float64) / grid.scale).float() / DIVISOR


@pytest.mark.parametrize("size", [1, 3, 7, 16])
def test_without_noise_a_step_is_the_rounded_sum_whatever_the_micro_batches(size: int) -> None:
    model = model_of()
    whole = gradients(model, 16, seed=1)
    before = flatten(model)
    private_step(model, optimizer_of(model), iter(cut(whole, size)))
    assert torch.equal(flatten(model), before - by_hand(model, whole))


def test_the_optimiser_and_the_federation_sum_the_same_integers() -> None:
    model = model_of()
    whole = gradients(model, 16, seed=2)
    before, grid = flatten(model), grid_of(model)
    total = integer_sum(cut(whole, 5), grid, len(before))
    private_step(model, optimizer_of(model), cut(whole, 5))
    step = torch.from_numpy(total / grid.scale).float() / DIVISOR
    assert torch.equal(flatten(model), before - step)


def test_a_step_carries_nothing_over_from_the_one_before() -> None:
    model = model_of()
    optimizer = optimizer_of(model)
    expected = flatten(model)
    for seed, (n, size) in enumerate([(16, 4), (5, 2), (0, 3), (1, 1), (9, 9)]):
        whole = gradients(model, n, seed)
        private_step(model, optimizer, cut(whole, size))
        expected = expected - by_hand(model, whole)
        assert torch.equal(flatten(model), expected)


def test_the_frozen_weights_stay_where_they_were() -> None:
    model = model_of()
    frozen = model[1].weight.clone()
    private_step(model, optimizer_of(model, stddev=500.0), cut(gradients(model, 16, seed=3), 4))
    assert torch.equal(model[1].weight, frozen)
    assert model[1].weight.grad is None


def test_one_record_moves_a_step_by_no_more_than_clip_over_divisor() -> None:
    whole = gradients(model_of(), 16, seed=4)
    ends = []
    for keep in (slice(None), slice(0, 15)):  # the last record is a hundred times beyond the clip
        model = model_of().double()  # so that the difference of two weights is exact enough
        private_step(model, optimizer_of(model), cut({k: g[keep] for k, g in whole.items()}, 4))
        ends.append(torch.cat([p.detach().reshape(-1) for p in trainable(model).values()]))
    moved = float((ends[0] - ends[1]).norm())
    grid = grid_of(model_of())
    assert 0 < moved <= grid.norm_bound / grid.scale / DIVISOR * (1 + 1e-12)
    assert moved == pytest.approx(CLIP / DIVISOR, rel=1e-2)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30])
def test_a_record_with_a_broken_gradient_counts_as_nothing(value: float) -> None:
    model = model_of()
    whole = gradients(model, 6, seed=5)
    before = flatten(model)
    good = {name: g.clone() for name, g in whole.items()}
    for g in whole.values():
        g[2] = value
    for g in good.values():
        g[2] = 0.0
    private_step(model, optimizer_of(model), cut(whole, 4))
    assert torch.equal(flatten(model), before - by_hand(model, good))


def test_an_empty_sample_still_sends_the_whole_noise() -> None:
    model = model_of(width=400)
    stddev, before = 900.0, flatten(model)
    private_step(model, optimizer_of(model, stddev=stddev), [])
    in_grid_units = (before.double() - flatten(model).double()).numpy() * DIVISOR * grid_of(model).scale
    low, high = chi2.ppf([ERROR / 2, 1 - ERROR / 2], len(before))
    assert low < (in_grid_units**2).sum() / stddev**2 < high


def test_the_noise_is_the_integers_that_the_entropy_decides_added_once_a_step() -> None:
    model = model_of()
    whole = gradients(model, 16, seed=6)
    before, stddev = flatten(model), 321.0
    entropy = seeded("noise", stddev)
    noises = [discrete_gaussian(stddev, len(before), entropy) for _ in range(2)]
    optimizer = optimizer_of(model, stddev=stddev)
    for noise in noises:  # four micro-batches, and one draw of noise
        private_step(model, optimizer, cut(whole, 4))
        before = before - by_hand(model, whole, noise)
    assert torch.equal(flatten(model), before)
    assert not np.array_equal(*noises)


@pytest.mark.parametrize("stddev", [200.0, 5000.0])
def test_the_noise_of_a_step_has_the_stddev_that_was_asked_for(stddev: float) -> None:
    model = model_of(width=300)
    whole = gradients(model, 8, seed=7)
    silent, noisy = flatten(model), model
    exact = by_hand(model, whole).double()
    private_step(noisy, optimizer_of(noisy, stddev=stddev), cut(whole, 3))
    noise = ((silent.double() - flatten(noisy).double()) - exact).numpy() * DIVISOR * grid_of(model).scale
    low, high = chi2.ppf([ERROR / 2, 1 - ERROR / 2], len(noise))
    assert low < (noise**2).sum() / stddev**2 < high


def test_the_step_hook_acts_behind_clip_and_noise() -> None:
    model = model_of()
    whole = gradients(model, 16, seed=8)
    before, stddev = flatten(model), 100.0
    noise = discrete_gaussian(stddev, len(before), seeded("noise", stddev))
    optimizer = optimizer_of(model, stddev=stddev)
    calls = []

    def pull(hooked: IntegerDPOptimizer) -> None:
        calls.append(hooked)
        for p in hooked.params:
            p.grad.add_(1000.0)  # a clip would cut it down, a division by the divisor shrink it

    optimizer.attach_step_hook(pull)
    private_step(model, optimizer, cut(whole, 4))
    assert calls == [optimizer]
    assert torch.equal(flatten(model), before - (by_hand(model, whole, noise) + 1000.0))


def test_at_most_one_sum_is_held_and_none_after_the_step() -> None:
    model = model_of()
    optimizer = optimizer_of(model)
    held = []

    def watched() -> object:
        for chunk in cut(gradients(model, 16, seed=9), 4):
            held.append([p.summed_grad for p in trainable(model).values()])
            yield chunk

    private_step(model, optimizer, watched())
    for sums in held:
        assert all(
            part is None or part.shape == p.shape for part, p in zip(sums, optimizer.params, strict=True)
        )
    assert [sums[0] is None for sums in held] == [True, False, False, False]
    for p in trainable(model).values():
        assert p.summed_grad is None
        assert p.grad_sample is None
    assert optimizer._step_skip_queue == []


def test_adam_sees_the_noisy_gradient_and_nothing_else() -> None:
    private, plain = model_of(), model_of()
    optimizer = optimizer_of(private, base=torch.optim.Adam)
    reference = torch.optim.Adam(list(trainable(plain).values()), lr=1.0)
    for seed in range(3):
        whole = gradients(private, 8, seed)
        private_step(private, optimizer, cut(whole, 3))
        step = by_hand(plain, whole)
        start = 0
        for p in trainable(plain).values():
            p.grad = step[start : start + p.numel()].view_as(p).clone()
            start += p.numel()
        reference.step()
    torch.testing.assert_close(flatten(private), flatten(plain), rtol=0, atol=0)
