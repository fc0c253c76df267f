"""T1: a curious server reads the image off one update of an MLP denoiser, in closed form.

The gradient of a dense first layer is dz (x_t, 1)^T, of rank one: its leading right singular vector is the
noised image, and the draw (t, eps), which it is handed, takes the noise off.  No optimisation, one singular
value decomposition.

Source: Phong et al. 2018, "Privacy-Preserving Deep Learning via Additively Homomorphic Encryption",
section 3 (x from the ratio of gradients of weight and bias); the diffusion part is ours.
"""

from __future__ import annotations

import numpy as np

from threat_models.adversaries.curious_server import OneUpdate
from threat_models.claim import Arm, Claim, Staged, Tags, Threshold
from threat_models.staging.denoisers import PIXELS, SIDE, MlpDenoiser, by_parameter
from threat_models.staging.inversion import (
    HIDDEN_DB,
    VISIBLE_DB,
    psnr,
    signal_and_noise,
    stage_one_update,
    without_known_noise,
)
from threat_models.staging.small_federation import Floats


def stage(arm: Arm, seed: int) -> Staged[OneUpdate]:
    """Let a client with one image train the MLP."""
    return stage_one_update(MlpDenoiser, arm, seed)


def attack(view: OneUpdate) -> Floats:
    """Return the image in [0, 1]: the rank-one direction of the first layer, less the public noise."""
    parts = by_parameter(MlpDenoiser(), without_known_noise(view))
    joint = np.concatenate([parts["first.weight"], parts["first.bias"][:, None]], axis=1)
    if not joint.any():
        return np.full((SIDE, SIDE), 0.5)
    leading = np.linalg.svd(joint, full_matrices=False)[2][0]
    noised = (leading[:PIXELS] / leading[PIXELS]).reshape(SIDE, SIDE)
    signal, noise = signal_and_noise(view.timestep, view.timesteps)
    return ((noised - noise * view.noise_image) / signal + 1.0) / 2.0


CLAIM = Claim(
    id="T1",
    title="Inversion of an MLP denoiser's update",
    adversary="curious_server",
    asset="one image",
    statement=(
        "One update of one image, its masks taken off, does not show the image: the client's own clip and "
        "noise (noise multiplier 1 in the raw view) hide it even where all others collude."
    ),
    defence="clip, integer grid and the client's own noise share",
    dropped_assumption="the client's noise is drawn from a generator that the server cannot run again",
    view=OneUpdate,
    stage=stage,
    attack=attack,
    judge=psnr,
    metric="PSNR of the reconstructed image, dB",
    threshold=Threshold(succeeds=VISIBLE_DB, fails=HIDDEN_DB),
    source="Phong et al. 2018, section 3",
    tags=Tags(stride=("Information disclosure",), linddun=("Data disclosure",), atlas=("AML.T0024.001",)),
)
