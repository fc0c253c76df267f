"""T20: who has which class?  A client's class sums and counts, as a curious server meets them.

In the clear a client's prototype vector is a list of its classes.  Under masks the server has the sum, which
says of each member what it says of all.  Noise for single records is no help here: a whole class of a client
is many records, so whoever takes all other contributions off the sum reads the client's classes through its
noise share.

The attack on the sum guesses the classes that the sum has most of.  With ten clients that is right more often
than a coin: what the sum tells about its members no masking can change.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from secure_fed_diffusion.data.datasets import ImageSet
from secure_fed_diffusion.federation.class_means import prototype_rows
from threat_models.adversaries.curious_server import ClassSums
from threat_models.claim import Arm, Claim, Counts, Staged, Tags, Threshold
from threat_models.staging.denoisers import N_CLASSES, MlpDenoiser
from threat_models.staging.small_federation import Floats, digits, federation, settings_for

CLIENTS, HELD = 10, 5  # clients, and classes that each of them holds
_ROUND, _VICTIM = 1, 0
_RECORDS = 14  # of each class that a client holds
_CLIP = 5.0  # warmup.clip_norm


def _settings(arm: Arm) -> Any:
    mode = "none" if arm is Arm.OFF else "distributed"
    return settings_for(
        mode,
        clients=CLIENTS,
        rounds=1,
        warmup__draws=1,
        warmup__sampling_rate=1.0,
        warmup__clip_norm=_CLIP,
        federation__masked=arm is not Arm.OFF,
        federation__colluders=1,
    )


def _dealt(seed: int) -> tuple[list[ImageSet], list[frozenset[int]]]:
    """Deal the digits out: each client holds some classes, and as many records of each of them."""
    rng = np.random.default_rng([seed, 20])
    both = (digits().train, digits().test)  # together they have enough of each class
    images = ImageSet(
        *(np.concatenate([getattr(part, name) for part in both]) for name in ("images", "labels"))
    )
    held = [frozenset(rng.permutation(N_CLASSES)[:HELD].tolist()) for _ in range(CLIENTS)]
    by_label = [rng.permutation(np.flatnonzero(images.labels == label)) for label in range(N_CLASSES)]
    taken = [
        np.concatenate([by_label[label][c * _RECORDS : (c + 1) * _RECORDS] for label in sorted(held[c])])
        for c in range(CLIENTS)
    ]
    return [images.subset(part) for part in taken], held


def stage(arm: Arm, seed: int) -> Staged[ClassSums]:
    """Sum the prototypes of one round; with every other client's contribution told, where that is dropped."""
    images, held = _dealt(seed)
    staged = federation(_settings(arm), MlpDenoiser, images, seed=seed)
    told: Floats | None = None
    if arm is Arm.OFF:
        own = staged.contribution(_VICTIM, _ROUND)
        total = own + sum(staged.contribution(c, _ROUND) for c in range(CLIENTS) if c != _VICTIM)
    else:
        own = None
        answers = staged.record_contributions()
        total = staged.decoded(staged.run_round(_ROUND), _ROUND)
        if arm is Arm.DROPPED:
            told = staged.decoded(sum(answers[c] for c in range(CLIENTS) if c != _VICTIM), _ROUND)
    return Staged(view=ClassSums(own=own, total=total, others=told, clip_norm=_CLIP), truth=held[_VICTIM])


def attack(view: ClassSums) -> frozenset[int]:
    """Return the five classes that the most telling vector has most of."""
    vector = view.total if view.own is None else view.own
    if view.others is not None:
        vector = view.total - view.others
    public = digits().public
    rows = prototype_rows(public, N_CLASSES, view.clip_norm)
    templates = np.stack([rows[public.labels == label].mean(axis=0) for label in range(N_CLASSES)])
    amounts = templates @ vector / np.square(templates).sum(axis=1)
    return frozenset(np.argsort(-amounts)[:HELD].tolist())


def judge(guess: frozenset[int], truth: frozenset[int]) -> Counts:
    """Count the classes that are rightly told present or absent."""
    return Counts(N_CLASSES - len(guess ^ truth), N_CLASSES)


CLAIM = Claim(
    id="T20",
    title="Who has which class?",
    adversary="curious_server",
    asset="which classes a client holds",
    statement=(
        "Of the prototypes the server learns the cohort's sum, and of one client's classes no more than "
        "that sum tells of all. Noise for single records does not hide them from all others together."
    ),
    defence="masks over class sums and counts",
    dropped_assumption="at most as many clients collude as the plan says (here 1, dropped: all others)",
    view=ClassSums,
    stage=stage,
    attack=attack,
    judge=judge,
    metric="share of the victim's classes rightly told present or absent (a coin: 0.5)",
    threshold=Threshold(succeeds=0.9, fails=0.8),
    source="property inference from aggregates: Melis et al. 2019, arXiv 1805.04049",
    seeds=tuple(range(20)),
    tags=Tags(stride=("Information disclosure",), linddun=("Detecting", "Data disclosure"), atlas=()),
)
