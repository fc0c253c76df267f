"""TSTR: train a classifier on synthetic images, test it on real ones.

The one figure that compares across papers.  The classifier is the CNN of DPDM (Dockhorn et al. 2023,
arXiv 2210.09929, appendix on downstream classifiers): 3×3 convolutions of 32, 64 and 128 channels,
dropout 0.5, Adam at 3e-4, batches of 128, 50 epochs, pixels in [−1, 1].  Two departures: we report
the LAST epoch (DPDM keeps the epoch that does best on held-out samples; choosing on test data
would be a leak), and images below 28×28 get padded convolutions, for lack of pixels.

The seed fixes initialisation, order and dropout; the last bits still depend on the number of
threads and on the device.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from secure_fed_diffusion.data.datasets import ImageSet
from secure_fed_diffusion.errors import DataError
from secure_fed_diffusion.evaluation.seeding import seeded

_LEARNING_RATE = 3e-4
_BATCH = 128
_DROPOUT = 0.5
_UNPADDED_SIDE = 28  # from here on three unpadded convolutions leave enough pixels


def train_synthetic_test_real(
    synthetic: ImageSet,
    real_test: ImageSet,
    n_classes: int,
    *,
    epochs: int = 50,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> float:
    """Return the accuracy in [0, 1] on `real_test` of DPDM's CNN trained on `synthetic`.

    `progress` is called with the epochs done and the epochs in all.
    """
    if not len(synthetic) or not len(real_test):
        raise DataError(f"TSTR needs images: got {len(synthetic)} synthetic, {len(real_test)} real ones")
    images = _pixels(synthetic.images).to(device)
    labels = torch.tensor(synthetic.labels, device=device)
    with seeded(seed, device):
        model = dpdm_cnn(images.shape[1:], n_classes).to(device).to(memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(model.parameters(), lr=_LEARNING_RATE)
        for epoch in range(epochs):
            for batch in torch.randperm(len(labels)).to(device).split(_BATCH):
                optimizer.zero_grad()
                cross_entropy(model(images[batch]), labels[batch]).backward()
                optimizer.step()
            if progress is not None:
                progress(epoch + 1, epochs)
    return _accuracy(model.eval(), real_test, device)


def dpdm_cnn(image_shape: tuple[int, ...] | torch.Size, n_classes: int) -> nn.Module:
    """Return DPDM's classifier, freshly initialised, for images (c, h, w) in [−1, 1]."""
    channels, height, width = image_shape
    padding = 0 if min(height, width) >= _UNPADDED_SIDE else 1
    convolutions = nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=padding),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Dropout(_DROPOUT),
        nn.Conv2d(32, 64, 3, padding=padding),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Dropout(_DROPOUT),
        nn.Conv2d(64, 128, 3, padding=padding),
        nn.ReLU(),
        nn.Flatten(),
    )
    shrink = 2 * (1 - padding)  # pixels that an unpadded convolution takes off each side length
    sides = [((side - shrink) // 2 - shrink) // 2 - shrink for side in (height, width)]
    return nn.Sequential(
        convolutions,
        nn.Linear(128 * sides[0] * sides[1], 128),
        nn.ReLU(),
        nn.Dropout(_DROPOUT),
        nn.Linear(128, n_classes),
    )


def _pixels(images: npt.NDArray[np.uint8]) -> Tensor:
    # channels last: the same network, a third faster on a CPU
    return torch.tensor(images).to(torch.float32, memory_format=torch.channels_last) / 127.5 - 1


def _accuracy(model: nn.Module, real_test: ImageSet, device: torch.device | str) -> float:
    with torch.inference_mode():
        predicted = torch.cat(
            [model(piece.to(device)).argmax(dim=1).cpu() for piece in _pixels(real_test.images).split(1024)]
        )
    return float((predicted.numpy() == real_test.labels).mean())
