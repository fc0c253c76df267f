"""What the denoiser learns: noise or v on a discrete schedule, or EDM's preconditioned target.

With a_t = sqrt(alpha_bar_t) and s_t = sqrt(1 - alpha_bar_t), x_t = a_t x_0 + s_t eps (Ho et al. 2020,
eq. 4).  `epsilon` predicts eps (eq. 14); `v` predicts v_t = a_t eps - s_t x_0 (Salimans and Ho 2022,
appendix D).  `edm` is Karras et al. 2022, table 1: the network sees c_in (x_0 + sigma eps) and c_noise, its
target is (x_0 - c_skip (x_0 + sigma eps)) / c_out, and lambda c_out^2 = 1, so its loss is a plain mean square
as well.  All three are rows of one table: input a x_0 + s eps, target u x_0 + w eps.

EDM's sigma is drawn from T = `timesteps` quantiles, sigma_t = exp(p_mean + p_std Phi^-1((t + 1/2) / T)): so
a step is an integer in every objective, and what a record drew can be written down exactly.

The loss of ONE record is the mean over its K draws of (t, eps): noise multiplicity, averaged before any
clipping (Dockhorn et al. 2023, section 3.2), so K never changes the sensitivity.  For the same reason a
record's K draws may depend on each other (`stratified`) and may hide its label (`label_dropout`).

A record's draws are keyed by (seed, client, round, attempt, its own content): taking a record away shifts
nobody else's draw, which is what makes neighbouring data sets differ in one summand only.

>>> settings = DiffusionSettings(noise_multiplicity=4, stratified=True)
>>> steps = draw(settings, (1, 2, 2), keys=[("record", 7)]).timesteps
>>> (steps * 4 // settings.timesteps).tolist()
[[0, 1, 2, 3]]
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
from secure_fed_diffusion.errors import ConfigError


def scheduler_config(settings: DiffusionSettings) -> dict[str, Any]:
    """Return the arguments that every diffusers scheduler of a discrete process shares.

    Raises:
        ConfigError: the process is EDM's, which has no discrete schedule.
    """
    if settings.prediction == "edm":
        raise ConfigError(
            "expected epsilon or v for a discrete schedule, got 'edm'", key="diffusion.prediction"
        )
    return {
        "num_train_timesteps": settings.timesteps,
        "beta_schedule": SCHEDULES[settings.schedule],
        "prediction_type": PREDICTIONS[settings.prediction],
        "clip_sample": True,
    }


@dataclass(frozen=True, slots=True)
class Draws:
    """The (t, eps) of a batch of records: `timesteps` (n, K) int64, `noise` (n, K, c, h, w) float32.

    A time step t >= T, T the length of the process, is step t - T with the record's label hidden.
    """

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

    These draws need no secrecy (nothing shows them, and they are the record's own) but they must not depend
    on other records: not on those of the batch, and not on a place among them.
    """
    k = settings.noise_multiplicity
    timesteps = torch.empty((len(keys), k), dtype=torch.int64)
    noise = torch.empty((len(keys), k, *image_shape))
    generator = torch.Generator()
    for row, key in enumerate(keys):
        generator.manual_seed(draw_seed(key))
        if settings.stratified:
            timesteps[row] = stratified_steps(settings.trained_timesteps, k, generator)
        else:
            timesteps[row] = torch.randint(settings.trained_timesteps, (k,), generator=generator)
        noise[row] = torch.randn((k, *image_shape), generator=generator)
        timesteps[row] = hide_labels(settings, timesteps[row], generator)
    return Draws(timesteps, noise)


def stratified_steps(timesteps: int, k: int, generator: torch.Generator) -> Tensor:
    """Draw one step from each of `k` equal parts of the process, (k,) int64, in ascending order.

    One of them picked at random is uniform on all steps, so the mean of the K losses has the expectation that
    independent steps give it, and no larger variance.
    """
    places = (torch.arange(k) + torch.rand(k, generator=generator, dtype=torch.float64)) / k
    return (places * timesteps).to(torch.int64).clamp(max=timesteps - 1)


