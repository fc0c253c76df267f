"""A truncated process: what it trains, where it starts, and that it ends at the images of the whole one."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from secure_fed_diffusion.diffusion.class_conditional_pipeline import START, ClassGaussians, generate
from secure_fed_diffusion.diffusion.objective import Objective, draw
from secure_fed_diffusion.diffusion.sampler import (
    form_of,
    load_pipeline,
    make_scheduler,
    sample,
    save_pipeline,
)
from secure_fed_diffusion.diffusion.settings import (
    DiffusionSettings,
    ModelSettings,
    SamplerSettings,
    require_sampler,
)
from secure_fed_diffusion.diffusion.unet import build_unet
from secure_fed_diffusion.errors import ConfigError, RunError
from secure_fed_diffusion.training.warmup import train_on_classes
from tests.diffusion.gaussian import MEANS, SIDE, SPREAD, GaussianDenoiser

SHAPE = (1, 8, 8)
LABELS = np.array([0, 1, 2, 1, 0], dtype=np.int64)


def gaussians(side: int = 8, spread: float = 0.1, classes: int = 3) -> ClassGaussians:
    """Return independent pixels of `spread` about a grey that rises with the class."""
    means = torch.linspace(0.3, 0.7, classes).view(-1, 1, 1, 1).expand(-1, 1, side, side).contiguous()
    return ClassGaussians(means, spread * torch.eye(side**2).expand(classes, -1, -1).contiguous())


def test_images_are_drawn_about_their_class_s_mean_with_its_covariance() -> None:
    """4,000 draws a class: a variance is within 12 % of its own with probability beyond 1 - 1e-6."""
    means = torch.full((2, 1, 4, 4), 0.5)
    factors = torch.zeros((2, 3, 16))
    factors[0, 0, 3], factors[1, 1, 5], factors[1, 1, 6] = 0.05, 0.1, -0.1
    labels = torch.arange(2).repeat(4000)
    drawn = ClassGaussians(means, factors).draw(labels, torch.Generator().manual_seed(0)).flatten(1)
    assert drawn.shape == (8000, 16)
    expected = torch.zeros((2, 16))
    expected[0, 3], expected[1, 5], expected[1, 6] = 0.05**2, 0.1**2, 0.1**2
    for label in range(2):
        own = drawn[labels == label]
        assert torch.allclose(own.var(dim=0), expected[label], rtol=0.12, atol=1e-12)
        assert torch.allclose(own.mean(dim=0), torch.tensor(0.5), atol=0.01)
    assert torch.allclose(drawn[1::2, 5] - 0.5, 0.5 - drawn[1::2, 6], atol=1e-6)  # they move together


def test_an_image_that_varies_stays_within_the_range_and_none_varies_without_factors() -> None:
    means, labels = torch.rand((3, 1, 8, 8)), torch.arange(3).repeat(50)
    wild = ClassGaussians(means, torch.full((3, 2, 64), 3.0)).draw(labels)
    assert (float(wild.min()), float(wild.max())) == (0.0, 1.0)
    assert torch.equal(ClassGaussians(means, torch.zeros((3, 0, 64))).draw(labels), means[labels])


@pytest.mark.parametrize("stratified", [False, True])
def test_no_record_is_shown_a_step_beyond_the_truncation(stratified: bool) -> None:
    """Of 8,000 uniform draws from 40 steps each one occurs, but with probability below 1e-80."""
    settings = DiffusionSettings(
        timesteps=100, truncation=0.4, noise_multiplicity=4, stratified=stratified, label_dropout=0.25
    )
    steps = draw(settings, SHAPE, keys=[("record", i) for i in range(2000)]).timesteps
    assert sorted(set((steps % 100).flatten().tolist())) == list(range(40))
    assert 0.2 < float((steps >= 100).float().mean()) < 0.3  # hidden labels are where they were


def test_the_warm_up_trains_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = Objective(DiffusionSettings(timesteps=50, truncation=0.3))
    seen: list[int] = []

    def record(
        model: torch.nn.Module, x0: torch.Tensor, labels: object, t: torch.Tensor, eps: object
    ) -> object:
        seen.extend(t.flatten().tolist())
        return sum(p.square().sum() for p in model.parameters())

    monkeypatch.setattr(objective, "loss_batch", record)
    network = torch.nn.Linear(1, 1)
    train_on_classes(network, objective, gaussians(), patch=1, steps=40, batch=16, learning_rate=1e-3, seed=0)
    assert sorted(set(seen)) == list(range(15))


@pytest.mark.parametrize("form", [{"kind": "ddim"}, {"kind": "ddim", "eta": 0.0}, {"kind": "dpm++"}])
@pytest.mark.parametrize("patch", [1, 2])
def test_a_truncated_process_ends_at_the_mean_and_spread_of_the_whole_one(
    form: dict[str, object], patch: int
) -> None:
    """32 images of 1,024 pixels each, so a spread is known to 0.4 % and a mean to 0.0011, one deviation.

    A stochastic sampler of few steps has a bias of its own, so the whole process is what is held against.
    The first noise of a step 40 later shows in the sampler without noise of its own.
    """
    diffusion = DiffusionSettings(truncation=0.5)
    settings = SamplerSettings(steps=50, **form)
    means = (torch.tensor(MEANS) / 2 + 0.5).view(-1, 1, 1, 1).expand(-1, 1, SIDE, SIDE).contiguous()
    start = ClassGaussians(means, SPREAD / 2 * torch.eye(SIDE**2).expand(len(MEANS), -1, -1).contiguous())
    found = []
    for begin in (None, start):
        denoiser = GaussianDenoiser(diffusion)
        if patch == 2:
            denoiser.config.sample_size, denoiser.config.in_channels = (SIDE // 2, SIDE // 2), 4
        with torch.inference_mode():
            images = generate(
                denoiser,
                make_scheduler(diffusion, settings),
                torch.zeros(32, dtype=torch.int64),
                steps=50,
                patch=patch,
                start=begin,
                trained=diffusion.trained_timesteps,
                generator=torch.Generator().manual_seed(0),
                **form_of(settings),
            )
        pixels = images.double() * 2 - 1
        found.append((float(pixels.mean()), float(pixels.std()) / SPREAD, denoiser.calls))
    (mean, spread, calls), (short_mean, short_spread, short_calls) = found
    assert short_mean == pytest.approx(mean, abs=0.006)
    assert short_spread == pytest.approx(spread, abs=0.02)
    assert (calls, short_calls) == (50, 25)  # half of the steps, and half of the work


def unet_of() -> torch.nn.Module:
    settings = ModelSettings(channels=(8, 8), norm_groups=4, attention_head_dim=4)
    return build_unet(settings, image_shape=SHAPE, n_classes=3, n_timesteps=50, seed=1)


def test_a_saved_model_starts_where_the_run_did_and_stays_whole_when_it_is_saved_again(
    tmp_path: Path,
) -> None:
    diffusion = DiffusionSettings(timesteps=50, truncation=0.6)
    settings, unet, start = SamplerSettings(kind="dpm++", steps=10, batch=2), unet_of(), gaussians()
    images = sample(unet, LABELS, diffusion=diffusion, settings=settings, patch=1, seed=0, start=start)
    save_pipeline(unet, diffusion, 1, tmp_path / "model", sampler=settings, start=start)
    load_pipeline(tmp_path / "model").save_pretrained(tmp_path / "copy")
    for folder in ("model", "copy"):
        pipeline = load_pipeline(tmp_path / folder)
        drawn = pipeline(LABELS, generator=torch.Generator().manual_seed(0), output_type="np").images
        assert np.array_equal((drawn.transpose(0, 3, 1, 2) * 255).round().astype(np.uint8), images)
    for damage in (lambda path: path.write_bytes(path.read_bytes()[:100]), Path.unlink):
        damage(tmp_path / "copy" / START)
        with pytest.raises(RunError, match="cannot be read"):
            load_pipeline(tmp_path / "copy")
    with pytest.raises(ValueError, match="of 1, none is below 30"):
        load_pipeline(tmp_path / "model")(LABELS, num_inference_steps=1)
    other = gaussians(spread=0.3)
    assert not np.array_equal(
        sample(unet, LABELS, diffusion=diffusion, settings=settings, patch=1, seed=0, start=other), images
    )


def test_without_a_start_or_in_a_process_that_has_none_truncation_is_refused(tmp_path: Path) -> None:
    diffusion = DiffusionSettings(timesteps=50, truncation=0.6)
    with pytest.raises(ConfigError, match="class Gaussians to start from, got none"):
        sample(unet_of(), LABELS, diffusion=diffusion, settings=SamplerSettings(steps=5), patch=1, seed=0)
    with pytest.raises(ConfigError, match="class Gaussians to start from, got none"):
        save_pipeline(unet_of(), diffusion, 1, tmp_path / "model")
    for values in ({"truncation": 0.0}, {"truncation": 1.5}, {"truncation": math.nan}):
        with pytest.raises(ConfigError, match="0 < share <= 1"):
            DiffusionSettings(**values)
    with pytest.raises(ConfigError, match=r"expected 1 with .*prediction='edm', got 0.5"):
        DiffusionSettings(prediction="edm", truncation=0.5)
    with pytest.raises(ConfigError, match=r">= 3 with diffusion.truncation=0.4.*got 2") as e:
        require_sampler(DiffusionSettings(truncation=0.4), SamplerSettings(steps=2))
    assert e.value.key == "sampler.steps"
    for kind in ("ddim", "dpm++"):  # the fewest that are allowed have a trained one among them
        scheduler = make_scheduler(DiffusionSettings(truncation=0.4), SamplerSettings(kind=kind, steps=3))
        scheduler.set_timesteps(3)
        assert int(scheduler.timesteps[-1]) < 400
    assert DiffusionSettings(timesteps=3, truncation=0.01).trained_timesteps == 1
