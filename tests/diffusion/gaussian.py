"""The best denoiser of images whose pixels are independent Gaussians: known at every noise level.

Pixels of class y are N(MEANS[y], SPREAD^2), so the mean of the clean pixel given a noisy one is linear in it,
and a sampler that solves its equation must give back that mean and that spread.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from secure_fed_diffusion.diffusion.objective import scheduler_config
from secure_fed_diffusion.diffusion.settings import DiffusionSettings

MEANS = (0.2, -0.1, 0.1)  # two classes, and the one that stands for a hidden label
SPREAD = 0.2
SIDE = 32


class GaussianDenoiser(torch.nn.Module):
    """Answers as a network that was trained for ever with `settings`."""

    def __init__(self, settings: DiffusionSettings) -> None:
        super().__init__()
        self.config = SimpleNamespace(sample_size=(SIDE, SIDE), in_channels=1, num_class_embeds=len(MEANS))
        self.device = torch.device("cpu")
        self.settings = settings
        self.calls, self.rows, self.lowest_level = 0, 0, math.inf
        self.dtype_of_weights = torch.nn.Parameter(torch.zeros(1))
        if settings.prediction != "edm":
            self.alpha_bar = DDPMScheduler(**scheduler_config(settings)).alphas_cumprod.double()

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor) -> SimpleNamespace:
        """Return what the network is asked for: noise, v or EDM's F."""
        self.calls, self.rows = self.calls + 1, self.rows + len(x)
        self.lowest_level = min(self.lowest_level, float(t))
        mean = torch.tensor(MEANS, dtype=torch.float64)[class_labels].view(-1, 1, 1, 1)
        x = x.double()
        if self.settings.prediction == "edm":
            sigma, data = math.exp(4 * float(t)), self.settings.sigma_data
            spread = math.hypot(sigma, data)
            noisy = x * spread
            clean = (SPREAD**2 * noisy + sigma**2 * mean) / (SPREAD**2 + sigma**2)
            answer = (clean - data**2 / spread**2 * noisy) / (sigma * data / spread)
        else:
            a, s = float(self.alpha_bar[t].sqrt()), float((1 - self.alpha_bar[t]).sqrt())
            clean = (a * SPREAD**2 * x + s**2 * mean) / (a**2 * SPREAD**2 + s**2)
            eps = (x - a * clean) / s
            answer = eps if self.settings.prediction == "epsilon" else a * eps - s * clean
        return SimpleNamespace(sample=answer.float())
