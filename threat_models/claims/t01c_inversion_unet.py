"""T1c: the search of T1b finds the image behind one update of the real U-Net, too.

An earlier trial of ours had failed here, and "a U-Net cannot be inverted" would have been an easy thing to
believe.  What changed is what the server is taken to know: it is handed the record's time step and noise
image, so one image is all that is left to search for.

Source: Zhu, Liu, Han 2019, "Deep Leakage from Gradients".
"""

from __future__ import annotations

import numpy as np
from torch.nn.attention import SDPBackend, sdpa_kernel

from threat_models.adversaries.curious_server import OneUpdate
from threat_models.claim import Arm, Claim, Staged, Tags, Threshold
from threat_models.staging.denoisers import by_parameter, unet
from threat_models.staging.gradient_matching import match
from threat_models.staging.inversion import (
    HIDDEN_DB,
    VISIBLE_DB,
    psnr,
    stage_one_update,
    without_known_noise,
)
from threat_models.staging.small_federation import Floats

ITERATIONS = 60


def stage(arm: Arm, seed: int) -> Staged[OneUpdate]:
    """Let a client with one image train the U-Net."""
    return stage_one_update(unet, arm, seed)


def attack(view: OneUpdate) -> Floats:
    """Return the image whose gradient comes nearest."""
    gradient = without_known_noise(view)
    model = unet()
    rows = by_parameter(model, gradient)["class_embedding.weight"]
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernel has no second derivative
        return match(model, view, gradient, label=int(np.abs(rows).sum(1).argmax()), iterations=ITERATIONS)[0]


CLAIM = Claim(
    id="T1c",
    title="Inversion of the U-Net's update",
    adversary="curious_server",
    asset="one image",
    statement=(
        "One update of one image to the U-Net that the package trains, its masks taken off, does not let "
        "a search find the image: the client's own clip and noise (noise multiplier 1 in the raw view) hide "
        "it; the U-Net itself hides nothing."
    ),
    defence="clip, integer grid and the client's own noise share",
    dropped_assumption="the client's noise is drawn from a generator that the server cannot run again",
    view=OneUpdate,
    stage=stage,
    attack=attack,
    judge=psnr,
    metric="PSNR of the reconstructed image, dB",
    threshold=Threshold(succeeds=VISIBLE_DB, fails=HIDDEN_DB),
    source="Zhu, Liu, Han 2019",
    tags=Tags(stride=("Information disclosure",), linddun=("Data disclosure",), atlas=("AML.T0024.001",)),
)
