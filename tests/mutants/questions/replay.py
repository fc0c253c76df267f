"""Does one record move a contribution by no more than the sensitivity?  A7, in each mode."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import torch

from secure_fed_diffusion.audit.replay import Event, replay
from secure_fed_diffusion.data.datasets import ImageSet
from secure_fed_diffusion.entropy import Entropy
from secure_fed_diffusion.federation import contribution
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.schedule import ReleaseName
from secure_fed_diffusion.training import local
from secure_fed_diffusion.training.vectors import flatten
from tests.federation.small import seeded
from tests.mutants.laboratory import Laboratory, TinyDenoiser, digits
from tests.mutants.questions.check import Table

REPLAY = Table()
check = REPLAY.check


@contextmanager
def others_keep_their_coins(gap: int) -> Iterator[None]:
    """Toss the coins of a data set from which record `gap` was taken: those behind it move up with theirs."""
    tossed, in_local = contribution.poisson_sample, local.poisson_sample

    def leave_out(honest: Callable[..., Any]) -> Callable[..., Any]:
        def sample(n: int, *arguments: Any, **names: Any) -> Any:
            return np.delete(honest(n + 1, *arguments, **names), gap)

        return sample

    with (
        patch.object(contribution, "poisson_sample", leave_out(tossed)),
        patch.object(local, "poisson_sample", leave_out(in_local)),
    ):
        yield


def held_without(images: ImageSet, gap: int | None) -> ImageSet:
    """Take record `gap` away: the file is shorter, and every row behind it moves up."""
    return images if gap is None else images.subset(np.delete(np.arange(len(images)), gap))


HELD = 40  # records of the client that is replayed: two micro-batches and a padded third
HOSTILE: dict[str, tuple[int, Callable[[torch.Tensor], None] | None]] = {
    "an ordinary record": (HELD - 1, None),
    "a record in the middle": (7, None),
    "the first of a micro-batch": (0, None),
    "the first of a padded micro-batch": (32, None),
    "a huge record": (21, lambda images: images[21].mul_(1e4)),
    "a NaN": (5, lambda images: images[5, 0, 0, :1].fill_(math.nan)),
    "an infinity": (33, lambda images: images[33, 0, 3, :1].fill_(math.inf)),
}


SECTIONS = {"prototypes": "warmup", "covariances": "warmup.covariances", "training": "modes.distributed"}


def announced(plan: Plan, release_name: ReleaseName, pixel: float = 0.5) -> npt.NDArray[np.float32]:
    """Return what a contribution is computed from: the weights, or class means of one grey."""
    if release_name == "covariances":
        return np.full(plan.n_classes * math.prod(plan.image_shape), pixel, dtype=np.float32)
    weights: npt.NDArray[np.float32] = flatten(TinyDenoiser()).numpy()
    return weights


def _replayed(
    lab: Laboratory,
    release_name: ReleaseName,
    images: ImageSet,
    gap: int,
    spoil: Callable[..., None] | None = None,
    *,
    rate: float = 1.0,
    seed: int = 0,
    pixel: float = 0.5,
) -> str | None:
    """Replay a contribution of mode `distributed` with and without record `gap`.

    `pixel`: of the class means that a round of class covariances announces.
    """
    plan = lab.plan(
        "distributed",
        "warmup.covariances.draws=1",
        "warmup.covariances.clip_norm=1",  # shorter than any row
        f"{SECTIONS[release_name]}.sampling_rate={rate}",
        "privacy.epsilon=1000",
        "privacy.noise_multiplier=2.0",
    )
    release = plan.releases[release_name]
    weights = announced(plan, release_name, pixel)

    def query(gone: int | None, entropy: Entropy, event: Event) -> npt.NDArray[Any]:
        it = lab.contributor(plan, 0, held_without(images, gone), entropy=entropy, coins=entropy)
        if spoil is not None and gone is None:
            spoil(it.data.images)
        with nullcontext() if gone is None else others_keep_their_coins(gone):
            return it.vector(release, weights, number=1, attempt=0).view(np.int64).copy()

    entropy = seeded("replay", seed)
    return replay(query, None, gap, sensitivity=release.grid.norm_bound, entropy=entropy).finding


def _replayed_alone(lab: Laboratory, release_name: ReleaseName) -> str | None:
    """Replay a client of one record, or of none; its coin shows heads in about every second try."""
    images = digits().train.subset(slice(0, 1))
    found = (_replayed(lab, release_name, images, 0, rate=0.5, seed=seed) for seed in range(8))
    return next((f"the only record: {each}" for each in found if each), None)


@check("A7 gradients", "Replay of a gradient step without one record: ordinary, huge, NaN, the only one.")
def _replay_gradients(lab: Laboratory) -> str | None:
    images = digits().train.subset(slice(0, HELD))
    for name, (gap, spoil) in HOSTILE.items():
        found = _replayed(lab, "training", images, gap, spoil)
        if found:
            return f"{name}: {found}"
    return _replayed_alone(lab, "training")


@check("A7 class means", "Replay of a release of class means with and without one record.")
def _replay_means(lab: Laboratory) -> str | None:
    images = digits().train.subset(slice(0, HELD))
    found = (_replayed(lab, "prototypes", images, gap) for gap in (7, HELD - 1))
    return next(filter(None, found), None) or _replayed_alone(lab, "prototypes")


FAR_MEANS = {"grey means": 0.5, "means beyond every image": -7.0, "means at the end of float32": 3e38}


@check(
    "A7 class covariances",
    "Replay of a release of class covariances with and without one record, about means that make it long.",
)
def _replay_covariances(lab: Laboratory) -> str | None:
    images = digits().train.subset(slice(0, HELD))
    for name, pixel in FAR_MEANS.items():
        for gap in (7, HELD - 1):
            found = _replayed(lab, "covariances", images, gap, pixel=pixel)
            if found:
                return f"{name}: {found}"
    return _replayed_alone(lab, "covariances")


@check("A7 client", "Replay of a client's update against an update of nothing at all.")
def _replay_client(lab: Laboratory) -> str | None:
    plan = lab.plan("client")
    release = plan.releases["training"]
    images = digits().train.subset(slice(0, HELD))
    weights = flatten(TinyDenoiser()).numpy()

    def query(n: int, entropy: Entropy, event: Event) -> npt.NDArray[Any]:
        it = lab.contributor(plan, 0, images.subset(slice(0, n)), entropy=entropy, coins=entropy)
        return it.vector(release, weights, number=2, attempt=0).view(np.int64).copy()

    return replay(query, HELD, 0, sensitivity=release.grid.norm_bound, entropy=seeded("replay")).finding


@check("A7 local step", "Replay of one local DP-SGD step, decoded to the integers that it stepped along.")
def _replay_local(lab: Laboratory) -> str | None:
    images = digits().train.subset(slice(0, 20))
    release = lab.plan("local").releases["training"]
    grid, divisor = release.grid, 5

    def query(kept: tuple[int, int | None], entropy: Entropy, event: Event) -> npt.NDArray[Any]:
        n, gone = kept
        model = TinyDenoiser()
        held = held_without(images.subset(slice(0, n)), gone)
        it = lab.contributor(lab.plan("local"), 0, held, entropy=entropy, coins=entropy)
        before = flatten(model).double()
        # At this rate of learning the weights move by the integers themselves.
        rate = local.LocalOptimizer(optimizer="sgd", learning_rate=divisor * grid.scale)
        with nullcontext() if gone is None else others_keep_their_coins(gone):
            local.train_private(
                model,
                it.objective,
                it.data,
                rate,
                steps=1,
                sampling_rate=1.0,
                divisor=divisor,
                grid=grid,
                noise_stddev=release.mechanism.share_stddev,
                micro_batch=16,
                key=(0, 0, 1, 0),
                sampling_entropy=entropy,
                noise_entropy=entropy,
            )
        return np.rint((before - flatten(model).double()).numpy()).astype(np.int64)

    for n, gone in ((20, 7), (20, 19), (1, 0)):
        found = replay(query, (n, None), (n, gone), sensitivity=grid.norm_bound, entropy=seeded("replay"))
        if found.finding:
            return found.finding
    return None
