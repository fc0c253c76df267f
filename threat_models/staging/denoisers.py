"""The networks that the claims on learning train: an MLP and a convolutional denoiser, and the real U-Net.

The two small ones take the U-Net's place in the real federation (same call, same per-example gradients);
they are what published inversions succeed on.  Their architecture is public, as the U-Net's is.

>>> mlp = MlpDenoiser(pixels=64, hidden=16, n_classes=10, n_timesteps=50)
>>> mlp(torch.zeros(2, 1, 8, 8), torch.tensor([3, 4]), class_labels=torch.tensor([1, 2]))[0].shape
torch.Size([2, 1, 8, 8])
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from secure_fed_diffusion.diffusion.settings import ModelSettings
from secure_fed_diffusion.diffusion.unet import build_unet

N_CLASSES, SIDE = 10, 8
PIXELS = SIDE * SIDE
TIMESTEPS = 50


class MlpDenoiser(nn.Module):
    """One hidden layer; time step and class each add their own row to its input."""

    def __init__(
        self,
        *,
        pixels: int = PIXELS,
        hidden: int = 64,
        n_classes: int = N_CLASSES,
        n_timesteps: int = TIMESTEPS,
    ) -> None:
        super().__init__()
        self.first = nn.Linear(pixels, hidden)
        self.time = nn.Embedding(n_timesteps, hidden)
        self.label = nn.Embedding(n_classes, hidden)
        self.last = nn.Linear(hidden, pixels)

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        """Return the prediction (n, c, h, w), in a tuple as diffusers' models do."""
        hidden = self.first(x.flatten(1)) + self.time(t) + self.label(class_labels)
        return (self.last(torch.relu(hidden)).view_as(x),)


class ConvDenoiser(nn.Module):
    """Three convolutions without normalisation; time step and class move the channels of the first."""

    def __init__(
        self, *, channels: int = 16, n_classes: int = N_CLASSES, n_timesteps: int = TIMESTEPS
    ) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, channels, 3, padding=1)
        self.time = nn.Embedding(n_timesteps, channels)
        self.label = nn.Embedding(n_classes, channels)
        self.middle = nn.Conv2d(channels, channels, 3, padding=1)
        self.last = nn.Conv2d(channels, 1, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        """Return the prediction (n, c, h, w), in a tuple as diffusers' models do."""
        shift = (self.time(t) + self.label(class_labels))[:, :, None, None]
        hidden = nn.functional.silu(self.first(x) + shift)
        return (self.last(nn.functional.silu(self.middle(hidden))),)


UNET = ModelSettings(channels=(8, 8), norm_groups=4, attention_head_dim=4)


def unet() -> nn.Module:
    """Build the smallest U-Net that the package's own tests train."""
    return build_unet(UNET, image_shape=(1, SIDE, SIDE), n_classes=N_CLASSES, n_timesteps=TIMESTEPS)


def initialised(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Build a network whose initial weights `seed` alone decides."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def by_parameter(model: nn.Module, flat: npt.NDArray[np.floating]) -> dict[str, npt.NDArray[np.floating]]:
    """Cut a flat vector (d,) into the parameters that it is made of."""
    parts, start = {}, 0
    for name, p in model.named_parameters():
        parts[name] = flat[start : start + p.numel()].reshape(p.shape)
        start += p.numel()
    return parts
