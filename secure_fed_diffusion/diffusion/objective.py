"""What the denoiser learns: noise prediction or v-prediction on a discrete schedule.

With a_t = sqrt(alpha_bar_t) and s_t = sqrt(1 - alpha_bar_t), x_t = a_t x_0 + s_t eps (Ho et al. 2020,
eq. 4).  `epsilon` predicts eps (eq. 14); `v` predicts v_t = a_t eps - s_t x_0 (Salimans and Ho 2022,
appendix D).  The loss of ONE record is the mean over its K draws of (t, eps): noise multiplicity,
averaged before any clipping (Dockhorn et al. 2023, section 3.2), so K never changes the sensitivity.

A record's draws are keyed by (seed, client, round, attempt, record): taking a record away shifts
nobody else's draw, which is what makes neighbouring data sets differ in one summand only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from secure_fed_diffusion.diffusion.settings import PREDICTIONS, SCHEDULES, DiffusionSettings


def scheduler_config(settings: DiffusionSettings) -> dict[str, Any]:
    """Return the arguments that every diffusers scheduler of this process shares."""
    return {
        "num_train_timesteps": settings.timesteps,
        "beta_schedule": SCHEDULES[settings.schedule],
        "prediction_type": PREDICTIONS[settings.prediction],
        "clip_sample": True,
    }


@dataclass(frozen=True, slots=True)
class Draws:
    """The (t, eps) of a batch of records: `timesteps` (n, K) int64, `noise` (n, K, c, h, w) float32."""

    timesteps: Tensor
    noise: Tensor

    def to(self, device: torch.device | str) -> Draws:
        """Return the same draws on `device`."""
        return Draws(self.timesteps.to(device), self.noise.to(device))


def draw_seed(key: tuple[int | str, ...]) -> int:
    """Return 63 bits that `key` alone decides."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest(), "big") >> 1


def draw(
    settings: DiffusionSettings, image_shape: tuple[int, int, int], *, keys: Sequence[tuple[int | str, ...]]
) -> Draws:
    """Draw (t, eps) for each record from its own key; on the CPU, so every device sees the same.

    These draws need no secrecy (they do not depend on the data) but they must not depend on the
    other records of the batch.
    """
    k = settings.noise_multiplicity
    timesteps = torch.empty((len(keys), k), dtype=torch.int64)
    noise = torch.empty((len(keys), k, *image_shape))
    generator = torch.Generator()
    for row, key in enumerate(keys):
        generator.manual_seed(draw_seed(key))
        timesteps[row] = torch.randint(settings.timesteps, (k,), generator=generator)
        noise[row] = torch.randn((k, *image_shape), generator=generator)
    return Draws(timesteps, noise)


class Objective:
    """The training loss of one record or of a batch."""

    def __init__(self, settings: DiffusionSettings, device: torch.device | str = "cpu") -> None:
        self.settings = settings
        alpha_bar = DDPMScheduler(**scheduler_config(settings)).alphas_cumprod
        self._signal = alpha_bar.sqrt().to(device)
        self._noise = (1 - alpha_bar).sqrt().to(device)

    def losses(
        self, denoise: Callable[..., Any], x0: Tensor, label: Tensor, t: Tensor, eps: Tensor
    ) -> Tensor:
        """Return the squared error of each row: x0, eps (n, c, h, w) in [-1, 1]; label, t (n,) -> (n,)."""
        a = self._signal[t].to(x0.dtype).view(-1, 1, 1, 1)
        s = self._noise[t].to(x0.dtype).view(-1, 1, 1, 1)
        target = eps if self.settings.prediction == "epsilon" else a * eps - s * x0
        prediction = denoise(a * x0 + s * eps, t, class_labels=label, return_dict=False)[0]
        return (prediction - target).square().mean(dim=(1, 2, 3))

    def loss_one(
        self, denoise: Callable[..., Any], x0: Tensor, label: Tensor, t: Tensor, eps: Tensor
    ) -> Tensor:
        """Return ONE record's mean loss over K draws: x0 (c, h, w), label (), t (K,), eps (K, c, h, w)."""
        k = t.shape[0]
        return self.losses(denoise, x0.expand(k, *x0.shape), label.expand(k), t, eps).mean()

    def loss_batch(
        self, denoise: Callable[..., Any], x0: Tensor, labels: Tensor, t: Tensor, eps: Tensor
    ) -> Tensor:
        """Return the mean loss of a batch: x0 (n, c, h, w), labels (n,), t (n, K), eps (n, K, c, h, w)."""
        n, k = t.shape
        spread = x0.unsqueeze(1).expand(n, k, *x0.shape[1:]).reshape(n * k, *x0.shape[1:])
        return self.losses(
            denoise, spread, labels.repeat_interleave(k), t.reshape(-1), eps.reshape(n * k, *x0.shape[1:])
        ).mean()
