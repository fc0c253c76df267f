"""An imprint layer: weights with which a dense first layer writes single images into its own gradient.

All neurons of the layer measure the same thing and differ in their thresholds alone; behind it they are
treated alike.  So the difference of two neighbours' gradients is that of the images between their thresholds,
and where one image is there alone, the gradients of weight and bias give it exactly.

The server knows which quantiles to take from public images.  The image is the noised one; time step and
label are read from the embeddings' gradients, and the draws of the records with that time step take
the noise off.

Source: Fowl et al. 2022, "Robbing the Fed: Directly Obtaining Private Data in Federated Learning with
Modified Models", section 3.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from secure_fed_diffusion.training.vectors import flatten
from threat_models.adversaries.malicious_server import ImprintedSum
from threat_models.staging.denoisers import PIXELS, SIDE, TIMESTEPS, MlpDenoiser, by_parameter
from threat_models.staging.inversion import signal_and_noise
from threat_models.staging.small_federation import Floats, digits

BINS = 512
SMALL = 1e-4  # keeps what lies behind the layer nearly silent, so the clip leaves the layer most of the norm
_MOST_VIOLATION = 0.5  # of the range [-1, 1], mean square: a wrong draw leaves far more

imprint_model = partial(MlpDenoiser, hidden=BINS)
"""The MLP with as many hidden neurons as bins."""


def imprint_weights(seed: int) -> npt.NDArray[np.float32]:
    """Return the weights (d,) that the server announces."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=PIXELS) / np.sqrt(PIXELS)
    public = digits().public.images.reshape(-1, PIXELS) / 127.5 - 1.0
    timesteps = rng.integers(TIMESTEPS, size=(20, len(public)))
    signal, noise = (
        np.array([signal_and_noise(t, TIMESTEPS)[k] for t in range(TIMESTEPS)])[timesteps] for k in (0, 1)
    )
    measured = signal * (public @ direction) + noise * rng.normal(size=timesteps.shape)
    thresholds = np.quantile(measured, (np.arange(BINS) + 0.5) / BINS)
    model = imprint_model()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        model.first.weight[:] = torch.from_numpy(SMALL * direction)
        model.first.bias[:] = torch.from_numpy(-SMALL * thresholds)
        model.last.weight[:] = torch.from_numpy(rng.normal(size=(PIXELS, 1)))
    return flatten(model).numpy()


def read_imprint(view: ImprintedSum) -> Floats:
    """Return the images (n, side, side) in [0, 1] that stand alone between two thresholds."""
    parts = by_parameter(imprint_model(), np.asarray(view.gradient))
    rows = np.concatenate(
        [
            parts["first.weight"],
            parts["first.bias"][:, None],
            parts["time.weight"].T,
            parts["label.weight"].T,
        ],
        axis=1,
    )
    apart = rows - np.append(rows[1:], np.zeros((1, rows.shape[1])), axis=0)
    found = [_one_image(row, view) for row in apart]
    return np.array([image for image in found if image is not None]).reshape(-1, SIDE, SIDE)


def _one_image(row: Floats, view: ImprintedSum) -> Floats | None:
    """Return the image in the difference of two neighbours' gradients, or None where there is none."""
    scale = row[PIXELS]
    if abs(scale) < view.floor:
        return None
    noised = row[:PIXELS] / scale
    timestep = int(np.abs(row[PIXELS + 1 : PIXELS + 1 + TIMESTEPS]).argmax())
    signal, noise = signal_and_noise(timestep, TIMESTEPS)
    candidates = (noised - noise * view.noise_images[view.record_timesteps == timestep]) / signal
    if not len(candidates):
        return None
    violation = np.square(np.clip(np.abs(candidates) - 1.0, 0.0, None)).mean(axis=1)
    best = candidates[violation.argmin()]
    return None if violation.min() > _MOST_VIOLATION else (best.reshape(SIDE, SIDE) + 1.0) / 2.0
