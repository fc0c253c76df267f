"""A whole small training run with a poisoner in every round, and what its model is worth afterwards.

The digits at five clients, class means first, then private steps on a small U-Net.  One client sends
`factor` times what it would have sent honestly, in every round of both releases.  `cut` is a server that sees
each contribution and cuts it; the package has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from torch import nn

from secure_fed_diffusion.data.datasets import ImageSet
from secure_fed_diffusion.data.partition import partition
from secure_fed_diffusion.diffusion.sampler import sample
from secure_fed_diffusion.diffusion.settings import ModelSettings, SamplerSettings
from secure_fed_diffusion.diffusion.unet import build_unet
from secure_fed_diffusion.evaluation.evaluator import Evaluator
from secure_fed_diffusion.evaluation.settings import EvaluationSettings
from secure_fed_diffusion.federation.release import Release
from secure_fed_diffusion.training.vectors import load_flat
from threat_models.staging.denoisers import N_CLASSES, SIDE
from threat_models.staging.poisoning import CutRule, Liar, run_with_cut, scaled
from threat_models.staging.small_federation import (
    Integers,
    SmallFederation,
    digits,
    federation,
    settings_for,
)

CLIENTS, POISONER, ROUNDS = 5, 0, 8
_TIMESTEPS, _SAMPLES = 1000, 150
_MODEL = ModelSettings(channels=(8, 16), norm_groups=4, attention_head_dim=4)


def _build() -> nn.Module:
    return build_unet(_MODEL, image_shape=(1, SIDE, SIDE), n_classes=N_CLASSES, n_timesteps=_TIMESTEPS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """What a model is worth: FID in the extractor's features, and accuracy of its class prototypes."""

    fid: float
    prototype_accuracy: float


@lru_cache(maxsize=2)
def _evaluator(samples: int) -> Evaluator:
    return Evaluator(digits(), EvaluationSettings(samples=samples))


@lru_cache(maxsize=16)
def trained(seed: int, *, masked: bool, factor: float, cut: CutRule | None) -> Worth:
    """Train with a poisoner that sends `factor` times its honest contribution (1: nobody lies)."""
    torch.set_num_threads(1)
    staged = _federation(seed, masked=masked)
    if factor != 1.0:
        honest = staged.contributors[POISONER]
        staged.clients[POISONER]._contributor = Liar(
            POISONER, staged.plan, partial(_lie, factor=factor), honest.vector
        )
    for planned in staged.plan.rounds:
        staged.server.apply(run_with_cut(staged, planned.number, cut))
    return _worth(staged, seed)


def _lie(honest: Integers, release: Release, *, factor: float) -> Integers:
    return scaled(honest, factor, release.modulus_bits)


def _federation(seed: int, *, masked: bool) -> SmallFederation:
    mode = "distributed" if masked else "central"
    settings = settings_for(
        mode,
        clients=CLIENTS,
        rounds=ROUNDS,
        federation__masked=masked,
        federation__colluders=0,
        diffusion__timesteps=_TIMESTEPS,
        warmup__draws=2,
        warmup__steps=100,
        **{
            f"modes__{mode}__divisor": 300,
            f"modes__{mode}__sampling_rate": 0.25,
            f"modes__{mode}__learning_rate": 2e-3,
        },
    )
    train = digits().train
    parts = partition(train.labels, CLIENTS, scheme="iid", beta=0.5, classes_per_client=2, seed=seed)
    return federation(settings, _build, [train.subset(part) for part in parts], seed=seed)


def _worth(staged: SmallFederation, seed: int) -> Worth:
    model, evaluator = staged.server.model, _evaluator(_SAMPLES)
    load_flat(model, staged.server.average.average)
    labels = evaluator.sample_labels()
    images = sample(
        model,
        labels,
        diffusion=staged.plan.diffusion,
        settings=SamplerSettings(steps=12),
        patch=1,
        seed=seed,
    )
    figures = evaluator.measure(ImageSet(images=np.nan_to_num(images), labels=labels), with_tstr=False)
    return Worth(
        fid=figures[f"fid_{evaluator.extractor_name}"], prototype_accuracy=figures["prototype_accuracy"]
    )
