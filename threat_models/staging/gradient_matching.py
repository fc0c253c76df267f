"""Inversion by gradient matching: search the image whose gradient points where the observed one does.

The distance is between unit vectors, so a clip's unknown factor does not matter; time step, noise image and
label are known (the first two are public, the label is the largest row of the label embedding's gradient).
Float64, L-BFGS with a strong Wolfe line search, from the grey image.

Source: Zhu, Liu, Han 2019, "Deep Leakage from Gradients"; the distance is that of Geiping et al. 2020,
"Inverting Gradients", up to a factor.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from secure_fed_diffusion.diffusion.objective import Objective
from secure_fed_diffusion.diffusion.settings import DiffusionSettings
from secure_fed_diffusion.training.vectors import load_flat
from threat_models.adversaries.curious_server import OneUpdate
from threat_models.staging.small_federation import Floats


def match(
    model: nn.Module, view: OneUpdate, gradient: Floats, *, label: int, iterations: int
) -> tuple[Floats, float]:
    """Return the image (h, w) in [0, 1] that L-BFGS ends at, and its distance 1 - cosine.

    `model` is overwritten: it gets the announced weights, in float64.
    """
    load_flat(model, torch.from_numpy(view.weights.copy()))
    model.double()
    objective = Objective(DiffusionSettings(timesteps=view.timesteps))
    parameters = {name: p.detach().requires_grad_() for name, p in model.named_parameters()}
    observed = torch.from_numpy(gradient.copy())
    observed /= observed.norm()
    eps = torch.from_numpy(view.noise_image.copy())[None, None]
    t, labels = torch.tensor([view.timestep]), torch.tensor([label])
    x = torch.zeros((1, 1, *view.noise_image.shape), dtype=torch.float64, requires_grad=True)

    def predict(*args: Tensor, **kwargs: object) -> Tensor:
        return functional_call(model, parameters, args, kwargs)

    def distance() -> Tensor:
        loss = objective.losses(predict, x, labels, t, eps).sum()
        parts = torch.autograd.grad(loss, list(parameters.values()), create_graph=True)
        flat = torch.cat([part.reshape(-1) for part in parts])
        return (flat / flat.norm() - observed).square().sum() / 2.0

    optimizer = torch.optim.LBFGS(
        [x], lr=1.0, max_iter=iterations, history_size=50, line_search_fn="strong_wolfe",
        tolerance_grad=1e-14, tolerance_change=1e-16,
    )  # fmt: skip

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = distance()
        (x.grad,) = torch.autograd.grad(value, x)
        return value

    optimizer.step(closure)
    return (x.detach()[0, 0].numpy() + 1.0) / 2.0, float(distance().detach())
