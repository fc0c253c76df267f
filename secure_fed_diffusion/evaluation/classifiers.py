"""The classifiers of DPDM's tables (Dockhorn et al. 2023, arXiv 2210.09929; their
`train_downstream_classifiers`).

`logreg` is one linear layer, `mlp` has 100 hidden units, `cnn` has 3×3 convolutions of 32, 64 and 128
channels and dropout 0.5.  One departure: images below 28×28 get padded convolutions, for lack of pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

ClassifierName = Literal["cnn", "mlp", "logreg"]
CLASSIFIERS: tuple[ClassifierName, ...] = get_args(ClassifierName)

_HIDDEN = 100
_UNPADDED_SIDE = 28  # from here on three unpadded convolutions leave enough pixels

Shape = tuple[int, ...] | torch.Size


def build(name: ClassifierName, image_shape: Shape, n_classes: int) -> nn.Module:
    """Return a classifier of images (c, h, w) in [−1, 1], freshly initialised."""
    return _BUILDERS[name](image_shape, n_classes)


def dpdm_logreg(image_shape: Shape, n_classes: int) -> nn.Module:
    """Return a multinomial logistic regression on the pixels."""
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(image_shape), n_classes))


def dpdm_mlp(image_shape: Shape, n_classes: int) -> nn.Module:
    """Return a network with one hidden layer."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(math.prod(image_shape), _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, n_classes)
    )


def dpdm_cnn(image_shape: Shape, n_classes: int) -> nn.Module:
    """Return DPDM's convolutional network."""
    channels, height, width = image_shape
    padding = 0 if min(height, width) >= _UNPADDED_SIDE else 1
    convolutions = nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=padding),
        nn.MaxPool2d(2),
        nn.ReLU(),
        FairDropout(),
        nn.Conv2d(32, 64, 3, padding=padding),
        nn.MaxPool2d(2),
        nn.ReLU(),
        FairDropout(),
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
        FairDropout(),
        nn.Linear(128, n_classes),
    )


class FairDropout(nn.Module):
    """Dropout at 0.5 whose coins are single random bits.

    The same law as `nn.Dropout(0.5)`.  That one draws a whole number for each coin, on one thread: a
    fifth of the time of a training step on a CPU.
    """

    coins: Tensor

    def __init__(self) -> None:
        super().__init__()
        # row b: the bits of the byte b, as the factors 0 and 2 that keep the mean
        bits = torch.arange(256)[:, None] >> torch.arange(8) & 1
        self.register_buffer("coins", bits.float() * 2, persistent=False)

    def forward(self, activations: Tensor) -> Tensor:
        """Zero half of the activations and double the others; in eval mode change nothing."""
        if not self.training:
            return activations
        n = activations.numel()
        words = torch.empty(-(-n // 64), dtype=torch.int64, device=activations.device).random_(-(2**63), None)
        octets = words.view(torch.uint8).to(torch.int32)
        factors = self.coins.index_select(0, octets).view(-1)[:n]
        # independent coins have no order, so they take the memory layout of the activations
        layout = torch.empty_like(activations).stride()
        return activations * factors.as_strided(activations.shape, layout)


_BUILDERS: Mapping[ClassifierName, Callable[[Shape, int], nn.Module]] = {
    "cnn": dpdm_cnn,
    "mlp": dpdm_mlp,
    "logreg": dpdm_logreg,
}
