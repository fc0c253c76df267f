"""T2: a malicious server's imprint layer, against one update, against a secure sum, and against the U-Net.

T2 the update of one client with 32 images: clip and noise.  T2b the sum of ten clients under secure
aggregation alone: NOT promised, the sum carries the single images.  T2c the same sum with noise shares.
T2d the pinned architecture: a client computes with its own network, so a server can send weights, no layers.

Source: Fowl et al. 2022, "Robbing the Fed"; for sums, Zhao et al. 2023, "LOKI", section 3.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from secure_fed_diffusion.errors import FrameError
from threat_models.adversaries.malicious_server import ImprintedSum
from threat_models.claim import Arm, Claim, Counts, Staged, Tags, Threshold
from threat_models.staging.denoisers import PIXELS, unet
from threat_models.staging.imprint import imprint_model, imprint_weights, read_imprint
from threat_models.staging.inversion import VISIBLE_DB, psnr
from threat_models.staging.small_federation import (
    Floats,
    SmallFederation,
    chosen_digits,
    federation,
    in_unit_range,
    known_draws,
    settings_for,
)

BATCH = 32
COHORT, EACH = 10, 4  # clients of the sum, images of each
_LEARNING_RATE = 0.5
_ROUND = 1


def _settings(mode: str, clients: int, batch: int, *, masked: bool) -> Any:
    """Return a run of one round in which every client uses all its images once."""
    if mode == "none":
        return settings_for(
            "none",
            clients=clients,
            rounds=1,
            federation__masked=masked,
            modes__none__optimizer="sgd",
            modes__none__learning_rate=_LEARNING_RATE,
            modes__none__batch=batch,
        )
    return settings_for(
        "distributed",
        clients=clients,
        rounds=1,
        modes__distributed__sampling_rate=1.0,
        modes__distributed__divisor=clients * batch,
        modes__distributed__micro_batch=batch,
    )


def _imprinted(
    mode: str, seed: int, clients: int, batch: int, *, masked: bool = True, noise: bool = True
) -> SmallFederation:
    images = [chosen_digits(batch, 1000 * seed + c) for c in range(clients)]
    return federation(
        _settings(mode, clients, batch, masked=masked),
        imprint_model,
        images,
        seed=seed,
        noise=float(noise),
        weights=imprint_weights(seed),
    )


def _staged(staged: SmallFederation, total: Floats, clients: list[int]) -> Staged[ImprintedSum]:
    """Put the sum, the draws of the `clients` records, and their images in their places."""
    gradient = total / -_LEARNING_RATE if staged.plan.mode == "none" else total
    draws = [known_draws(staged.plan, c, _ROUND, staged.contributors[c].images) for c in clients]
    release = staged.release_of(_ROUND)
    fixed = release.fixed_point
    step = 1.0 / release.grid.scale if fixed is None else 2.0**-fixed.fraction_bits / _LEARNING_RATE
    images = np.concatenate([staged.contributors[c].images.images for c in clients])
    return Staged(
        view=ImprintedSum(
            gradient=gradient,
            record_timesteps=np.concatenate([t for t, _ in draws]),
            noise_images=np.concatenate([eps.reshape(-1, PIXELS) for _, eps in draws]),
            floor=3.0 * step,
        ),
        truth=in_unit_range(images[:, 0]),
    )


def stage_update(arm: Arm, seed: int) -> Staged[ImprintedSum]:
    """One client's contribution, its masks off."""
    mode = "none" if arm is Arm.OFF else "distributed"
    staged = _imprinted(mode, seed, 2, BATCH, masked=arm is not Arm.OFF, noise=arm is Arm.ON)
    return _staged(staged, staged.contribution(0, _ROUND), [0])


def stage_secure_sum(arm: Arm, seed: int) -> Staged[ImprintedSum]:
    """The sum of ten clients: added up in the clear (off), or by secure aggregation (on)."""
    staged = _imprinted("none", seed, COHORT, EACH, masked=arm is Arm.ON)
    total = staged.decoded(staged.run_round(_ROUND), _ROUND)
    return _staged(staged, total, list(range(COHORT)))


def stage_noised_sum(arm: Arm, seed: int) -> Staged[ImprintedSum]:
    """The same under masks; with clip and noise shares (on), or with the clip alone (dropped)."""
    mode = "none" if arm is Arm.OFF else "distributed"
    staged = _imprinted(mode, seed, COHORT, EACH, noise=arm is Arm.ON)
    total = staged.decoded(staged.run_round(_ROUND), _ROUND)
    return _staged(staged, total, list(range(COHORT)))


