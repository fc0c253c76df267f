"""An exponential moving average of the released weights: post-processing, so it costs no privacy."""

from __future__ import annotations

import torch
from torch import Tensor


class ExponentialMovingAverage:
    """The running average w <- d w + (1 - d) theta, with the warm-up d_t = min(d, (1 + t) / (10 + t))."""

    def __init__(self, weights: Tensor, decay: float) -> None:
        self.decay = decay
        self.average = weights.detach().clone()
        self.updates = 0

    def update(self, weights: Tensor) -> None:
        """Take one more vector of weights into the average."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
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
