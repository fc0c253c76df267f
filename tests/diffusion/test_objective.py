"""The targets by hand, the schedule by its paper, and draws that belong to one record alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from secure_fed_diffusion.diffusion.objective import (
    Objective,
    draw,
    draw_seed,
    edm_sigmas,
    scheduler_config,
    stratified_steps,
)
from secure_fed_diffusion.diffusion.settings import DiffusionSettings
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
        ({"label_dropout": 1.0}, "diffusion.label_dropout"),
        ({"label_dropout": -0.1}, "diffusion.label_dropout"),
        ({"sigma_data": 0.0}, "diffusion.sigma_data"),
        ({"p_mean": 11.0}, "diffusion.p_mean"),
        ({"p_std": 0.0}, "diffusion.p_std"),
        ({"p_std": float("nan")}, "diffusion.p_std"),
    ],
)
def test_an_impossible_process_is_refused(values: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError) as e:
        DiffusionSettings(**values)
    assert e.value.key == key
    assert str(next(iter(values.values()))) in str(e.value)


def edm_table(sigma: Tensor, data: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return c_skip, c_out, c_in, c_noise and lambda of Karras et al. 2022, table 1, as printed there."""
    total = sigma**2 + data**2
    return (
        data**2 / total,
        sigma * data / total.sqrt(),
        1 / total.sqrt(),
        sigma.log() / 4,
        total / (sigma * data) ** 2,
    )


