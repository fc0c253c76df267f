"""The denoiser: diffusers' class-conditional `UNet2DModel`, built from settings that are checked first.

Only blocks whose per-example gradients by `vmap` agree with a one-example-at-a-time loop may be
named (`tests/training/test_per_example.py` proves each of them); the others are refused by name,
because a wrong per-example gradient is a wrong clip and so a wrong epsilon.  There is no dropout: its masks
are dealt out by position in the batch, so a record's gradient would depend on which others were sampled.

>>> unet = build_unet(ModelSettings(channels=(8, 16)), image_shape=(1, 8, 8), n_classes=10, n_timesteps=100)
>>> sum(p.numel() for p in unet.parameters()) > 1000
True
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from diffusers import UNet2DModel

from secure_fed_diffusion.diffusion.patches import model_shape
from secure_fed_diffusion.errors import ConfigError

DOWN_BLOCKS = ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D", "KDownBlock2D")
UP_BLOCKS = ("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D", "KUpBlock2D")
WIDE_BLOCKS = ("KDownBlock2D", "KUpBlock2D", "AttnSkipDownBlock2D", "AttnSkipUpBlock2D")
WIDE_GROUP = 32  # diffusers fixes the size or the number of their normalisation groups at 32
RGB_DOWN_BLOCKS = ("SkipDownBlock2D", "AttnSkipDownBlock2D")
RGB_UP_BLOCKS = ("SkipUpBlock2D", "AttnSkipUpBlock2D")
TIME_EMBEDDINGS = ("positional", "learned")  # diffusers' Fourier embedding divides by t, and t may be 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """The shape of the U-Net; one entry of `channels`, `down_blocks` and `up_blocks` a resolution."""

    channels: tuple[int, ...] = (16, 32)
    down_blocks: tuple[str, ...] = ()  # empty: DownBlock2D, and AttnDownBlock2D at the lowest resolution
    up_blocks: tuple[str, ...] = ()
    layers_per_block: int = 1
    norm_groups: int = 8
    attention_head_dim: int = 8
    middle_block: bool = True
    patch: int = 1  # pixels folded into channels along each axis before the network sees them
    time_embedding: str = "positional"

    def __post_init__(self) -> None:
        """Refuse what cannot be built or has no correct per-example gradient."""
        depth = len(self.channels)
        if depth < 2:
            raise ConfigError(f"expected at least 2 resolutions, got {depth}", key="model.channels")
        for width in self.channels:
            if width < 1 or self.norm_groups < 1 or width % self.norm_groups:
                raise ConfigError(
                    f"expected multiples of model.norm_groups={self.norm_groups}, got {width}",
                    key="model.channels",
                )
        for field in ("layers_per_block", "norm_groups", "attention_head_dim", "patch"):
            if getattr(self, field) < 1:
                raise ConfigError(f"expected >= 1, got {getattr(self, field)}", key=f"model.{field}")
        if self.time_embedding not in TIME_EMBEDDINGS:
            raise ConfigError(
                f"expected one of {', '.join(TIME_EMBEDDINGS)}, got {self.time_embedding!r}",
                key="model.time_embedding",
            )
        named = (("down_blocks", DOWN_BLOCKS, RGB_DOWN_BLOCKS), ("up_blocks", UP_BLOCKS, RGB_UP_BLOCKS))
        for field, allowed, rgb_only in named:
            blocks = getattr(self, field)
            if blocks and len(blocks) != depth:
                raise ConfigError(
                    f"expected {depth} entries, one for each of model.channels, got {len(blocks)}",
                    key=f"model.{field}",
                )
            for block in blocks:
                if block not in allowed + rgb_only:
                    raise ConfigError(
                        f"{block!r} has no proven per-example gradient; expected one of "
                        f"{', '.join(allowed)} (with 3 channels also {', '.join(rgb_only)})",
                        key=f"model.{field}",
                    )
                if block in WIDE_BLOCKS and any(width % WIDE_GROUP for width in self.channels):
                    raise ConfigError(
                        f"{block} needs widths that are multiples of {WIDE_GROUP}, got {list(self.channels)}",
                        key="model.channels",
                    )

    def blocks(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the names of the down and the up blocks, defaults filled in."""
        depth = len(self.channels)
        down = self.down_blocks or ("DownBlock2D",) * (depth - 1) + ("AttnDownBlock2D",)
        up = self.up_blocks or ("AttnUpBlock2D",) + ("UpBlock2D",) * (depth - 1)
        return down, up


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
