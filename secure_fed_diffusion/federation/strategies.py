"""How the server turns a mean of gradients or updates into new weights: post-processing, free of cost.

A gradient steps Adam (Kingma and Ba 2015), AdamW, SGD with momentum, or Adam with the noise's variance
taken out of its second moment (Tang et al. 2023); an update is added as it is (FedAvg, McMahan et al. 2017)
or steps FedAvgM or FedAdam (Reddi et al. 2021, algorithms 1 and 2).  FedProx changes the clients' loss
(`training.local`), not this step.

Guarantees: a step reads the released mean, its own earlier state and public numbers, so it changes neither
a sensitivity nor a charge; `state_dict` holds all that a later step reads, to the bit.

Not protected against: a sum that is not noised; a step cannot tell.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from secure_fed_diffusion.federation.settings import ModeSettings, StepSettings
from secure_fed_diffusion.federation.stepping import GradientServerSettings, UpdateServerSettings


class Strategy(Protocol):
    """Weights in, weights out, with a state that a checkpoint can hold."""

    def step(self, weights: Tensor, mean: Tensor, *, learning_rate: float, noise_variance: float) -> Tensor:
        """Return the next weights (d,) from the current ones and the decoded mean (d,).

        `noise_variance` is that of the noise in each coordinate of the mean: public, 0 where there is none.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""


def make_strategy(recipe: ModeSettings, dimension: int) -> Strategy:
    """Return the strategy that a mode's table asks for."""
    server = recipe.server
    if isinstance(server, UpdateServerSettings):
        match server.optimizer:
            case "average":
                return FederatedAveraging()
            case "momentum":
                return FederatedMomentum(dimension, server)
            case "adam":
                return FederatedAdam(dimension, server)
    if server.optimizer == "adam_bc":
        return NoiseCorrectedAdam(dimension, server)
    return TorchOnGradients(dimension, server)


def base_learning_rate(recipe: ModeSettings) -> float:
    """Return the server's learning rate at the top of its course."""
    return recipe.learning_rate if isinstance(recipe, StepSettings) else recipe.server.learning_rate


class TorchOnGradients:
    """One step of torch's Adam, AdamW or SGD along the mean gradient."""

    def __init__(self, dimension: int, settings: GradientServerSettings) -> None:
        self._weights = torch.zeros(dimension, requires_grad=True)
        betas = (settings.beta1, settings.beta2)
        self._optimizer: torch.optim.Optimizer
        match settings.optimizer:
            case "adamw":
                self._optimizer = torch.optim.AdamW(
                    [self._weights], betas=betas, eps=settings.epsilon, weight_decay=settings.weight_decay
                )
            case "sgd":
                self._optimizer = torch.optim.SGD([self._weights], lr=1.0, momentum=settings.momentum)
            case _:
                self._optimizer = torch.optim.Adam([self._weights], betas=betas, eps=settings.epsilon)

    def step(self, weights: Tensor, mean: Tensor, *, learning_rate: float, noise_variance: float) -> Tensor:
        """Return the next weights; the noise is not looked at."""
        with torch.no_grad():
            self._weights.copy_(weights)
        self._weights.grad = mean.to(torch.float32)
        self._optimizer.param_groups[0]["lr"] = learning_rate
        self._optimizer.step()
        return self._weights.detach().clone()

    def state_dict(self) -> dict[str, Any]:
        """Return the moments."""
        return self._optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with saved moments."""
        self._optimizer.load_state_dict(state)


class _Tensors:
    """A state of named vectors (d,) and numbers."""

    def __init__(self, **state: Tensor | float) -> None:
        self._state = state

    def state_dict(self) -> dict[str, Any]:
        """Return the moments."""
        return {name: v.clone() if isinstance(v, Tensor) else v for name, v in self._state.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with saved moments."""
        self._state = {name: v.clone() if isinstance(v, Tensor) else v for name, v in state.items()}


class NoiseCorrectedAdam(_Tensors):
    """DP-AdamBC: Adam whose second moment is that of the signal (Tang et al. 2023, algorithm 1).

    The noise adds its variance Phi to the second moment's expectation; Phi is public, so it is taken out:
    m_hat / sqrt(max(v_hat - Phi_hat, gamma')).  Where the paper's Phi is one constant, here it is the same
    moving mean of each round's own (survivors, phases of a schedule), and gamma' is `noise_floor` times
    it.  Without noise this is Adam.  Moments are float64: the difference of two close numbers is read.
    """

    def __init__(self, dimension: int, settings: GradientServerSettings) -> None:
        zeros = torch.zeros(dimension, dtype=torch.float64)
        super().__init__(mean=zeros.clone(), square=zeros.clone(), noise=0.0, decay1=1.0, decay2=1.0)
        self._settings = settings

    def step(self, weights: Tensor, mean: Tensor, *, learning_rate: float, noise_variance: float) -> Tensor:
        """Return the next weights."""
        it, state, gradient = self._settings, self._state, mean.double()
        state["mean"] = it.beta1 * state["mean"] + (1 - it.beta1) * gradient
        state["square"] = it.beta2 * state["square"] + (1 - it.beta2) * gradient.square()
        state["noise"] = it.beta2 * state["noise"] + (1 - it.beta2) * noise_variance
        state["decay1"] = state["decay1"] * it.beta1
        state["decay2"] = state["decay2"] * it.beta2
        left1, left2 = 1 - state["decay1"], 1 - state["decay2"]
        noise = float(state["noise"] / left2)
        signal = torch.as_tensor(state["square"] / left2 - noise).clamp_min(it.noise_floor * noise)
        moved = learning_rate * (state["mean"] / left1) / (signal.sqrt() + it.epsilon)
        return (weights.double() - moved).float()


class FederatedAveraging:
    """Add the mean update, `learning_rate` of it."""

    def step(self, weights: Tensor, mean: Tensor, *, learning_rate: float, noise_variance: float) -> Tensor:
        """Return the next weights."""
        return weights + learning_rate * mean.to(torch.float32)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: there is no state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Accept that nothing."""


class FederatedMomentum(_Tensors):
    """FedAvgM: the mean update takes the gradient's place in SGD with momentum (Reddi et al. 2021)."""

    def __init__(self, dimension: int, settings: UpdateServerSettings) -> None:
        super().__init__(mean=torch.zeros(dimension))
        self._settings = settings

    def step(self, weights: Tensor, mean: Tensor, *, learning_rate: float, noise_variance: float) -> Tensor:
        """Return the next weights."""
        self._state["mean"] = self._settings.momentum * self._state["mean"] + mean.to(torch.float32)
        return weights + learning_rate * self._state["mean"]


class FederatedAdam(_Tensors):
    """FedAdam (Reddi et al. 2021, algorithm 2): no bias correction, v begins at tau^2."""

    def __init__(self, dimension: int, settings: UpdateServerSettings) -> None:
        super().__init__(mean=torch.zeros(dimension), square=torch.full((dimension,), settings.tau**2))
        self._settings = settings

    def step(self, weights: Tensor, mean: Tensor, *, learning_rate: float, noise_variance: float) -> Tensor:
        """Return the next weights."""
        it, state, update = self._settings, self._state, mean.to(torch.float32)
        state["mean"] = it.beta1 * state["mean"] + (1 - it.beta1) * update
        state["square"] = it.beta2 * state["square"] + (1 - it.beta2) * update.square()
        return weights + learning_rate * state["mean"] / (torch.as_tensor(state["square"]).sqrt() + it.tau)
