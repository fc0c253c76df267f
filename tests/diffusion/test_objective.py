"""The targets by hand, the schedule by its paper, and draws that belong to one record alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from secure_fed_diffusion.diffusion.objective import DiffusionSettings, Objective, draw, draw_seed
from secure_fed_diffusion.errors import ConfigError

SHAPE = (2, 4, 4)


def alpha_bar(settings: DiffusionSettings) -> list[float]:
    """Return the signal's share by step: Nichol and Dhariwal 2021, eq. 17, or Ho et al. 2020, section 4."""
    n = settings.timesteps
    if settings.schedule == "cosine":

        def level(u: float) -> float:
            return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2

        betas = [min(1 - level((i + 1) / n) / level(i / n), 0.999) for i in range(n)]
    else:
        betas = [1e-4 + (0.02 - 1e-4) * i / (n - 1) for i in range(n)]
    products, product = [], 1.0
    for beta in betas:
        product *= 1 - beta
        products.append(product)
    return products


def batch(n: int, k: int, settings: DiffusionSettings) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x0 = torch.rand((n, *SHAPE), generator=generator) * 2 - 1
    t = torch.randint(settings.timesteps, (n, k), generator=generator)
    eps = torch.randn((n, k, *SHAPE), generator=generator)
    return x0, torch.arange(n), t, eps


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_whoever_predicts_the_target_of_the_paper_has_no_loss(prediction: str, schedule: str) -> None:
    settings = DiffusionSettings(prediction=prediction, schedule=schedule, timesteps=100)
    bars = torch.tensor(alpha_bar(settings))
    x0, labels, t, eps = batch(5, 1, settings)
    a, s = (root[t[:, 0]].view(-1, 1, 1, 1) for root in (bars.sqrt(), (1 - bars).sqrt()))

    def perfect(x: Tensor, steps: Tensor, *, class_labels: Tensor, return_dict: bool) -> tuple[Tensor]:
        torch.testing.assert_close(x, a * x0 + s * eps[:, 0], atol=2e-5, rtol=1e-4)
        assert torch.equal(steps, t[:, 0])
        assert torch.equal(class_labels, labels)
        assert not return_dict
        return (eps[:, 0] if prediction == "epsilon" else a * eps[:, 0] - s * x0,)

    losses = Objective(settings).losses(perfect, x0, labels, t[:, 0], eps[:, 0])
    assert losses.shape == (5,)
    assert float(losses.max()) < 1e-8


def test_the_loss_is_the_mean_square_over_a_records_own_pixels() -> None:
    settings = DiffusionSettings(prediction="epsilon", timesteps=10)
    x0, labels, t, eps = batch(3, 1, settings)
    off = torch.tensor([0.5, 1.0, 2.0]).view(-1, 1, 1, 1)
    losses = Objective(settings).losses(lambda *_, **__: (eps[:, 0] + off,), x0, labels, t[:, 0], eps[:, 0])
    torch.testing.assert_close(losses, torch.tensor([0.25, 1.0, 4.0]))


def test_v_is_the_derivative_of_the_noisy_image_along_its_angle() -> None:
    # Salimans and Ho 2022, appendix D: with a = cos(phi), s = sin(phi), v = dx_t/dphi
    phi = torch.tensor(0.7, dtype=torch.float64)
    x0, eps = 0.3, -1.2
    slope = torch.autograd.functional.jacobian(lambda p: p.cos() * x0 + p.sin() * eps, phi)
    assert float(slope) == pytest.approx(math.cos(0.7) * eps - math.sin(0.7) * x0)


def test_a_batch_is_the_mean_of_its_records_and_a_record_the_mean_of_its_draws() -> None:
    settings = DiffusionSettings(timesteps=50, noise_multiplicity=3)
    objective = Objective(settings)
    x0, labels, t, eps = batch(4, 3, settings)

    def denoise(x: Tensor, steps: Tensor, **_: object) -> tuple[Tensor]:
        return (x * 0.5 + steps.view(-1, 1, 1, 1) / 50,)

    ones = [objective.loss_one(denoise, x0[i], labels[i], t[i], eps[i]) for i in range(4)]
    by_draw = [
        objective.losses(denoise, x0[:1], labels[:1], t[0, k : k + 1], eps[0, k : k + 1]) for k in range(3)
    ]
    torch.testing.assert_close(ones[0], torch.cat(by_draw).mean())
    torch.testing.assert_close(objective.loss_batch(denoise, x0, labels, t, eps), torch.stack(ones).mean())


def test_taking_a_record_away_shifts_nobodys_draw() -> None:
    settings = DiffusionSettings(timesteps=1000, noise_multiplicity=2)
    keys = [("run", 1, record) for record in range(6)]
    whole = draw(settings, SHAPE, keys=keys)
    without = draw(settings, SHAPE, keys=[*keys[:2], *keys[3:]])
    left = [0, 1, 3, 4, 5]
    assert torch.equal(whole.timesteps[left], without.timesteps)
    assert torch.equal(whole.noise[left], without.noise)
    backwards = draw(settings, SHAPE, keys=keys[::-1])
    assert torch.equal(whole.noise.flip(0), backwards.noise)


def test_every_part_of_the_key_changes_the_draw() -> None:
    settings = DiffusionSettings(timesteps=1000)
    keys = [(0, 1, 2, 3), (1, 1, 2, 3), (0, 2, 2, 3), (0, 1, 3, 3), (0, 1, 2, 4), ("0", 1, 2, 3), (0, 12, 3)]
    assert len({draw_seed(key) for key in keys}) == len(keys)
    noise = draw(settings, SHAPE, keys=keys).noise.flatten(1)
    assert float((torch.corrcoef(noise) - torch.eye(len(keys))).abs().max()) < 0.8


def test_draws_have_the_promised_shapes_and_ranges_and_leave_the_global_generator_alone() -> None:
    settings = DiffusionSettings(timesteps=7, noise_multiplicity=50)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    draws = draw(settings, SHAPE, keys=[(i,) for i in range(40)])
    assert torch.equal(torch.get_rng_state(), before)
    assert draws.timesteps.shape == (40, 50)
    assert draws.timesteps.dtype == torch.int64
    assert set(draws.timesteps.flatten().tolist()) == set(range(7))
    assert draws.noise.shape == (40, 50, *SHAPE)
    # 64,000 standard normals: the mean is within 5 standard errors but for one time in 10^6
    assert abs(float(draws.noise.mean())) < 5 / math.sqrt(draws.noise.numel())
    assert float(draws.noise.var()) == pytest.approx(1.0, abs=5 * math.sqrt(2 / draws.noise.numel()))


def test_no_records_have_no_draws() -> None:
    draws = draw(DiffusionSettings(), SHAPE, keys=[])
    assert draws.timesteps.shape == (0, 1)
    assert draws.noise.shape == (0, 1, *SHAPE)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"prediction": "x0"}, "diffusion.prediction"),
        ({"schedule": "quadratic"}, "diffusion.schedule"),
        ({"timesteps": 1}, "diffusion.timesteps"),
        ({"noise_multiplicity": 0}, "diffusion.noise_multiplicity"),
    ],
)
def test_an_impossible_process_is_refused(values: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError) as e:
        DiffusionSettings(**values)
    assert e.value.key == key
    assert str(next(iter(values.values()))) in str(e.value)
