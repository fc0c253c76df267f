"""DP-MERF: one noisy mean embedding of all images, and a generator that is trained to meet it.

Harder, Adamczewski and Park 2021 (arXiv 2002.11603), section 4, written anew from the paper's equations.  An
image x of class y becomes its random Fourier features phi(x), of norm 1, in the block of its class; the sum
over all records is released ONCE by the Gaussian mechanism, and the generator minimises the squared distance
to it: post-processing, free of cost.  Add or remove moves the sum by 1 (the paper replaces a record: by 2).

The paper's constants are kept: 10,000 features, a code of 5 dimensions, batches of 100, five epochs, Adam at
0.01 times 0.9 an epoch.  Its kernel width (105 for MNIST) comes from the median heuristic; ours is taken
from PUBLIC images by the same rule, so that it costs nothing.

Not protected against: classes of very different sizes, which a generator of even classes does not follow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from experiments.tradeoff.baselines.release import Plan
from secure_fed_diffusion.data.datasets import ImageSet
from secure_fed_diffusion.entropy import Entropy, system
from secure_fed_diffusion.evaluation.seeding import seeded

_ROWS = 500  # records whose features are held at once
_MEDIAN_IMAGES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The generator and its training; the defaults are the paper's for MNIST."""

    features: int = 10_000
    code: int = 5
    hidden: int = 200
    channels: tuple[int, int] = (16, 8)
    epochs: int = 5
    batch: int = 100
    learning_rate: float = 0.01
    decay: float = 0.9


class Features(nn.Module):
    """Random Fourier features of the Gaussian kernel exp(-|x - x'|^2 / (2 width)): (n, pixels) -> (n, d)."""

    def __init__(self, pixels: int, d: int, width: float, generator: torch.Generator) -> None:
        super().__init__()
        self.frequencies: Tensor
        drawn = torch.randn(pixels, d // 2, generator=generator) / math.sqrt(width)
        self.register_buffer("frequencies", drawn)

    def forward(self, x: Tensor) -> Tensor:
        """Return phi(x), of norm 1 but for rounding."""
        angles = x @ self.frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=1) / math.sqrt(self.frequencies.shape[1])


class Generator(nn.Module):
    """The paper's conditional generator: two linear layers, then twice upsampled and convolved."""

    def __init__(self, image_shape: tuple[int, int, int], n_classes: int, recipe: Recipe) -> None:
        super().__init__()
        colours, height, width = image_shape
        first, second = recipe.channels
        self._seed_shape = (first, height // 4, width // 4)
        flat = math.prod(self._seed_shape)
        self._n_classes, self._code = n_classes, recipe.code
        self.dense = nn.Sequential(
            nn.Linear(recipe.code + n_classes, recipe.hidden),
            nn.BatchNorm1d(recipe.hidden),
            nn.ReLU(),
            nn.Linear(recipe.hidden, flat),
            nn.BatchNorm1d(flat),
        )
        self.convolutions = nn.Sequential(
            nn.UpsamplingBilinear2d(scale_factor=2),
            nn.Conv2d(first, second, 5, padding=2),
            nn.ReLU(),
            nn.UpsamplingBilinear2d(scale_factor=2),
            nn.Conv2d(second, colours, 5, padding=2),
            nn.Sigmoid(),
        )

    def forward(self, labels: Tensor) -> Tensor:
        """Draw an image in [0, 1] for each label: (n,) -> (n, c, h, w)."""
        one_hot = nn.functional.one_hot(labels, self._n_classes).float()
        code = torch.cat([torch.randn(len(labels), self._code), one_hot], dim=1)
        return self.convolutions(self.dense(code).unflatten(1, self._seed_shape))


def kernel_width(public: ImageSet) -> float:
    """Return the median squared distance between PUBLIC images, the paper's heuristic."""
    images = torch.from_numpy(public.images[:_MEDIAN_IMAGES]).flatten(1).float() / 255
    return float(torch.pdist(images).median()) ** 2


def embedding_sum(private: ImageSet, features: Features, plan: Plan, n_classes: int) -> npt.NDArray[np.int64]:
    """Sum every record's rounded features in the block of its class: (n_classes * d,).

    Guarantees: one record changes the sum by an integer vector of norm at most `plan.grid.norm_bound`, as
    long as the kernels give a row the same bits at every place of a batch of `_ROWS`.
    """
    width = 2 * features.frequencies.shape[1]
    total = np.zeros((n_classes, width))
    with torch.no_grad():
        for start in range(0, len(private), _ROWS):
            images = torch.from_numpy(private.images[start : start + _ROWS]).flatten(1).float() / 255
            n = len(images)
            padded = torch.cat([images, images.new_zeros(_ROWS - n, images.shape[1])])
            rows = plan.grid.round(features(padded)[:n].numpy())  # a block of zeros rounds to zeros
            one_hot = np.eye(n_classes)[private.labels[start : start + _ROWS]]
            total += one_hot.T @ rows  # integers below 2^53: exact
    return total.astype(np.int64).reshape(-1)


def train(
    embedding: Tensor,
    features: Features,
    image_shape: tuple[int, int, int],
    *,
    records: int,
    recipe: Recipe,
    seed: int,
) -> Generator:
    """Train a generator to meet the noisy mean `embedding` (n_classes, d); no private record is read."""
    n_classes = len(embedding)
    with seeded(seed):
        generator = Generator(image_shape, n_classes, recipe)
        optimizer = torch.optim.Adam(generator.parameters(), lr=recipe.learning_rate)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=recipe.decay)
        for _ in range(recipe.epochs):
            for _ in range(max(1, records // recipe.batch)):
                labels = torch.randint(n_classes, (recipe.batch,))
                drawn = features(generator(labels).flatten(1))
                one_hot = nn.functional.one_hot(labels, n_classes).float()
                loss = (embedding - one_hot.T @ drawn / recipe.batch).square().sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()
    return generator.eval()


def synthesize(
    private: ImageSet,
    public: ImageSet,
    labels: npt.NDArray[np.int64],
    *,
    n_classes: int,
    declared_records: int,
    epsilon: float,
    delta: float,
    seed: int,
    recipe: Recipe | None = None,
    entropy: Entropy = system,
) -> tuple[ImageSet, Plan]:
    """Release the mean embedding of `private`, train on it, and draw one image for each of `labels`.

    `declared_records` is public and divides the sum; `seed` decides the features and the generator alone.
    """
    recipe = recipe or Recipe()
    image_shape = tuple(private.images.shape[1:])
    features = Features(
        math.prod(image_shape), recipe.features, kernel_width(public), torch.Generator().manual_seed(seed)
    )
    plan = Plan.calibrated(dimension=n_classes * recipe.features, clip_norm=1.0, epsilon=epsilon, delta=delta)
    released = plan.release(embedding_sum(private, features, plan, n_classes), entropy)
    embedding = torch.from_numpy(released / declared_records).float().view(n_classes, -1)
    generator = train(embedding, features, image_shape, records=declared_records, recipe=recipe, seed=seed)
    with torch.no_grad(), seeded(seed + 1):
        images = torch.cat([generator(part) for part in torch.from_numpy(labels).split(1000)])
    return ImageSet((images * 255).round().byte().numpy(), labels), plan
