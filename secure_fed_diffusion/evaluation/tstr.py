"""TSTR: train a classifier on synthetic images, test it on real ones.

The one figure that compares across papers.  The classifiers and their training are DPDM's (Dockhorn et
al. 2023, arXiv 2210.09929, appendix on downstream classifiers): Adam at 3e-4, batches of 128, 50 epochs,
pixels in [−1, 1].  One departure beside those of `classifiers`: we report the LAST epoch (DPDM keeps the
epoch that does best on held-out samples; choosing on test data would be a leak).

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
from secure_fed_diffusion.evaluation.classifiers import ClassifierName, build
from secure_fed_diffusion.evaluation.intervals import Interval, clopper_pearson
from secure_fed_diffusion.evaluation.seeding import seeded

_LEARNING_RATE = 3e-4
_BATCH = 128


def train_synthetic_test_real(
    synthetic: ImageSet,
    real_test: ImageSet,
    n_classes: int,
    *,
    classifier: ClassifierName = "cnn",
    epochs: int = 50,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> float:
    """Return the accuracy in [0, 1] on `real_test` of a classifier of DPDM's trained on `synthetic`.

    `progress` is called with the epochs done and the epochs in all.
    """
    if not len(synthetic) or not len(real_test):
        raise DataError(f"TSTR needs images: got {len(synthetic)} synthetic, {len(real_test)} real ones")
    images = _pixels(synthetic.images).to(device)
    labels = torch.tensor(synthetic.labels, device=device)
    with seeded(seed, device):
        model = build(classifier, images.shape[1:], n_classes).to(device)
        model = model.to(memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(
            model.parameters(), lr=_LEARNING_RATE, fused=True
        )  # one pass over memory
        for epoch in range(epochs):
            for batch in torch.randperm(len(labels)).to(device).split(_BATCH):
                optimizer.zero_grad()
                cross_entropy(model(images[batch]), labels[batch]).backward()
                optimizer.step()
            if progress is not None:
                progress(epoch + 1, epochs)
    return _accuracy(model.eval(), real_test, device)


def accuracy_interval(accuracy: float, n_test: int) -> Interval:
    """Return the 95 % interval of an accuracy over the choice of test images (binomial, Clopper–Pearson).

    It does not cover the samples drawn, the classifier's seed, nor the training of the model.
    """
    return clopper_pearson(round(accuracy * n_test), n_test)


def _pixels(images: npt.NDArray[np.uint8]) -> Tensor:
    # channels last: the same network, a third faster on a CPU
    return torch.tensor(images).to(torch.float32, memory_format=torch.channels_last) / 127.5 - 1


def _accuracy(model: nn.Module, real_test: ImageSet, device: torch.device | str) -> float:
    with torch.inference_mode():
        predicted = torch.cat(
            [model(piece.to(device)).argmax(dim=1).cpu() for piece in _pixels(real_test.images).split(1024)]
        )
    return float((predicted.numpy() == real_test.labels).mean())
