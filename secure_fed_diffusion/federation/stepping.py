"""What the server does with a released sum: its optimiser, its learning rate's course, its average.

Every key here is read by the server alone, after the noise: post-processing of the sum, so no choice in
this file moves a sensitivity or a charge, and all of them are free to differ between two runs.  They are
in the plan's digest all the same, so that a run that is resumed goes on as it began.

A learning rate is a function of the round's number alone (`learning_rate_at`): nothing has to be saved for
it, and a round that is repeated takes the same one.

Not protected against: a choice among these made by looking at private data; whoever tunes on them pays.

Source: Tang et al. 2023 (DP-AdamBC, algorithm 1); Reddi et al. 2021 (FedAvgM and FedAdam, algorithms 1 and
2); Karras et al. 2024 (power-function EMA, eqs. 2 to 5); Hu et al. 2024 (the trapezoid, WSD, section 4).

>>> settings = GradientServerSettings(schedule="trapezoid", decay_share=0.5)
>>> [round(course(settings, t, 4), 3) for t in range(1, 5)]
[1.0, 1.0, 0.667, 0.333]
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from secure_fed_diffusion.federation.participation import require

WIDTHS = (
    0.001,
    0.2886,
)  # of a power-function profile; the plain mean of all rounds, gamma = 0, is the widest


@dataclass(frozen=True, slots=True, kw_only=True)
class CourseSettings:
    """How the learning rate runs over the rounds, and which average of the weights is released."""

    schedule: Literal["constant", "linear", "cosine", "trapezoid"] = "constant"
    warmup_share: float = 0.0  # of the rounds, in which the rate climbs linearly
    decay_share: float = 0.2  # of the rounds, at their end: the trapezoid's descent
    final_share: float = 0.0  # of the learning rate: what a descent runs to
    average: Literal["ema", "power", "tail"] = "ema"  # "ema" decays by the mode's ema_decay
    relative_stddev: float = 0.1  # "power": the profile's width as a share of training, Karras' sigma_rel
    tail_share: float = 0.25  # "tail": the share of the rounds, at their end, that is averaged


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientServerSettings(CourseSettings):
    """One step along a noisy mean gradient, at the mode's `learning_rate`.

    "adam_bc" subtracts the noise's own variance, which is public, from Adam's second moment; what is left
    is kept at or above `noise_floor` times that variance.
    """

    optimizer: Literal["adam", "adamw", "adam_bc", "sgd"] = "adam"
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.01  # "adamw" alone
    momentum: float = 0.9  # "sgd" alone
    noise_floor: float = 0.1  # "adam_bc" alone


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateServerSettings(CourseSettings):
    """One step along a mean of the clients' updates: FedAvg, FedAvgM or FedAdam."""

    optimizer: Literal["average", "momentum", "adam"] = "average"
    learning_rate: float = 1.0
    momentum: float = 0.9  # "momentum" alone
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3  # "adam": the adaptivity, in the updates' own unit


ServerSettings = GradientServerSettings | UpdateServerSettings


def check_server(settings: ServerSettings, key: str) -> None:
    """Refuse impossible values of the table `key`.

    Raises:
        ConfigError: names the key, the value and the bound.
    """
    for name in ("beta1", "beta2", "momentum"):
        value = getattr(settings, name)
        require(0 <= value < 1, f"{key}.{name}", f"0 <= {name} < 1", value)
    for name in ("epsilon", "learning_rate", "tau"):
        value = getattr(settings, name, 1.0)
        require(math.isfinite(value) and value > 0, f"{key}.{name}", "> 0", value)
    for name in ("weight_decay", "noise_floor"):
        value = getattr(settings, name, 0.0)
        require(math.isfinite(value) and value >= 0, f"{key}.{name}", ">= 0", value)
    for name in ("warmup_share", "decay_share", "final_share"):
        value = getattr(settings, name)
        require(0 <= value <= 1, f"{key}.{name}", f"0 <= {name} <= 1", value)
    both = settings.warmup_share + settings.decay_share
    if settings.schedule == "trapezoid":
        require(both <= 1, f"{key}.decay_share", "warmup_share + decay_share <= 1", both)
    width, tail = settings.relative_stddev, settings.tail_share
    low, high = WIDTHS
    require(low <= width <= high, f"{key}.relative_stddev", f"{low} <= relative_stddev <= {high}", width)
    require(0 < tail <= 1, f"{key}.tail_share", "0 < tail_share <= 1", tail)


def course(settings: CourseSettings, number: int, rounds: int) -> float:
    """Return the share of the learning rate, in (0, 1], of training round `number`, counted from 1."""
    climb = math.ceil(settings.warmup_share * rounds)
    if number <= climb:
        return number / climb
    down = 1.0 - settings.final_share
    match settings.schedule:
        case "constant":
            return 1.0
        case "trapezoid":
            descent = math.ceil(settings.decay_share * rounds)
            into = max(0, number - (rounds - descent))
            return 1.0 - down * into / (descent + 1)
        case "linear":
            return 1.0 - down * (number - climb - 1) / (rounds - climb)
        case "cosine":
            gone = (number - climb - 1) / (rounds - climb)
            return settings.final_share + down * (1.0 + math.cos(math.pi * gone)) / 2.0


def learning_rate_at(settings: ServerSettings, base: float, number: int, rounds: int) -> float:
    """Return the learning rate of training round `number` of `rounds`; `base` is the mode's own."""
    return base * course(settings, number, rounds)
