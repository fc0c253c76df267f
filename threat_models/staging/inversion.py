"""One record's update as a curious server has it, and what inversions of it share.

Off: mode `none` without masks, one local step of SGD on one image.  On: mode `distributed`, the client's
contribution with its masks off (all others collude), clipped, rounded, with its own noise share.  Dropped:
the same, but the client's noise came from a generator that the server can run again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from diffusers import DDPMScheduler
from torch import nn

from secure_fed_diffusion.diffusion.objective import scheduler_config
from secure_fed_diffusion.diffusion.settings import DiffusionSettings
from secure_fed_diffusion.federation.release import draw_noise
from threat_models.adversaries.curious_server import OneUpdate
from threat_models.claim import Arm, Staged
from threat_models.staging.small_federation import (
    Floats,
    chosen_digits,
    federation,
    in_unit_range,
    known_draws,
    predictable,
    quietest_round,
    settings_for,
)

CLIENTS, ROUNDS = 3, 8
LEARNING_RATE = 0.5  # of the local step; the plan tells it to the server
VISIBLE_DB, HIDDEN_DB = 20.0, 10.0
"""At 20 dB a digit is recognised at a glance; the mean of all digits, a guess without a view, has some 11."""


def settings_of(arm: Arm) -> Any:
    """Return the settings of the run that is looked at."""
    if arm is Arm.OFF:
        return settings_for(
            "none",
            clients=CLIENTS,
            rounds=ROUNDS,
            federation__masked=False,
            modes__none__optimizer="sgd",
            modes__none__learning_rate=LEARNING_RATE,
            modes__none__batch=1,
        )
    return settings_for(
        "distributed",
        clients=CLIENTS,
        rounds=ROUNDS,
        modes__distributed__sampling_rate=1.0,
        modes__distributed__divisor=CLIENTS,
        modes__distributed__micro_batch=1,
    )


def stage_one_update(
    build: Callable[[], nn.Module], arm: Arm, seed: int, noise_multiplier: float = 1.0
) -> Staged[OneUpdate]:
    """Let a client that holds one image answer the round whose draw hides it least."""
    images = [chosen_digits(1, 100 * seed + c) for c in range(CLIENTS)]
    label = f"noise of trial {seed}" if arm is Arm.DROPPED else None
    staged = federation(
        settings_of(arm),
        build,
        images,
        seed=seed,
        noise=noise_multiplier,
        noise_entropy={0: predictable(label)} if label else None,
    )
    number = quietest_round(staged.plan, images[0])
    timesteps, noise = known_draws(staged.plan, 0, number, images[0])
    release = staged.release_of(number)
    contribution = staged.contribution(0, number)
    gradient = contribution / -LEARNING_RATE if arm is Arm.OFF else contribution
    view = OneUpdate(
        weights=staged.weights,
        gradient=gradient,
        timestep=int(timesteps[0]),
        noise_image=noise[0, 0],
        timesteps=staged.plan.diffusion.timesteps,
        noise_label=label,
        noise_stddev=release.mechanism.share_stddev,
        grid_scale=release.grid.scale,
    )
    return Staged(view=view, truth=in_unit_range(images[0].images[0, 0]))


def without_known_noise(view: OneUpdate) -> Floats:
    """Return the gradient; where the client's generator can be run again, without the noise that it gave."""
    if view.noise_label is None:
        return view.gradient
    drawn = draw_noise(view.noise_stddev, len(view.gradient), predictable(view.noise_label))
    return view.gradient - drawn / view.grid_scale


def psnr(guess: Floats, truth: Floats) -> float:
    """Return the peak signal-to-noise ratio in dB of an image in [0, 1], at most 200."""
    bounded = np.clip(np.nan_to_num(guess, nan=0.5), 0.0, 1.0)
    error = float(np.mean((bounded - truth) ** 2))
    return 200.0 if error < 1e-20 else -10.0 * np.log10(error)


@lru_cache(maxsize=4)
def _alphas(timesteps: int) -> Floats:
    config = scheduler_config(DiffusionSettings(timesteps=timesteps))
    return np.asarray(DDPMScheduler(**config).alphas_cumprod, dtype=np.float64)


def signal_and_noise(timestep: int, timesteps: int) -> tuple[float, float]:
    """Return a_t and s_t of the public schedule, x_t = a_t x_0 + s_t eps."""
    alpha_bar = float(_alphas(timesteps)[timestep])
    return float(np.sqrt(alpha_bar)), float(np.sqrt(1.0 - alpha_bar))
