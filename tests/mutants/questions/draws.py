"""Does a client compute and draw what it should: each record's own vector, the sampler's own noise?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import torch

from secure_fed_diffusion.data.images import ImageSet
from secure_fed_diffusion.diffusion.objective import Draws, Objective
from secure_fed_diffusion.dp import noise
from secure_fed_diffusion.dp.noise import discrete_gaussian, poisson_sample
from secure_fed_diffusion.entropy import system
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.release import NOISE_BLOCK, Release
from secure_fed_diffusion.federation.schedule import ReleaseName
from secure_fed_diffusion.training.local import ClientData
from secure_fed_diffusion.training.vectors import flatten
from tests.federation.small import seeded
from tests.mutants.laboratory import Laboratory, TinyDenoiser, digits
from tests.mutants.questions.check import Table
from tests.mutants.questions.replay import HELD, SECTIONS, announced

DRAWS = Table()
check = DRAWS.check


@check("sum of own vectors", "A sum of gradients is that of each record's own, by a loop, rounded by itself.")
def _loop(lab: Laboratory) -> str | None:
    plan = lab.plan("distributed", "modes.distributed.sampling_rate=1.0")
    release, images = plan.releases["training"], digits().train.subset(slice(0, 20))
    model, objective = TinyDenoiser(), Objective(plan.diffusion)
    weights = flatten(model).numpy()
    it = lab.contributor(plan, 0, images, entropy=system, coins=system)
    silent = replace(release, mechanism=replace(release.mechanism, share_stddev=0.0))
    found = it.vector(silent, weights, number=1, attempt=0).view(np.int64)
    records = it.data.records(np.arange(len(images)), objective, (plan.seed, 0, 1, 0))
    expected = np.zeros(release.length, dtype=np.int64)
    for i in range(len(images)):
        draws = Draws(records.draws.timesteps[i], records.draws.noise[i])
        model.zero_grad()
        image, label = records.images[i], records.labels[i]
        objective.loss_one(model, image, label, draws.timesteps, draws.noise).backward()
        row = torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])
        expected += release.grid.round(row.double().numpy()[np.newaxis])[0]
    off = int(np.abs(found - expected).max())
    return f"a coordinate is off by {off} grid units" if off > 2 else None  # halves may be rounded otherwise


@check("no memory", "What a client sends is a function of the round alone: a fresh one would send the same.")
def _no_memory(lab: Laboratory) -> str | None:
    images = digits().train.subset(slice(0, HELD))
    weights = flatten(TinyDenoiser()).numpy()

    def second(mode: str, older: bool) -> npt.NDArray[np.uint64]:
        plan = lab.plan(mode)
        release = plan.releases["training"]
        it = lab.contributor(plan, 0, images, entropy=seeded("memory"), coins=seeded("other"))
        if older:
            first = replace(it, entropy=seeded("first"), coins=seeded("first coins"))
            first.vector(release, weights + np.float32(0.01), number=1, attempt=0)
        return it.vector(release, weights, number=2, attempt=0)

    for mode in ("distributed", "local", "client"):
        fresh = second(mode, older=False)
        if not np.array_equal(second(mode, older=True), fresh):
            return f"mode {mode}: round 2 depends on what was drawn or computed in round 1"
    return None


@check("fresh draws", "A retry, and another client, draw other noise and another sample.")
def _fresh(lab: Laboratory) -> str | None:
    plan = lab.plan("distributed")
    release, images = plan.releases["training"], digits().train.subset(slice(0, HELD))
    silent = replace(release, mechanism=replace(release.mechanism, share_stddev=0.0))
    everyone = replace(release, mechanism=replace(release.mechanism, sampling_rate=1.0))
    weights = flatten(TinyDenoiser()).numpy()

    def vectors(release: Any) -> list[npt.NDArray[np.uint64]]:
        it = lab.contributor(plan, 0, images, entropy=system, coins=system)
        other = lab.contributor(plan, 1, images, entropy=system, coins=system)
        # One key for the diffusion's draws in all of them, so that noise and sample alone may differ.
        with patch.object(ClientData, "records", _same_draws(ClientData.records)):
            return [
                who.vector(release, weights, number=1, attempt=attempt)
                for who, attempt in ((it, 0), (it, 0), (it, 1), (other, 0))
            ]

    for what, chosen in (("sample", silent), ("noise", everyone)):
        first, *others = vectors(chosen)
        again = ("the same attempt, made again,", "a retry", "another client")
        for who, vector in zip(again, others, strict=True):
            if np.mean(first == vector) > 0.5:
                return f"{who} has the same {what}"
    return None


def _same_draws(honest: Callable[..., Any]) -> Callable[..., Any]:
    def records(self: Any, index: Any, objective: Any, key: Any) -> Any:
        return honest(self, index, objective, ("one key",))

    return records


@check("noise is the sampler's", "A share is what `dp.noise` draws from the client's entropy, bit by bit.")
def _own_noise(lab: Laboratory) -> str | None:
    plan = lab.plan("distributed", "warmup.covariances.draws=1")
    images = digits().train.subset(slice(0, 3))

    def vector(release: Release) -> npt.NDArray[np.int64]:
        it = lab.contributor(plan, 0, images, entropy=seeded("noise"), coins=seeded("coins"))
        return it.vector(release, announced(plan, release.name), number=1, attempt=0).view(np.int64)

    for name in ("training", "prototypes", "covariances"):
        release = plan.releases[name]
        silent = replace(release, mechanism=replace(release.mechanism, share_stddev=0.0))
        share = vector(release) - vector(silent)
        expected = discrete_gaussian(release.mechanism.share_stddev, NOISE_BLOCK, seeded("noise"))
        if not np.array_equal(share, expected[: release.length]):
            return f"{name}: other integers than the proven sampler draws"
    return None


@check(
    "sample is the sampler's",
    "A sample is what `dp.noise` tosses with the client's coins at the plan's rate.",
)
def _own_sample(lab: Laboratory) -> str | None:
    plan = lab.plan("distributed")
    release, images = plan.releases["training"], digits().train.subset(slice(0, HELD))
    weights = flatten(TinyDenoiser()).numpy()
    chosen: list[npt.NDArray[np.intp]] = []
    gather = ClientData.sample

    def watched(self: ClientData, index: Any, *arguments: Any) -> Any:
        chosen.append(index)
        return gather(self, index, *arguments)

    for seed in range(16):
        it = lab.contributor(plan, 0, images, entropy=system, coins=seeded("coins", seed))
        with patch.object(ClientData, "sample", watched):
            it.vector(release, weights, number=1, attempt=0)
        flags = poisson_sample(len(images), release.mechanism.sampling_rate, seeded("coins", seed))
        if not np.array_equal(chosen[-1], np.flatnonzero(flags)):
            return "another sample than the coins give"
    rates = [f"{SECTIONS[name]}.sampling_rate=0.25" for name in BEFORE_TRAINING]
    plan = lab.plan("distributed", "warmup.covariances.draws=1", *rates)
    return next(filter(None, (_sample_before_training(lab, plan, name) for name in BEFORE_TRAINING)), None)


BEFORE_TRAINING: tuple[ReleaseName, ...] = ("prototypes", "covariances")


def _sample_before_training(lab: Laboratory, plan: Plan, name: ReleaseName) -> str | None:
    """Hold a sum without noise against that of all records of those alone that the coins choose."""
    images, mechanism = digits().train.subset(slice(0, HELD)), plan.releases[name].mechanism
    silent = replace(mechanism, share_stddev=0.0)

    def total(images: ImageSet, rate: float) -> npt.NDArray[np.uint64]:
        release = replace(plan.releases[name], mechanism=replace(silent, sampling_rate=rate))
        it = lab.contributor(plan, 0, images, entropy=system, coins=seeded("coins"))
        return it.vector(release, announced(plan, name), number=1, attempt=0)

    drawn = np.flatnonzero(poisson_sample(HELD, mechanism.sampling_rate, seeded("coins")))
    if np.array_equal(total(images, mechanism.sampling_rate), total(images.subset(drawn), 1.0)):
        return None
    return f"{name}: another sample than the coins give"


class _Constant:
    """Stands where the key stream stands, and is one byte for ever: the farthest draw there is."""

    byte = 0

    def __init__(self, key: bytes) -> None:
        pass

    def fill(self, out: npt.NDArray[Any]) -> None:
        """Overwrite `out`."""
        out.reshape(-1).view(np.uint8)[:] = self.byte

    def read(self, n_bytes: int) -> bytes:
        """Return the byte as often as asked."""
        return bytes([self.byte]) * n_bytes


@check("far tails", "The sampler's rarest draws lie 30 standard deviations out: nothing cuts them off.")
def _far_tails(lab: Laboratory) -> str | None:
    for byte in (0, 255):
        with patch.object(_Constant, "byte", byte), patch.object(noise, "Keystream", _Constant):
            drawn = np.abs(discrete_gaussian(64.0, 4))
        if drawn.min() < 30 * 64:
            return f"the farthest draw lies {drawn.min() / 64:.1f} standard deviations out"
    return None
