"""Which networks can be built, which are refused by name, and that building one disturbs nobody."""

from __future__ import annotations

import inspect
import re

import pytest
import torch
from diffusers.models.unets import unet_2d_blocks

from secure_fed_diffusion.diffusion.settings import (
    DOWN_BLOCKS,
    RGB_DOWN_BLOCKS,
    RGB_UP_BLOCKS,
    TIME_EMBEDDINGS,
    UP_BLOCKS,
    ModelSettings,
)
from secure_fed_diffusion.diffusion.unet import build_unet
from secure_fed_diffusion.errors import ConfigError

TINY = {"channels": (8, 8), "norm_groups": 4, "attention_head_dim": 4}


def known_to_diffusers(getter: object) -> set[str]:
    """Return every block name that diffusers' own factory compares with."""
    return set(re.findall(r'"(\w+Block2D)"', inspect.getsource(getter)))


REFUSED_DOWN = known_to_diffusers(unet_2d_blocks.get_down_block) - {*DOWN_BLOCKS, *RGB_DOWN_BLOCKS}
REFUSED_UP = known_to_diffusers(unet_2d_blocks.get_up_block) - {*UP_BLOCKS, *RGB_UP_BLOCKS}


def build(settings: ModelSettings, shape: tuple[int, int, int] = (1, 8, 8), seed: int = 0) -> torch.nn.Module:
    return build_unet(settings, image_shape=shape, n_classes=3, n_timesteps=20, seed=seed)


def test_diffusers_knows_blocks_that_we_refuse_and_all_that_we_allow() -> None:
    assert {"CrossAttnDownBlock2D", "DownEncoderBlock2D"} <= REFUSED_DOWN
    assert {"CrossAttnUpBlock2D", "UpDecoderBlock2D"} <= REFUSED_UP
    assert {*DOWN_BLOCKS, *RGB_DOWN_BLOCKS} <= known_to_diffusers(unet_2d_blocks.get_down_block)
    assert {*UP_BLOCKS, *RGB_UP_BLOCKS} <= known_to_diffusers(unet_2d_blocks.get_up_block)


@pytest.mark.parametrize(
    ("field", "block"),
    [
        *(("down_blocks", block) for block in sorted(REFUSED_DOWN | {"UpBlock2D", "Block"})),
        *(("up_blocks", block) for block in sorted(REFUSED_UP | {"DownBlock2D", ""})),
    ],
)
def test_a_block_without_a_proof_is_refused_by_its_name(field: str, block: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{block!r} has no proven per-example gradient")) as e:
        ModelSettings(**TINY, **{field: (block, block)})
    assert e.value.key == f"model.{field}"


@pytest.mark.parametrize(
    ("field", "block"),
    [
        *(("down_blocks", block) for block in RGB_DOWN_BLOCKS),
        *(("up_blocks", block) for block in RGB_UP_BLOCKS),
    ],
)
def test_skip_blocks_are_refused_where_the_image_has_one_channel(field: str, block: str) -> None:
    settings = ModelSettings(channels=(32, 32), norm_groups=4, **{field: (block, block)})
    with pytest.raises(ConfigError, match=f"{block} needs images of 3 channels, got 1") as e:
        build(settings)
    assert e.value.key == f"model.{field}"


@pytest.mark.parametrize(
    ("values", "key", "words"),
    [
        ({"channels": (8,)}, "model.channels", "at least 2 resolutions, got 1"),
        ({"channels": (8, 10)}, "model.channels", "multiples of model.norm_groups=4, got 10"),
        ({"channels": (8, 0)}, "model.channels", "got 0"),
        ({"norm_groups": 0}, "model.channels", "model.norm_groups=0"),
        ({"layers_per_block": 0}, "model.layers_per_block", ">= 1, got 0"),
        ({"attention_head_dim": 0}, "model.attention_head_dim", ">= 1, got 0"),
        ({"patch": 0}, "model.patch", ">= 1, got 0"),
        ({"time_embedding": "sine"}, "model.time_embedding", "positional, learned, got 'sine'"),
        ({"down_blocks": ("DownBlock2D",)}, "model.down_blocks", "2 entries"),
        ({"up_blocks": ("UpBlock2D",) * 3}, "model.up_blocks", "got 3"),
        ({"down_blocks": ("KDownBlock2D",) * 2}, "model.channels", "multiples of 32"),
    ],
)
def test_a_network_that_cannot_be_is_refused_with_key_bound_and_value(
    values: dict[str, object], key: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)) as e:
        ModelSettings(**(TINY | values))
    assert e.value.key == key


@pytest.mark.parametrize(
    ("shape", "values", "key"),
    [
        ((1, 8, 9), {}, "model.channels"),
        ((1, 8, 8), {"channels": (8, 8, 8, 8, 8)}, "model.channels"),
        ((1, 28, 28), {"patch": 2, "channels": (8, 8, 8)}, "model.channels"),
        ((1, 28, 28), {"patch": 3}, "model.patch"),
    ],
)
def test_an_image_that_does_not_divide_is_refused(
    shape: tuple[int, int, int], values: dict[str, object], key: str
) -> None:
    with pytest.raises(ConfigError) as e:
        build(ModelSettings(**(TINY | values)), shape)
    assert e.value.key == key
    assert f"{shape[1] // values.get('patch', 1) if key == 'model.channels' else shape[1]}x" in str(e.value)


@pytest.mark.parametrize("time_embedding", TIME_EMBEDDINGS)
def test_the_weights_depend_on_the_seed_and_on_nothing_else(time_embedding: str) -> None:
    settings = ModelSettings(**TINY, time_embedding=time_embedding)
    torch.manual_seed(11)
    one = build(settings, seed=4).state_dict()
    torch.manual_seed(12)
    two = build(settings, seed=4).state_dict()
    other = build(settings, seed=5).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_building_leaves_the_callers_randomness_as_it_was() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    build(ModelSettings(**TINY))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_network_answers_in_the_shape_of_its_patches_and_hears_the_class() -> None:
    unet = build(ModelSettings(**TINY, patch=2), (1, 8, 8)).eval()
    x = torch.randn((2, 4, 4, 4), generator=torch.Generator().manual_seed(0))
    t = torch.tensor([3, 3])
    with torch.no_grad():
        as_zero = unet(x, t, class_labels=torch.tensor([0, 0])).sample
        as_two = unet(x, t, class_labels=torch.tensor([2, 2])).sample
    assert as_zero.shape == x.shape
    assert not torch.equal(as_zero, as_two)


def test_attention_stands_at_the_lowest_resolution_unless_the_blocks_are_named() -> None:
    down, up = ModelSettings(channels=(8, 8, 8), norm_groups=4).blocks()
    assert down == ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D")
    assert up == ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D")
    named = ModelSettings(**TINY, down_blocks=("DownBlock2D",) * 2, up_blocks=("UpBlock2D",) * 2)
    assert named.blocks() == (("DownBlock2D",) * 2, ("UpBlock2D",) * 2)
