"""Training on class means: it learns them, and it touches nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import pixel_unshuffle

from secure_fed_diffusion.diffusion.class_conditional_pipeline import ClassGaussians
from secure_fed_diffusion.diffusion.objective import DiffusionSettings, Objective
from secure_fed_diffusion.diffusion.unet import ModelSettings, build_unet
from secure_fed_diffusion.training.vectors import flatten
from secure_fed_diffusion.training.warmup import augmented, train_on_classes

OBJECTIVE = Objective(DiffusionSettings(timesteps=20))


def means_of(n: int = 3) -> np.ndarray:
    """Return one bright bar a class."""
    means = np.zeros((n, 1, 8, 8), dtype=np.float32)
    for label in range(n):
        means[label, 0, :, 2 * label : 2 * label + 2] = 1.0
    return means


def classes_of(means: np.ndarray) -> ClassGaussians:
    return ClassGaussians(torch.from_numpy(means), torch.zeros((len(means), 0, means[0].size)))


def unet_of(patch: int) -> torch.nn.Module:
    settings = ModelSettings(channels=(8, 8), norm_groups=4, attention_head_dim=4, patch=patch)
    return build_unet(settings, image_shape=(1, 8, 8), n_classes=3, n_timesteps=20, seed=0)


def loss_on(model: torch.nn.Module, means: np.ndarray, patch: int) -> float:
    generator = torch.Generator().manual_seed(9)
    labels = torch.arange(3).repeat(20)
    x0 = pixel_unshuffle(torch.from_numpy(means)[labels] * 2 - 1, patch)
    t = torch.randint(20, (60, 1), generator=generator)
    eps = torch.randn((60, 1, *x0.shape[1:]), generator=generator)
    with torch.no_grad():
        return float(OBJECTIVE.loss_batch(model, x0, labels, t, eps))


def train(model: torch.nn.Module, *, patch: int = 1, steps: int = 40, seed: int = 0, **more: object) -> None:
    values = {"batch": 16, "learning_rate": 5e-3}
    train_on_classes(
        model, OBJECTIVE, classes_of(means_of()), patch=patch, steps=steps, seed=seed, **(values | more)
    )


@pytest.mark.parametrize("patch", [1, 2])
def test_the_loss_on_the_means_falls(patch: int) -> None:
    model = unet_of(patch)
    before = loss_on(model, means_of(), patch)
    train(model, patch=patch)
    assert loss_on(model, means_of(), patch) < 0.7 * before


def test_the_seed_decides_the_weights_and_the_global_generator_is_left_alone() -> None:
    models = [unet_of(1) for _ in range(3)]
    torch.manual_seed(1)
    before = torch.get_rng_state()
    for model, seed in zip(models, (0, 0, 1), strict=True):
        train(model, steps=2, seed=seed)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(flatten(models[0]), flatten(models[1]))
    assert not torch.equal(flatten(models[0]), flatten(models[2]))


def test_the_means_that_were_given_are_not_altered() -> None:
    means = means_of()
    train_on_classes(
        unet_of(1), OBJECTIVE, classes_of(means), patch=1, steps=1, batch=8, learning_rate=1e-3, seed=0
    )
    assert np.array_equal(means, means_of())


def test_moved_images_keep_shape_and_range_and_differ_from_each_other() -> None:
    images = torch.from_numpy(means_of())[torch.zeros(50, dtype=torch.int64)]
    moved = augmented(images, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape
    assert float(moved.min()) >= 0.0
    assert float(moved.max()) <= 1.0
    assert len({tuple(image.flatten().tolist()) for image in moved}) == 50
    # a bar that is moved by at most 0.15 + 0.35 half widths keeps most of its ink in the picture
    ink = moved.sum(dim=(1, 2, 3)) / images[0].sum()
    assert 0.5 < float(ink.mean()) < 1.3


def test_without_augmentation_the_images_stay_as_they_are() -> None:
    images = torch.from_numpy(means_of())
    assert augmented(images, torch.Generator().manual_seed(0), "none") is images


def test_an_elastic_image_is_bent_and_re_inked_within_the_range() -> None:
    images = torch.from_numpy(means_of())[torch.zeros(50, dtype=torch.int64)] * 0.5
    affine = augmented(images, torch.Generator().manual_seed(0))
    elastic = augmented(images, torch.Generator().manual_seed(0), "elastic")
    assert elastic.shape == images.shape
    assert float(elastic.min()) >= 0.0
    assert float(elastic.max()) <= 1.0
    assert not torch.allclose(elastic, affine, atol=0.05)
    # the same grey becomes darker in some images and lighter in others
    peaks = elastic.flatten(1).max(dim=1).values
    assert float(peaks.min()) < 0.4
    assert float(peaks.max()) > 0.6
    ink = elastic.sum(dim=(1, 2, 3)) / images[0].sum()
    assert 0.5 < float(ink.mean()) < 1.5


def test_strength_scales_how_far_the_images_are_moved() -> None:
    images = torch.from_numpy(means_of())[torch.arange(3).repeat(20)]

    def moved(strength: float) -> float:
        return float(
            (augmented(images, torch.Generator().manual_seed(0), "affine", strength) - images).norm()
        )

    assert moved(1e-6) < 1e-3 < moved(0.3) < moved(1.0)


def test_a_decaying_rate_ends_where_it_hardly_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    honest = torch.optim.Adam.step

    def step(self: torch.optim.Adam, *rest: object) -> object:
        rates.append(self.param_groups[0]["lr"])
        return honest(self, *rest)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    train(unet_of(1), steps=4)
    train(unet_of(1), steps=4, decay=True)
    assert rates[:4] == [5e-3] * 4
    assert rates[4:] == pytest.approx([5e-3 * (1 + np.cos(np.pi * k / 4)) / 2 for k in range(4)])
