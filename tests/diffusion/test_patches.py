"""Pixels into channels and back: a permutation, and one scale."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import pixel_shuffle

from secure_fed_diffusion.diffusion.patches import model_shape, to_model_space
from secure_fed_diffusion.errors import ConfigError


@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize("colours", [1, 3])
def test_the_samplers_way_back_gives_every_pixel_its_place(patch: int, colours: int) -> None:
    shape = (colours, 8, 12)
    images = torch.randint(256, (5, *shape), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    folded = to_model_space(images, patch)
    assert tuple(folded.shape[1:]) == model_shape(shape, patch)
    back = (pixel_shuffle(folded, patch) / 2 + 0.5).clamp(0, 1)  # what the pipeline does
    assert torch.equal((back * 255).round().to(torch.uint8), images)


def test_the_range_is_minus_one_to_one() -> None:
    black_and_white = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2)
    folded = to_model_space(black_and_white, 1)
    assert folded.dtype == torch.float32
    assert folded.flatten().tolist() == [-1.0, 1.0]


def test_an_image_that_does_not_divide_is_refused_with_the_bound() -> None:
    for image in ((1, 27, 28), (1, 28, 27)):
        with pytest.raises(ConfigError, match=rf"divisor of {image[1]}x{image[2]}, got 2") as e:
            model_shape(image, 2)
        assert e.value.key == "model.patch"