@pytest.mark.parametrize("data", [0.5, 1.3])
def test_edm_s_loss_is_the_weighted_error_of_the_preconditioned_denoiser(data: float) -> None:
    # eq. 8 with table 1: lambda(sigma) |D(y + n; sigma) - y|^2, D = c_skip x + c_out F(c_in x; c_noise)
    settings = DiffusionSettings(prediction="edm", timesteps=100, sigma_data=data)
    x0, labels, t, eps = batch(6, 1, settings)
    t[:2, 0] = torch.tensor([0, 99])
    sigma = edm_sigmas(settings)[t[:, 0]].view(-1, 1, 1, 1)
    skip, out, scale, level, weight = edm_table(sigma, data)
    seen = []

    def network(x: Tensor, t: Tensor, *, class_labels: Tensor, return_dict: bool) -> tuple[Tensor]:
        assert torch.equal(class_labels, labels)
        assert not return_dict
        seen.append((x, t))
        return (x.sin() + t.view(-1, 1, 1, 1),)

    noisy = x0.double() + sigma * eps[:, 0]
    answer = (scale * noisy).sin() + level
    expected = (weight * (skip * noisy + out * answer - x0).square()).mean(dim=(1, 2, 3))
    losses = Objective(settings).losses(network, x0.double(), labels, t[:, 0], eps[:, 0].double())
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(seen[0][0], scale * noisy, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(seen[0][1].double(), level.flatten(), rtol=1e-5, atol=1e-6)


def test_with_data_of_spread_one_edm_learns_minus_v() -> None:
    settings = DiffusionSettings(prediction="edm", timesteps=100, sigma_data=1.0)
    x0, labels, t, eps = batch(5, 1, settings)
    angle = edm_sigmas(settings)[t[:, 0]].atan().float().view(-1, 1, 1, 1)
    v = angle.cos() * eps[:, 0] - angle.sin() * x0
    losses = Objective(settings).losses(lambda *_, **__: (-v,), x0, labels, t[:, 0], eps[:, 0])
    assert float(losses.max()) < 1e-10


def test_edm_s_noise_levels_are_quantiles_of_its_log_normal() -> None:
    settings = DiffusionSettings(prediction="edm", timesteps=10_000, p_mean=-0.7, p_std=1.4)
    logs = edm_sigmas(settings).log()
    assert bool((logs.diff() > 0).all())
    assert float(logs.mean()) == pytest.approx(-0.7, abs=1e-9)
    assert float(logs.std()) == pytest.approx(1.4, abs=1e-2)
    assert float((logs < -0.7 + 1.4).double().mean()) == pytest.approx(
        0.5 * (1 + math.erf(0.5**0.5)), abs=2e-4
    )


def test_edm_s_draws_are_steps_as_in_every_other_process() -> None:
    keys = [(i,) for i in range(20)]
    edm = draw(DiffusionSettings(prediction="edm", noise_multiplicity=3), SHAPE, keys=keys)
    v = draw(DiffusionSettings(prediction="v", noise_multiplicity=3), SHAPE, keys=keys)
    assert edm.timesteps.dtype == torch.int64
    assert torch.equal(edm.timesteps, v.timesteps)
    assert torch.equal(edm.noise, v.noise)


def test_edm_has_no_discrete_schedule() -> None:
    with pytest.raises(ConfigError, match="epsilon or v for a discrete schedule, got 'edm'") as e:
        scheduler_config(DiffusionSettings(prediction="edm"))
    assert e.value.key == "diffusion.prediction"


@pytest.mark.parametrize("prediction", ["epsilon", "v", "edm"])
def test_the_noise_that_a_perfect_network_sees_is_the_noise_that_was_added(prediction: str) -> None:
    settings = DiffusionSettings(prediction=prediction, timesteps=100, label_dropout=0.5)
    x0, labels, t, eps = (
        part.double() if part.is_floating_point() else part for part in batch(5, 1, settings)
    )
    t, eps = t[:, 0], eps[:, 0]
    if prediction == "edm":
        sigma = edm_sigmas(settings)[t].view(-1, 1, 1, 1)
        skip, out, _, _, _ = edm_table(sigma, settings.sigma_data)
        noisy = x0 + sigma * eps
        answer = (x0 - skip * noisy) / out
    else:
        bar = torch.tensor(alpha_bar(settings), dtype=torch.float64)[t].view(-1, 1, 1, 1)
        a, s = bar.sqrt(), (1 - bar).sqrt()
        noisy = a * x0 + s * eps
        answer = eps if prediction == "epsilon" else a * eps - s * x0
    objective = Objective(settings, n_classes=5)
    found = objective.predicted_noise(lambda *_, **__: (answer,), noisy, labels, t)
    torch.testing.assert_close(found, eps, rtol=1e-3, atol=1e-3)


def test_a_hidden_label_is_the_last_class_and_changes_nothing_else() -> None:
    dropping = DiffusionSettings(timesteps=50, noise_multiplicity=4, label_dropout=0.5)
    plain = DiffusionSettings(timesteps=50, noise_multiplicity=4)
    keys = [(i,) for i in range(40)]
    draws, same = draw(dropping, SHAPE, keys=keys), draw(plain, SHAPE, keys=keys)
    hidden = draws.timesteps >= 50
    assert torch.equal(draws.timesteps % 50, same.timesteps)
    assert torch.equal(draws.noise, same.noise)
    assert bool(hidden.any(1).logical_and(~hidden.all(1)).any())  # each draw has a coin of its own

    seen = []

    def network(x: Tensor, t: Tensor, *, class_labels: Tensor, **_: object) -> tuple[Tensor]:
        seen.append((x, t, class_labels))
        return (torch.zeros_like(x),)

    x0, labels = torch.zeros((40, *SHAPE)), torch.arange(40) % 3
    Objective(dropping, n_classes=3).loss_batch(network, x0, labels, draws.timesteps, draws.noise)
    Objective(plain).loss_batch(network, x0, labels, same.timesteps, same.noise)
    assert torch.equal(seen[0][0], seen[1][0])
    assert torch.equal(seen[0][1], seen[1][1])
    expected = torch.where(hidden, 3, labels.view(-1, 1)).reshape(-1)
    assert torch.equal(seen[0][2], expected)
    assert dropping.class_rows(3) == 4
    assert plain.class_rows(3) == 3


def test_labels_are_hidden_as_often_as_it_says() -> None:
    settings = DiffusionSettings(noise_multiplicity=4, label_dropout=0.2)
    steps = draw(settings, (1, 1, 1), keys=[(i,) for i in range(5_000)]).timesteps
    share = float((steps >= settings.timesteps).double().mean())
    # 20,000 coins: within 5 standard errors but for one time in 10^6
    assert share == pytest.approx(0.2, abs=5 * math.sqrt(0.2 * 0.8 / 20_000))


def test_without_the_number_of_classes_no_label_can_be_hidden() -> None:
    with pytest.raises(ConfigError, match=r"number of classes with label_dropout=0\.1") as e:
        Objective(DiffusionSettings(label_dropout=0.1))
    assert e.value.key == "diffusion.label_dropout"


@pytest.mark.parametrize(("timesteps", "k"), [(1000, 4), (10, 3), (7, 16), (50, 1)])
def test_stratified_steps_fall_into_equal_parts_and_are_uniform_together(timesteps: int, k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    rounds = max(400, 40 * timesteps // k)
    steps = torch.stack([stratified_steps(timesteps, k, generator) for _ in range(rounds)])
    assert steps.dtype == torch.int64
    for part in range(k):
        assert int(steps[:, part].min()) >= math.floor(timesteps * part / k)
        assert int(steps[:, part].max()) <= math.ceil(timesteps * (part + 1) / k) - 1
    share = torch.bincount(steps.flatten(), minlength=timesteps).double() / steps.numel()
    # each share is a mean of >= 40 * timesteps coins: within 6 of its standard errors but for 1 in 10^5 runs
    error = 6 * math.sqrt(1 / timesteps / steps.numel())
    assert float((share - 1 / timesteps).abs().max()) < error


def test_stratified_draws_belong_to_one_record_and_steady_its_loss() -> None:
    settings = DiffusionSettings(noise_multiplicity=8, stratified=True)
    independent = DiffusionSettings(noise_multiplicity=8)
    keys = [("run", i) for i in range(300)]
    whole = draw(settings, (1, 1, 1), keys=keys)
    without = draw(settings, (1, 1, 1), keys=[*keys[:7], *keys[8:]])
    assert torch.equal(torch.cat([whole.timesteps[:7], whole.timesteps[8:]]), without.timesteps)

    def spread(steps: Tensor) -> float:
        return float((steps.double() / settings.timesteps).mean(1).std())

    assert spread(whole.timesteps) < spread(draw(independent, (1, 1, 1), keys=keys).timesteps) / 4
