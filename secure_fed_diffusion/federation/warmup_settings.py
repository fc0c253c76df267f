"""What a run may set of its warm-up: class means and covariances, and the training on them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from secure_fed_diffusion.federation.participation import require


@dataclass(frozen=True, slots=True, kw_only=True)
class CovarianceSettings:
    """How each class's images vary about their mean: released after the class means, in the same way.

    Each of `draws` releases costs one use of the Gaussian mechanism at `noise_multiplier` in the guard view.
    `frequencies` along each axis of each channel, the lowest ones, are looked at; a record's row is the
    product of those with themselves, so `clip_norm` bounds the square of its distance from the mean.
    """

    draws: int = 0
    sampling_rate: float = 1.0
    noise_multiplier: float = 5.0
    clip_norm: float = 30.0
    frequencies: int = 8

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        _require_releases(self, "warmup.covariances")
        require(self.frequencies >= 1, "warmup.covariances.frequencies", ">= 1", self.frequencies)


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmupSettings:
    """Class means, released by the same secure sum and charged to the same ledger, then trained on.

    Each of `draws` releases costs one use of the Gaussian mechanism at `noise_multiplier` in the guard
    view; `draws = 0` switches the warm-up off.  The server then trains for `steps` ordinary steps on images
    drawn about the means, by the class covariances where they were released, moved and turned a little:
    post-processing, free of cost, and so are the keys that say how.

    `reserved_attempts` repeats of these rounds together are paid for in advance, apart from those of the
    training; left out, `federation.reserved_attempts` is one reserve for all rounds.  A reserve is dear here,
    where each release reads all records, and cheap in the training, where each reads a sample.
    """

    draws: int = 2
    sampling_rate: float = 0.5
    noise_multiplier: float = 4.0
    clip_norm: float = 5.0
    steps: int = 200
    batch: int = 64
    learning_rate: float = 1e-3
    augmentation: Literal["none", "affine", "elastic"] = "affine"  # "elastic": bent and re-inked besides
    strength: float = 1.0  # of the augmentation: each bound times this
    decay: bool = False  # let the learning rate fall along a half cosine
    reserved_attempts: int | None = None
    covariances: CovarianceSettings = field(default_factory=CovarianceSettings)

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        _require_releases(self, "warmup")
        for name in ("learning_rate", "strength"):
            value = getattr(self, name)
            require(math.isfinite(value) and value > 0, f"warmup.{name}", "> 0", value)
        for name in ("steps", "batch"):
            require(getattr(self, name) >= 1, f"warmup.{name}", ">= 1", getattr(self, name))
        own = self.reserved_attempts
        require(own is None or own >= 0, "warmup.reserved_attempts", ">= 0", own)
        bound = "0 without class means: covariances are taken about them"
        around = self.draws or not self.covariances.draws
        require(bool(around), "warmup.covariances.draws", bound, self.covariances.draws)

    @property
    def rounds(self) -> int:
        """How many rounds come before the training."""
        return self.draws + self.covariances.draws


def _require_releases(released: WarmupSettings | CovarianceSettings, key: str) -> None:
    """Check what both kinds of release have: how many, of what share of the records, clip and noise."""
    require(released.draws >= 0, f"{key}.draws", ">= 0", released.draws)
    require(0 < released.sampling_rate <= 1, f"{key}.sampling_rate", "in (0, 1]", released.sampling_rate)
    for name in ("noise_multiplier", "clip_norm"):
        value = getattr(released, name)
        require(math.isfinite(value) and value > 0, f"{key}.{name}", "> 0", value)
