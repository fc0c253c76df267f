"""T3: was this image in the training data?  The released model's loss tells, unless there was noise.

32 images at two clients, 260 rounds of one step each, the same steps, learning rate and draws in every arm.
The attack is the package's own loss threshold (`evaluation.membership`).

The noise works by keeping the model from coming as close to its images: the members' loss ends at 1.05
instead of 0.69.  A model without noise that is stopped after 20 rounds, at 0.91, has an AUC of 0.64, too (one
trial).  Noise multiplier 1 over 260 steps on all images is an epsilon of 198 (delta 1e-5): what fails here is
this attack, and no bound says that every attack must.

Source: Yeom et al. 2018, arXiv 1709.01604; on diffusion models Hu and Pang 2023, arXiv 2301.09956.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from secure_fed_diffusion.data.datasets import ImageSet
from secure_fed_diffusion.diffusion.objective import Objective
from secure_fed_diffusion.diffusion.settings import DiffusionSettings
from secure_fed_diffusion.evaluation.membership import auc, loss_scores
from secure_fed_diffusion.training.vectors import load_flat
from threat_models.adversaries.model_observer import ModelAndCandidates
from threat_models.claim import Arm, Claim, Staged, Tags, Threshold
from threat_models.staging.denoisers import MlpDenoiser
from threat_models.staging.small_federation import (
    Floats,
    SmallFederation,
    chosen_digits,
    federation,
    settings_for,
)

CLIENTS, RECORDS, ROUNDS, COPIES, OUTSIDERS = 2, 32, 260, 8, 250
TIMESTEPS, DRAWS = 10, 4
model = partial(MlpDenoiser, hidden=128, n_timesteps=TIMESTEPS)


def settings_of() -> Any:
    """Return a run in mode `central`: the released model's view is that of `distributed`, without masks."""
    return settings_for(
        "central",
        clients=CLIENTS,
        rounds=ROUNDS,
        federation__masked=False,
        federation__colluders=0,
        diffusion__timesteps=TIMESTEPS,
        diffusion__noise_multiplicity=DRAWS,
        modes__central__sampling_rate=1.0,
        modes__central__divisor=RECORDS,
        modes__central__micro_batch=RECORDS,
        modes__central__learning_rate=1e-2,
        modes__central__clip_norm=0.05,
        modes__central__ema_decay=0.9,
    )


def train(seed: int, *, noise_multiplier: float, copies: int = 1) -> tuple[SmallFederation, ImageSet]:
    """Train on `RECORDS` records, each image `copies` times among them; return the run and its images."""
    distinct = RECORDS // copies
    members = chosen_digits(distinct, seed)
    share = distinct // CLIENTS
    images = [members.subset(np.tile(np.arange(c * share, (c + 1) * share), copies)) for c in range(CLIENTS)]
    staged = federation(settings_of(), model, images, seed=seed, noise=noise_multiplier)
    for planned in staged.plan.rounds:
        staged.server.apply(staged.run_round(planned.number))
    return staged, members


def stage(arm: Arm, seed: int) -> Staged[ModelAndCandidates]:
    """Release a model's moving average; the candidates are its members and public images, in this order."""
    staged, members = train(
        seed,
        noise_multiplier=0.0 if arm is Arm.OFF else 1.0,
        copies=COPIES if arm is Arm.DROPPED else 1,
    )
    return candidates(staged, members, seed)


def candidates(staged: SmallFederation, members: ImageSet, seed: int) -> Staged[ModelAndCandidates]:
    """Put the released model beside its members and as many public images as there are."""
    others = chosen_digits(OUTSIDERS, seed, split="public")
    view = ModelAndCandidates(
        weights=staged.server.average.average.numpy(),
        images=np.concatenate([members.images, others.images]),
        labels=np.concatenate([members.labels, others.labels]),
    )
    return Staged(view=view, truth=np.arange(len(view.images)) < len(members))


def attack(view: ModelAndCandidates) -> Floats:
    """Return minus each candidate's loss at small time steps."""
    released = model()
    load_flat(released, torch.from_numpy(view.weights.copy()))
    objective = Objective(DiffusionSettings(timesteps=TIMESTEPS))
    return loss_scores(released, objective, ImageSet(view.images.copy(), view.labels.copy()), patch=1)


def judge(scores: Floats, truth: npt.NDArray[np.bool_]) -> float:
    """Return the area under the ROC curve."""
    return auc(scores[truth], scores[~truth])


CLAIM = Claim(
    id="T3",
    title="Membership, from the released model",
    adversary="model_observer",
    asset="whether an image was trained on",
    statement=(
        "The loss of a model trained with noise (noise multiplier 1, 260 steps) tells members from others "
        "far worse than that of one without: an AUC of about 0.67 instead of 1. No bound is claimed for it "
        "at this noise."
    ),
    defence="clip and noise on every step",
    dropped_assumption=f"a picture is one record (dropped: each is held {COPIES} times)",
    view=ModelAndCandidates,
    stage=stage,
    attack=attack,
    judge=judge,
    metric="AUC of the loss threshold attack (a coin: 0.5)",
    threshold=Threshold(succeeds=0.85, fails=0.75),
    source="Yeom et al. 2018; Hu and Pang 2023",
    tags=Tags(stride=("Information disclosure",), linddun=("Detecting",), atlas=("AML.T0024.000",)),
)
