"""What the pictures show, measured by the claims' own stages and attacks: plain lists, ready for JSON.

The trials are those of the seed or seeds named here, with the noise chosen so that epsilon is a round number.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy.stats import norm

from secure_fed_diffusion.evaluation.membership import auc
from threat_models.claim import Arm
from threat_models.claims import t01_inversion_mlp, t01b_inversion_conv, t01c_inversion_unet, t02_imprint
from threat_models.claims import t03_membership as membership
from threat_models.staging.denoisers import ConvDenoiser, MlpDenoiser, unet
from threat_models.staging.inversion import psnr, stage_one_update
from threat_models.staging.poisoned_training import trained
from threat_models.staging.poisoning import FACTOR, CutRule
from threat_models.staging.small_federation import Floats

DELTA = 1e-5
EPSILONS = (50_000.0, 3_000.0, 10.0)  # of one update: still a picture, its shadow, nothing
MEMBERSHIP_EPSILONS = (8.0, 1.0)
SEEDS = (0, 1, 2, 3, 4)
_NETWORKS = (
    ("An MLP: the image is computed", MlpDenoiser, t01_inversion_mlp.attack),
    ("A small convolutional network: it is searched", ConvDenoiser, t01b_inversion_conv.attack),
    ("The U-Net: it is searched", unet, t01c_inversion_unet.attack),
)


def inversion(seed: int = 3) -> dict[str, Any]:
    """Return, for each network, the image, the reconstruction without a defence, and one for each epsilon."""
    torch.set_num_threads(1)
    rows = []
    for name, build, attack in _NETWORKS:
        off = stage_one_update(build, Arm.OFF, seed)
        cells = [_cell("no defence", attack(off.view), off.truth)]
        for target in EPSILONS:
            on = stage_one_update(build, Arm.ON, seed, noise_multiplier=noise_for(target, steps=1))
            cells.append(_cell(f"ε = {target:,.0f}", attack(on.view), on.truth))
        rows.append({"network": name, "truth": off.truth.round(3).tolist(), "cells": cells})
    return {"delta": DELTA, "view": "one update of one image, its masks off, one round", "rows": rows}


def _cell(name: str, guess: Floats, truth: Floats) -> dict[str, Any]:
    shown = np.clip(np.nan_to_num(guess, nan=0.5), 0.0, 1.0)
    return {"name": name, "psnr_db": round(psnr(guess, truth), 1), "image": shown.round(3).tolist()}


def imprint(seed: int = 0) -> dict[str, Any]:
    """Return the images of ten clients, and what an imprint layer reads off their secure sum."""
    arms = {}
    truth: Floats = np.zeros(0)
    for name, arm in (("alone", Arm.OFF), ("noised", Arm.ON)):
        staged = t02_imprint.stage_noised_sum(arm, seed)
        found, truth = t02_imprint.attack(staged.view), staged.truth
        arms[name] = [_nearest(found, image) for image in truth]
    return {"truth": truth.round(3).tolist(), **arms}


def _nearest(found: Floats, truth: Floats) -> dict[str, Any] | None:
    if not len(found):
        return None
    values = [psnr(image, truth) for image in found]
    best = int(np.argmax(values))
    return {"psnr_db": round(values[best], 1), "image": np.clip(found[best], 0.0, 1.0).round(3).tolist()}


def roc() -> dict[str, Any]:
    """Return the scores of members and others, for a model without noise and for one at each epsilon."""
    torch.set_num_threads(1)
    loose = gaussian_epsilon(1.0, steps=membership.ROUNDS)
    curves = [_curve("no noise", 0.0, None), _curve(f"ε = {loose:.0f}", 1.0, loose)]
    for target in MEMBERSHIP_EPSILONS:
        multiplier = noise_for(target, steps=membership.ROUNDS)
        curves.append(_curve(f"ε = {target:g}", multiplier, target))
    return {"delta": DELTA, "view": "released model", "unit": "one image, add or remove", "curves": curves}


def _curve(name: str, multiplier: float, spent: float | None) -> dict[str, Any]:
    members, others = [], []
    for seed in SEEDS:
        staged = membership.candidates(*membership.train(seed, noise_multiplier=multiplier), seed)
        scores = membership.attack(staged.view)
        members.append(scores[staged.truth].round(5).tolist())
        others.append(scores[~staged.truth].round(5).tolist())
    areas = [auc(np.array(m), np.array(o)) for m, o in zip(members, others, strict=True)]
    return {"name": name, "epsilon": spent, "auc": areas, "members": members, "others": others}


def poisoning() -> dict[str, Any]:
    """Return FID and prototype accuracy with and without a poisoner, by what stands against it."""
    lie = -float(FACTOR)
    cases: dict[str, tuple[bool, float, CutRule | None]] = {
        "nobody lies": (True, 1.0, None),
        "poisoner, masks (the package)": (True, lie, None),
        "poisoner, in the clear, no cut": (False, lie, None),
        "poisoner, cut to an honest client's bound": (False, lie, "worst_case"),
        "poisoner, cut to the median norm": (False, lie, "median"),
    }
    found: dict[str, Any] = {}
    for name, (masked, factor, cut) in cases.items():
        worth = [trained(seed, masked=masked, factor=factor, cut=cut) for seed in SEEDS]
        found[name] = {
            "fid": [round(w.fid, 2) for w in worth],
            "prototype_accuracy": [round(w.prototype_accuracy, 4) for w in worth],
        }
    return found


def noise_for(target: float, *, steps: int) -> float:
    """Return the noise multiplier at which `steps` sums over all records cost `target`, at `DELTA`."""
    low, high = 1e-3, 1e5
    while high > low * 1.0001:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if gaussian_epsilon(middle, steps=steps) > target else (low, middle)
    return high


def gaussian_epsilon(multiplier: float, *, steps: int) -> float:
    """Return epsilon at `DELTA` of `steps` Gaussian mechanisms without sampling, exactly.

    Together they are one with multiplier / sqrt(steps); Balle and Wang 2018, arXiv 1805.06530, theorem 8.
    The package's accountants give the same to three digits where they go; at epsilon 500 they take minutes.

    >>> round(gaussian_epsilon(3.7303, steps=1), 2)
    1.0
    """
    sigma = multiplier / math.sqrt(steps)

    def delta_at(value: float) -> float:
        first, second = norm.logcdf(0.5 / sigma - value * sigma), norm.logcdf(-0.5 / sigma - value * sigma)
        return math.exp(first) * -math.expm1(min(0.0, value + second - first))

    low, high = 0.0, 1.0
    while delta_at(high) > DELTA:
        high *= 2.0
    while high - low > 1e-6 * high:
        middle = (low + high) / 2.0
        low, high = (middle, high) if delta_at(middle) > DELTA else (low, middle)
    return high
