"""Images as the model sees them: [-1, 1], and a square of pixels folded into channels.

With patch p an image (c, h, w) becomes (c p^2, h/p, w/p), a permutation of its pixels: white noise stays
white noise, so the diffusion is the same and only the network's resolution changes.  At p = 2 a step of
the same width costs about a quarter.

>>> to_model_space(torch.zeros(1, 1, 4, 4, dtype=torch.uint8), 2).shape
torch.Size([1, 4, 2, 2])
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pixel_unshuffle

from secure_fed_diffusion.errors import ConfigError


def model_shape(image_shape: tuple[int, int, int], patch: int) -> tuple[int, int, int]:
    """Return the shape of one image in model space.

    Raises:
        ConfigError: the image does not divide into patches.
    """
    colours, height, width = image_shape
    if height % patch or width % patch:
        raise ConfigError(f"expected a divisor of {height}x{width}, got {patch}", key="model.patch")
    return colours * patch**2, height // patch, width // patch


def to_model_space(images: Tensor, patch: int) -> Tensor:
    """Map uint8 images (n, c, h, w) in [0, 255] to float32 (n, c p^2, h/p, w/p) in [-1, 1]."""
    return pixel_unshuffle(images.to(torch.float32) / 127.5 - 1.0, patch)
