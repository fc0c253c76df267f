"""T1b: a curious server finds the image by gradient matching against a convolutional denoiser.

A convolution's gradient is a sum over places, so nothing can be read off in closed form; the search needs
seconds instead, and an attacker who is ready to spend them gets the same picture.

Source: Zhu, Liu, Han 2019, "Deep Leakage from Gradients".
"""

from __future__ import annotations

import numpy as np

from threat_models.adversaries.curious_server import OneUpdate
from threat_models.claim import Arm, Claim, Staged, Tags, Threshold
from threat_models.staging.denoisers import ConvDenoiser, by_parameter
from threat_models.staging.gradient_matching import match
from threat_models.staging.inversion import (
    HIDDEN_DB,
    VISIBLE_DB,
    psnr,
    stage_one_update,
    without_known_noise,
)
from threat_models.staging.small_federation import Floats

ITERATIONS = 120


def stage(arm: Arm, seed: int) -> Staged[OneUpdate]:
    """Let a client with one image train the convolutional denoiser."""
    return stage_one_update(ConvDenoiser, arm, seed)


def attack(view: OneUpdate) -> Floats:
    """Return the image whose gradient comes nearest."""
    gradient = without_known_noise(view)
    model = ConvDenoiser()
    label = int(np.abs(by_parameter(model, gradient)["label.weight"]).sum(axis=1).argmax())
    return match(model, view, gradient, label=label, iterations=ITERATIONS)[0]


CLAIM = Claim(
    id="T1b",
    title="Inversion of a convolutional denoiser's update",
    adversary="curious_server",
    asset="one image",
    statement=(
        "One update of one image, its masks taken off, does not let a search find the image: the client's "
        "own clip and noise (noise multiplier 1 in the raw view) hide it even where all others collude."
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