def hide_labels(settings: DiffusionSettings, t: Tensor, generator: torch.Generator) -> Tensor:
    """Return steps `t` of any shape with T added where a coin of `label_dropout` hides the label."""
    if not settings.label_dropout:
        return t
    hidden = torch.rand(t.shape, generator=generator, dtype=torch.float64) < settings.label_dropout
    return t + settings.timesteps * hidden


def edm_sigmas(settings: DiffusionSettings) -> Tensor:
    """Return EDM's noise levels (T,), float64 and ascending: the midpoints' quantiles of its log-normal."""
    places = (torch.arange(settings.timesteps, dtype=torch.float64) + 0.5) / settings.timesteps
    return (settings.p_mean + settings.p_std * torch.special.ndtri(places)).exp()


class Objective:
    """The training loss of one record or of a batch.

    `n_classes` is the number of real classes; the embedding behind them stands for a hidden label.
    """

    def __init__(
        self,
        settings: DiffusionSettings,
        device: torch.device | str = "cpu",
        *,
        n_classes: int | None = None,
    ) -> None:
        if settings.label_dropout and n_classes is None:
            raise ConfigError(
                f"expected the number of classes with label_dropout={settings.label_dropout}, got none",
                key="diffusion.label_dropout",
            )
        self.settings = settings
        self._null_class = n_classes
        if settings.prediction == "edm":
            sigma, data = edm_sigmas(settings), settings.sigma_data
            spread = (sigma.square() + data**2).sqrt()
            signal, noise = 1 / spread, sigma / spread
            of_image, of_noise = sigma / (data * spread), -data / spread
            self._scale, self._level = signal.float().to(device), (sigma.log() / 4).float().to(device)
        else:
            alpha_bar = DDPMScheduler(**scheduler_config(settings)).alphas_cumprod
            signal, noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
            if settings.prediction == "v":
                of_image, of_noise = -noise, signal
            else:
                of_image, of_noise = torch.zeros_like(signal), torch.ones_like(signal)
            self._scale, self._level = (
                torch.ones_like(signal).to(device),
                torch.arange(len(signal)).to(device),
            )
        self._signal, self._noise = signal.float().to(device), noise.float().to(device)
        self._of_image, self._of_noise = of_image.float().to(device), of_noise.float().to(device)

    def losses(
        self, denoise: Callable[..., Any], x0: Tensor, label: Tensor, t: Tensor, eps: Tensor
    ) -> Tensor:
        """Return the squared error of each row: x0, eps (n, c, h, w) in [-1, 1]; label, t (n,) -> (n,)."""
        label, t = self._as_seen(label, t)
        a, s, u, w = (
            table[t].to(x0.dtype).view(-1, 1, 1, 1)
            for table in (self._signal, self._noise, self._of_image, self._of_noise)
        )
        target = w * eps + u * x0
        prediction = denoise(a * x0 + s * eps, self._level[t], class_labels=label, return_dict=False)[0]
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

    def predicted_noise(self, denoise: Callable[..., Any], x: Tensor, label: Tensor, t: Tensor) -> Tensor:
        """Return the noise that the network sees in x (n, c, h, w), by whatever it predicts; label, t (n,).

        x is a_t x_0 + s_t eps on a discrete schedule and x_0 + sigma_t eps in EDM's process.
        """
        label, t = self._as_seen(label, t)
        c, a, s, u, w = (
            table[t].to(x.dtype).view(-1, 1, 1, 1)
            for table in (self._scale, self._signal, self._noise, self._of_image, self._of_noise)
        )
        output: Tensor = denoise(c * x, self._level[t], class_labels=label, return_dict=False)[0]
        return (a * output - u * c * x) / (a * w - s * u)

    def _as_seen(self, label: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the labels that the network is told and the steps (n,) within the process."""
        if not self.settings.label_dropout:
            return label, t
        hidden = t >= self.settings.timesteps
        return torch.where(hidden, self._null_class, label), t - self.settings.timesteps * hidden
