"""A classifier trained on the private images themselves by DP-SGD: if a classifier is all one wants.

The small tanh network of Papernot et al. 2021 (arXiv 2007.14191) on MNIST, 26,000 weights, clip 0.1; SGD
with momentum as in Tramer and Boneh 2021 (arXiv 2011.11660).  One step is one noisy sum of a Poisson sample
(`release.Plan`); gradients are taken a record at a time and rounded to the integer grid.

Not comparable with TSTR in one respect: no images come out, so nobody can train anything else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from experiments.tradeoff.baselines.release import Plan
from secure_fed_diffusion.data.datasets import ImageSet
from secure_fed_diffusion.dp.noise import poisson_sample
from secure_fed_diffusion.entropy import Entropy, system
from secure_fed_diffusion.evaluation.seeding import seeded
from secure_fed_diffusion.training.integer_sums import integer_sum
from secure_fed_diffusion.training.vectors import dimension, flatten, load_flat

_ROWS = 128  # records whose gradients are held at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How the classifier is trained; `batch` is public and expected, never measured."""

    steps: int = 400
    batch: int = 1024
    clip_norm: float = 0.1
    learning_rate: float = 1.0
    momentum: float = 0.9


def tanh_cnn(image_shape: tuple[int, int, int], n_classes: int) -> nn.Module:
    """Return Papernot et al.'s network; images below 16 pixels get no stride and no second pooling."""
    colours, height, width = image_shape
    if min(height, width) >= 16:
        layers = [nn.Conv2d(colours, 16, 8, 2, padding=3), nn.Tanh(), nn.MaxPool2d(2, 1)]
        layers += [nn.Conv2d(16, 32, 4, 2), nn.Tanh(), nn.MaxPool2d(2, 1)]
    else:
        layers = [nn.Conv2d(colours, 16, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2)]
        layers += [nn.Conv2d(16, 32, 3, padding=1), nn.Tanh()]
    body = nn.Sequential(*layers, nn.Flatten())
    with torch.no_grad():
        flat = body(torch.zeros(1, *image_shape)).shape[1]
    return nn.Sequential(body, nn.Linear(flat, 32), nn.Tanh(), nn.Linear(32, n_classes))


def train(
    private: ImageSet,
    *,
    n_classes: int,
    declared_records: int,
    epsilon: float,
    delta: float,
    seed: int,
    recipe: Recipe | None = None,
    entropy: Entropy = system,
) -> tuple[nn.Module, Plan]:
    """Return the trained classifier and what it cost; `seed` decides its first weights alone."""
    recipe = recipe or Recipe()
    shape = private.images.shape[1:]
    with seeded(seed):
        model = tanh_cnn((shape[0], shape[1], shape[2]), n_classes)
    length = dimension(model)
    plan = Plan.calibrated(
        dimension=length,
        clip_norm=recipe.clip_norm,
        epsilon=epsilon,
        delta=delta,
        steps=recipe.steps,
        sampling_rate=min(1.0, recipe.batch / declared_records),
    )
    images, labels = pixels(private), torch.from_numpy(private.labels)
    weights, velocity = flatten(model), torch.zeros(length)
    for step in range(plan.steps):
        drawn = torch.from_numpy(np.flatnonzero(poisson_sample(len(private), plan.sampling_rate, entropy)))
        total = np.zeros(length, dtype=np.int64)
        if len(drawn):
            total = integer_sum(_gradients(model, images, labels, drawn), plan.grid, length)
        gradient = torch.from_numpy(plan.release(total, entropy)).float() / recipe.batch
        velocity = recipe.momentum * velocity + gradient
        weights = weights - recipe.learning_rate * _cosine(step, plan.steps) * velocity
        load_flat(model, weights)
    return model.eval(), plan


def accuracy(model: nn.Module, test: ImageSet) -> float:
    """Return the share of `test` that the classifier gets right."""
    with torch.inference_mode():
        predicted = torch.cat([model(part).argmax(dim=1) for part in pixels(test).split(1000)])
    return float((predicted.numpy() == test.labels).mean())


def pixels(images: ImageSet) -> Tensor:
    """Return the images in [-1, 1], (n, c, h, w)."""
    return torch.from_numpy(images.images).float() / 127.5 - 1


def _gradients(
    model: nn.Module, images: Tensor, labels: Tensor, drawn: Tensor
) -> Iterator[dict[str, Tensor]]:
    """Yield the gradients of the drawn records, each record's its own, in pieces computed at one shape.

    That a record's gradient has the same bits at every place of a batch of that shape is taken from the
    kernels, not checked here: `training.per_example` checks it for the product.
    """
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(model, parameters, (image.unsqueeze(0),))
        return nn.functional.cross_entropy(logits, label.unsqueeze(0))

    per_example = vmap(grad(loss), in_dims=(None, 0, 0))
    for part in drawn.split(_ROWS):
        padded = torch.cat([part, part[:1].expand(_ROWS - len(part))])
        found = per_example(parameters, images[padded], labels[padded])
        yield {name: g.detach()[: len(part)] for name, g in found.items()}


def _cosine(step: int, steps: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * step / steps))
