"""How the server turns a mean of gradients or updates into new weights: post-processing, free of cost.

A gradient steps Adam (Kingma and Ba 2015); an update is added as it is (FedAvg, McMahan et al. 2017).
FedProx changes the clients' loss (`training.local`), not this step.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor


class Strategy(Protocol):
    """Weights in, weights out, with a state that a checkpoint can hold."""

    def step(self, weights: Tensor, mean: Tensor) -> Tensor:
        """Return the next weights (d,) from the current ones and the decoded mean (d,)."""

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""


class AdamOnGradients:
    """One Adam step along the mean gradient."""

    def __init__(self, dimension: int, learning_rate: float) -> None:
        self._weights = torch.zeros(dimension, requires_grad=True)
        self._adam = torch.optim.Adam([self._weights], lr=learning_rate)

    def step(self, weights: Tensor, mean: Tensor) -> Tensor:
        """Return the next weights."""
        with torch.no_grad():
            self._weights.copy_(weights)
        self._weights.grad = mean.to(torch.float32)
        self._adam.step()
        return self._weights.detach().clone()

    def state_dict(self) -> dict[str, Any]:
        """Return Adam's moments."""
        return self._adam.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with saved moments."""
        self._adam.load_state_dict(state)


class FederatedAveraging:
    """Add the mean update."""

    def step(self, weights: Tensor, mean: Tensor) -> Tensor:
        """Return the next weights."""
        return weights + mean.to(torch.float32)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: there is no state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Accept that nothing."""
