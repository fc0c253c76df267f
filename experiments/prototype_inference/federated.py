"""The classifier and its federated training: FedAvg (McMahan et al. 2017) and FedProx (Li et al. 2020).

The network is an embedding and a linear head.  Updates are averaged in the clear here, weighted by
records: what is under test is the rule of inference, and the masked average of `secagg` differs from this
one by the fixed-point step alone (`tests/secagg/test_agreement.py`).  No privacy is claimed for it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from secure_fed_diffusion.data.datasets import ImageSet
from secure_fed_diffusion.training.vectors import flatten, load_flat


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How the classifier is trained; `prox_mu` > 0 makes FedAvg FedProx (its eq. 2)."""

    rounds: int
    local_epochs: int
    batch: int
    learning_rate: float
    momentum: float
    embedding: int
    prox_mu: float = 0.0


class Classifier(nn.Module):
    """Two convolutions and a linear layer embed an image; a linear head classifies it."""

    def __init__(self, image_shape: tuple[int, int, int], n_classes: int, embedding: int) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.embed = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * (height // 4) * (width // 4), embedding),
            nn.ReLU(),
        )
        self.head = nn.Linear(embedding, n_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (n, n_classes) of images (n, c, h, w) in [0, 1]."""
        logits: Tensor = self.head(self.embed(images))
        return logits


def pixels(images: ImageSet) -> Tensor:
    """Return the images as float32 in [0, 1], channels last."""
    return torch.from_numpy(images.images).float().contiguous(memory_format=torch.channels_last) / 255.0


def train(
    hospitals: Sequence[ImageSet],
    recipe: Recipe,
    *,
    image_shape: tuple[int, int, int],
    n_classes: int,
    seed: int,
) -> Classifier:
    """Return the global model after `recipe.rounds` rounds in which every client takes part."""
    torch.manual_seed(seed)
    model = Classifier(image_shape, n_classes, recipe.embedding)
    model.to(memory_format=torch.channels_last)  # a fourth faster on a CPU
    local = copy.deepcopy(model)
    sets = [(pixels(images), torch.from_numpy(images.labels)) for images in hospitals]
    weights = np.array([len(labels) for _, labels in sets], dtype=np.float64)
    for _ in range(recipe.rounds):
        start = flatten(model)
        average = torch.zeros_like(start)
        for (images, labels), weight in zip(sets, weights / weights.sum(), strict=True):
            load_flat(local, start)
            _train_locally(local, images, labels, recipe, start)
            average += float(weight) * flatten(local)
        load_flat(model, average)
    return model.eval()


def _train_locally(model: Classifier, images: Tensor, labels: Tensor, recipe: Recipe, start: Tensor) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe.learning_rate, momentum=recipe.momentum)
    for _ in range(recipe.local_epochs):
        for batch in torch.randperm(len(labels)).split(recipe.batch):
            optimizer.zero_grad()
            loss = cross_entropy(model(images[batch]), labels[batch])
            if recipe.prox_mu:
                here = torch.cat([p.reshape(-1) for p in model.parameters()])
                loss = loss + recipe.prox_mu / 2 * (here - start).square().sum()
            loss.backward()
            optimizer.step()


@torch.inference_mode()
def embeddings(model: Classifier, images: ImageSet) -> npt.NDArray[np.float64]:
    """Return the embeddings (n, d)."""
    return torch.cat([model.embed(part) for part in pixels(images).split(1024)]).double().numpy()


@torch.inference_mode()
def head_predictions(model: Classifier, features: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return the classes that the model's own head gives these embeddings."""
    return model.head(torch.from_numpy(features).float()).argmax(dim=1).numpy()
