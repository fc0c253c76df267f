"""What a run may set of its denoiser, its forward process and its sampler; no torch is needed to check it.

So a process that only answers a step of the secure sum never imports torch.  Only blocks whose
per-example gradients by `vmap` agree with a one-example-at-a-time loop may be named
(`tests/training/test_per_example.py` proves each of them); the others are refused by name, because a
wrong per-example gradient is a wrong clip and so a wrong epsilon.

>>> ModelSettings(channels=(8, 16)).blocks()[0]
('DownBlock2D', 'AttnDownBlock2D')
"""

from __future__ import annotations

from dataclasses import dataclass

from secure_fed_diffusion.errors import ConfigError

DOWN_BLOCKS = ("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D", "KDownBlock2D")
UP_BLOCKS = ("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D", "KUpBlock2D")
WIDE_BLOCKS = ("KDownBlock2D", "KUpBlock2D", "AttnSkipDownBlock2D", "AttnSkipUpBlock2D")
WIDE_GROUP = 32  # diffusers fixes the size or the number of their normalisation groups at 32
RGB_DOWN_BLOCKS = ("SkipDownBlock2D", "AttnSkipDownBlock2D")
RGB_UP_BLOCKS = ("SkipUpBlock2D", "AttnSkipUpBlock2D")
TIME_EMBEDDINGS = ("positional", "learned")  # diffusers' Fourier embedding divides by t, and t may be 0
PREDICTIONS = {"epsilon": "epsilon", "v": "v_prediction"}  # ours: diffusers'
SCHEDULES = {"cosine": "squaredcos_cap_v2", "linear": "linear"}


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


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusionSettings:
    """The forward process and the target."""

    prediction: str = "v"
    schedule: str = "cosine"
    timesteps: int = 1000
    noise_multiplicity: int = 1  # K draws of (t, eps) a record and step

    def __post_init__(self) -> None:
        """Refuse unknown names and empty schedules."""
        if self.prediction not in PREDICTIONS:
            raise ConfigError(
                f"expected one of {', '.join(PREDICTIONS)}, got {self.prediction!r}",
                key="diffusion.prediction",
            )
        if self.schedule not in SCHEDULES:
            raise ConfigError(
                f"expected one of {', '.join(SCHEDULES)}, got {self.schedule!r}", key="diffusion.schedule"
            )
        if self.timesteps < 2:
            raise ConfigError(f"expected >= 2, got {self.timesteps}", key="diffusion.timesteps")
        if self.noise_multiplicity < 1:
            raise ConfigError(
                f"expected >= 1, got {self.noise_multiplicity}", key="diffusion.noise_multiplicity"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerSettings:
    """Stochastic DDIM (Song et al. 2021, eq. 12): `eta` 1 adds DDPM's noise back, 0 is deterministic."""

    steps: int = 50
    eta: float = 1.0
    batch: int = 250

    def __post_init__(self) -> None:
        """Refuse what cannot be sampled."""
        if self.steps < 1:
            raise ConfigError(f"expected >= 1, got {self.steps}", key="sampler.steps")
        if not 0.0 <= self.eta <= 1.0:
            raise ConfigError(f"expected 0 <= eta <= 1, got {self.eta}", key="sampler.eta")
        if self.batch < 1:
            raise ConfigError(f"expected >= 1, got {self.batch}", key="sampler.batch")