def stage_pin(arm: Arm, seed: int) -> Staged[ImprintedSum]:
    """Announce the imprinted model to clients without a network of their own, with the U-Net, with an MLP."""
    if arm is not Arm.ON:  # off: the client takes the server's network; dropped: its own has a dense layer
        staged = _imprinted("none", seed, 2, BATCH, masked=arm is Arm.DROPPED)
        return _staged(staged, staged.contribution(0, _ROUND), [0])
    images = [chosen_digits(BATCH, 1000 * seed + c) for c in range(2)]
    staged = federation(_settings("none", 2, BATCH, masked=False), unet, images, seed=seed)
    weights = imprint_weights(seed)
    foreign = _imprinted("none", seed, 2, BATCH, masked=False)
    answer = np.zeros(len(weights))
    try:
        staged.clients[0].handle(foreign.server.open(_ROUND, 0)[0])
    except FrameError:
        return _staged(staged, answer, [0])
    raise AssertionError("the client took a network that is not its own")


def attack(view: ImprintedSum) -> Floats:
    """Return every image that stands alone."""
    return read_imprint(view)


def judge(found: Floats, truth: Floats) -> Counts:
    """Count the images that were found."""
    hits = sum(any(psnr(image, true) >= VISIBLE_DB for image in found) for true in truth)
    return Counts(int(hits), len(truth))


_TAGS = Tags(
    stride=("Tampering", "Information disclosure"),
    linddun=("Data disclosure",),
    atlas=("AML.T0018.000", "AML.T0024.001"),
)
_METRIC = f"share of the images that come out at {VISIBLE_DB:.0f} dB or better"

CLAIMS = (
    Claim(
        id="T2",
        title="Imprint layer, one update",
        adversary="malicious_server",
        asset="one client's images",
        statement=(
            "Weights that write single images into the gradient get nothing out of one update of 32 images: "
            "the client's own noise (noise multiplier 1) lies over every coordinate. The clip alone would "
            "not help."
        ),
        defence="clip, integer grid and the client's own noise share",
        dropped_assumption="the client adds its noise share (the clip and the grid stay)",
        view=ImprintedSum,
        stage=stage_update,
        attack=attack,
        judge=judge,
        metric=_METRIC,
        threshold=Threshold(succeeds=0.6, fails=0.1),
        source="Fowl et al. 2022, section 3",
        tags=_TAGS,
    ),
    Claim(
        id="T2b",
        title="Imprint layer, secure aggregation alone",
        adversary="malicious_server",
        asset="the images of ten clients",
        statement=(
            "Secure aggregation without noise does NOT hide images from a server that chooses the weights: "
            "the sum of ten clients carries them one by one."
        ),
        defence="secure aggregation, no noise",
        dropped_assumption=None,
        view=ImprintedSum,
        stage=stage_secure_sum,
        attack=attack,
        judge=judge,
        metric=_METRIC,
        threshold=Threshold(succeeds=0.6, fails=0.1),
        source="Fowl et al. 2022; Zhao et al. 2023",
        promised=False,
        tags=_TAGS,
    ),
    Claim(
        id="T2c",
        title="Imprint layer, secure aggregation and noise shares",
        adversary="malicious_server",
        asset="the images of ten clients",
        statement=(
            "With clip and noise shares (noise multiplier 1 in each) the same weights get nothing out of the "
            "sum of ten clients."
        ),
        defence="secure aggregation, clip and noise shares",
        dropped_assumption="the clients add their noise shares (masks, clip and grid stay)",
        view=ImprintedSum,
        stage=stage_noised_sum,
        attack=attack,
        judge=judge,
        metric=_METRIC,
        threshold=Threshold(succeeds=0.6, fails=0.1),
        source="Fowl et al. 2022; Zhao et al. 2023",
        tags=_TAGS,
    ),
    Claim(
        id="T2d",
        title="Imprint layer, pinned architecture",
        adversary="malicious_server",
        asset="one client's images",
        statement=(
            "A client computes with its own network and refuses a model of another size, so a server cannot "
            "put a dense layer before the U-Net, not even where there is no noise."
        ),
        defence="the client builds its own network; the server sends weights alone",
        dropped_assumption="the pinned network has no dense layer that sees a whole image",
        view=ImprintedSum,
        stage=stage_pin,
        attack=attack,
        judge=judge,
        metric=_METRIC,
        threshold=Threshold(succeeds=0.6, fails=0.1),
        source="Fowl et al. 2022, section 3",
        tags=_TAGS,
    ),
)
