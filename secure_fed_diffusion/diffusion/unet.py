"""The denoiser: diffusers' class-conditional `UNet2DModel`, built from settings that are checked first.

There is no dropout: its masks are dealt out by position in the batch, so a record's gradient would depend
on which others were sampled.  Which blocks may be named: `diffusion.settings`.

>>> unet = build_unet(ModelSettings(channels=(8, 16)), image_shape=(1, 8, 8), n_classes=10, n_timesteps=100)
>>> sum(p.numel() for p in unet.parameters()) > 1000
True
"""

from __future__ import annotations

import torch
from diffusers import UNet2DModel

from secure_fed_diffusion.diffusion.patches import model_shape
from secure_fed_diffusion.diffusion.settings import ModelSettings
from secure_fed_diffusion.errors import ConfigError


def build_unet(
    settings: ModelSettings,
    *,
    image_shape: tuple[int, int, int],
    n_classes: int,
    n_timesteps: int,
    seed: int = 0,
) -> UNet2DModel:
    """Build the U-Net with an initialisation that `seed` alone decides.

    Args:
        settings: the shape of the network.
        image_shape: (channels, height, width); height and width divide by 2 per resolution but the last.
        n_classes: number of class labels the network is conditioned on.
        n_timesteps: length of the noise schedule (used by learned time embeddings).
        seed: public; the global generator of torch is left as it was.

    Raises:
        ConfigError: the image does not fit the blocks.
    """
    colours, height, width = model_shape(image_shape, settings.patch)
    factor = 2 ** (len(settings.channels) - 1)
    if height % factor or width % factor:
        raise ConfigError(
            f"{len(settings.channels)} resolutions need images divisible by {factor}, got {height}x{width} "
            f"with model.patch={settings.patch}",
            key="model.channels",
        )
    down, up = settings.blocks()
    for block in down + up:
        if "Skip" in block and colours != 3:
            raise ConfigError(
                f"{block} needs images of 3 channels, got {colours}",
                key="model.down_blocks" if block in down else "model.up_blocks",
            )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2DModel(
            sample_size=(height, width),
            in_channels=colours,
            out_channels=colours,
            time_embedding_type=settings.time_embedding,
            num_train_timesteps=n_timesteps,
            down_block_types=down,
            mid_block_type="UNetMidBlock2D" if settings.middle_block else None,
            up_block_types=up,
            block_out_channels=settings.channels,
            layers_per_block=settings.layers_per_block,
            norm_num_groups=settings.norm_groups,
            attention_head_dim=settings.attention_head_dim,
            num_class_embeds=n_classes,
        )
