"""Averages of the released weights over the rounds: post-processing, so they cost no privacy.

Each takes nothing but weights that were released, one vector a round; which of them is used moves no
sensitivity and no charge.  All have one state: the average and how many vectors are in it.

Source: Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models",
section 3.1, eqs. 2 to 5 (`PowerFunctionAverage`).

>>> average = PowerFunctionAverage(torch.zeros(1), gamma=1.0)
>>> for weight in (1.0, 2.0, 3.0):
...     average.update(torch.tensor([weight]))
>>> round(float(average.average), 4)
2.4444
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from secure_fed_diffusion.errors import ConfigError


class RunningAverage(ABC):
    """An average that is `decay(t)` of what it was and the rest of the t-th vector of weights."""

    def __init__(self, weights: Tensor) -> None:
        self.average = weights.detach().clone()
        self.updates = 0

    @abstractmethod
    def decay(self, updates: int) -> float:
        """Return how much of the past is left after the vector number `updates`, counted from 1."""

    def update(self, weights: Tensor) -> None:
        """Take one more vector of weights into the average."""
        self.updates += 1
        decay = self.decay(self.updates)
        self.average.mul_(decay).add_(weights.detach().to(self.average.device), alpha=1 - decay)

    def restart(self, weights: Tensor) -> None:
        """Forget the past: the average is `weights`."""
        self.average = weights.detach().clone()
        self.updates = 0

    def state_dict(self) -> dict[str, Tensor | int]:
        """Return what `load_state_dict` needs to go on."""
        return {"average": self.average, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        """Go on from a saved state."""
        self.average = torch.as_tensor(state["average"]).clone()
        self.updates = int(state["updates"])


class ExponentialMovingAverage(RunningAverage):
    """The running average w <- d w + (1 - d) theta, with the warm-up d_t = min(d, (1 + t) / (10 + t))."""

    def __init__(self, weights: Tensor, decay: float) -> None:
        super().__init__(weights)
        self._decay = decay

    def decay(self, updates: int) -> float:
        """Return d_t."""
        return min(self._decay, (1 + updates) / (10 + updates))


class PowerFunctionAverage(RunningAverage):
    """Weights by t^gamma (eq. 3): d_t = (1 - 1/t)^(gamma + 1), so the start is forgotten at once."""

    def __init__(self, weights: Tensor, gamma: float) -> None:
        super().__init__(weights)
        self._gamma = gamma

    @classmethod
    def of_width(cls, weights: Tensor, relative_stddev: float) -> PowerFunctionAverage:
        """Return the average whose profile has this standard deviation, as a share of training (eq. 5)."""
        return cls(weights, gamma_of_width(relative_stddev))

    def decay(self, updates: int) -> float:
        """Return d_t (eq. 4)."""
        return float((1 - 1 / updates) ** (self._gamma + 1))


class TailAverage(RunningAverage):
    """The plain mean of the vectors from number `first` on; before, the newest one."""

    def __init__(self, weights: Tensor, first: int) -> None:
        super().__init__(weights)
        self._first = first

    def decay(self, updates: int) -> float:
        """Return (k - 1) / k for the k-th vector of the tail."""
        in_tail = updates - self._first + 1
        return 0.0 if in_tail <= 1 else (in_tail - 1) / in_tail


def gamma_of_width(relative_stddev: float) -> float:
    """Return gamma with sqrt(gamma + 1) / ((gamma + 2) sqrt(gamma + 3)) = relative_stddev (eq. 5).

    Raises:
        ConfigError: no profile with gamma >= 0 is that wide or that narrow.
    """

    def width(gamma: float) -> float:
        return float((gamma + 1) ** 0.5 / ((gamma + 2) * (gamma + 3) ** 0.5))

    low, high = 0.0, 1e8
    if not width(high) <= relative_stddev <= width(low):
        raise ConfigError(
            f"expected {width(high):.3g} to {width(low):.6g}, got {relative_stddev}", key="relative_stddev"
        )
    for _ in range(200):  # the width falls with gamma
        middle = (low + high) / 2
        if width(middle) > relative_stddev:
            low = middle
        else:
            high = middle
    return high
