"""What one client adds to a sum: its records, clipped, rounded and noised, as integers of the ring.

Formal guarantees, for the releases of modes `distributed`, `local` and `client`: the returned vector is
one use of the release's mechanism on this client's data.  Unit: one example (add/remove), in `client`
the client (zero-out); sensitivity: `grid.norm_bound` in grid units; view and accountant: the plan's.
Poisson coins and noise come from `entropy`, by default the operating system's; they are drawn afresh at
each call and never stored or logged, and so is everything else that depends on the data (sample sizes,
losses, clip counts).

An auditor's canaries, where the plan has coordinates for them, pass the same sampler, clip, rounding and
noise as real records; a real record is zero on their coordinates, so nothing of it depends on them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from secure_fed_diffusion.audit.canaries import Planted
from secure_fed_diffusion.data.datasets import ImageSet
from secure_fed_diffusion.diffusion.objective import Objective
from secure_fed_diffusion.dp.noise import poisson_sample
from secure_fed_diffusion.entropy import Entropy, system
from secure_fed_diffusion.federation.class_covariances import covariance_mean, covariance_sum
from secure_fed_diffusion.federation.class_means import prototype_rows
from secure_fed_diffusion.federation.label_balance import thin
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.release import Release, draw_noise
from secure_fed_diffusion.federation.settings import LocalSettings, StepSettings
from secure_fed_diffusion.training.integer_sums import integer_sum
from secure_fed_diffusion.training.local import (
    ClientData,
    ClientSample,
    DrawKey,
    LocalOptimizer,
    train_plain,
    train_private,
)
from secure_fed_diffusion.training.micro_batch import resolve
from secure_fed_diffusion.training.per_example import micro_batches
from secure_fed_diffusion.training.vectors import flatten, load_flat

Integers = npt.NDArray[np.int64]
_NO_CANARIES = np.empty(0, dtype=np.intp)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contributor:
    """One client's data and the model it computes with; `entropy` draws noise, `coins` draws samples.

    `planted` are the auditor's records among the client's own.
    """

    client_id: int
    plan: Plan
    images: ImageSet = field(repr=False)
    data: ClientData = field(repr=False)
    model: nn.Module
    objective: Objective
    entropy: Entropy = system
    coins: Entropy = system
    planted: Planted | None = None

    def vector(
        self, release: Release, weights: npt.NDArray[np.float32], *, number: int, attempt: int
    ) -> npt.NDArray[np.uint64]:
        """Return this client's contribution to `release`, modulo 2**64 (the ring cuts it): (length,).

        `weights` are as announced: with `label_balance` the shares of the classes stand behind them, and in
        a round of class covariances they are the class means.
        """
        key: DrawKey = (self.plan.seed, self.client_id, number, attempt)
        if release.name == "prototypes":
            integers = self._prototypes(release)
        elif release.name == "covariances":
            integers = self._covariances(release, weights)
        elif isinstance(self.plan.recipe, StepSettings):
            integers = self._gradient(release, self.plan.recipe, weights, key)
        else:
            return self._update(release, weights, key)
        return self.noised(integers, release)

    def noised(self, integers: Integers, release: Release) -> npt.NDArray[np.uint64]:
        """Return the integers with this client's own noise, modulo 2**64."""
        return self._with_noise(integers, release).view(np.uint64)

    def _with_noise(self, integers: Integers, release: Release) -> Integers:
        """Add this client's own noise, where the plan gives it any: a share, or the whole."""
        stddev = release.mechanism.share_stddev
        if not stddev:
            return integers
        return integers + draw_noise(stddev, len(integers), self.entropy)

    def _sample(self, rate: float, n_canaries: int = 0) -> npt.NDArray[np.intp]:
        """Toss every record's coin, then every canary's; a canary moves no record's coin."""
        return np.flatnonzero(poisson_sample(len(self.images) + n_canaries, rate, self.coins))

    def _prototypes(self, release: Release) -> Integers:
        """Per-class sums and counts of a sample; with the client as the unit, of its mean record."""
        by_client = release.mechanism.unit == "client"
        chosen = np.arange(len(self.images)) if by_client else self._sample(release.mechanism.sampling_rate)
        parts = (self.images.subset(chosen[i : i + 256]) for i in range(0, len(chosen), 256))
        rows = (prototype_rows(part, self.plan.n_classes, release.grid.clip_norm) for part in parts)
        if by_client:
            whole = sum((part.sum(axis=0) for part in rows), np.zeros(release.length))
            return release.grid.round(whole[np.newaxis] / max(1, len(chosen)))[0]
        return sum(
            (release.grid.round(part).sum(axis=0) for part in rows), np.zeros(release.length, dtype=np.int64)
        )

    def _covariances(self, release: Release, means: npt.NDArray[np.float32]) -> Integers:
        """Per-class sums of products about `means`, and counts; with the client as the unit, their mean."""
        frequencies = self.plan.warmup.covariances.frequencies
        around = means.reshape(self.plan.n_classes, *self.plan.image_shape)
        if release.mechanism.unit == "client":
            whole = covariance_mean(self.images, around, frequencies, release.grid.clip_norm)
            return release.grid.round(whole[np.newaxis])[0]
        sample = self.images.subset(self._sample(release.mechanism.sampling_rate))
        return covariance_sum(sample, around, frequencies, release.grid)

    def drawn(
        self, release: Release, weights: npt.NDArray[np.float32], key: DrawKey
    ) -> tuple[ClientSample, npt.NDArray[np.intp]]:
        """Toss the coins of one step; return the records that they chose, and which of the canaries."""
        planted = self.planted.coordinates if self.planted and release.canaries else _NO_CANARIES
        sample = self._sample(release.mechanism.sampling_rate, len(planted))
        real = sample < len(self.images)
        records = sample[real]
        if self.plan.label_shares:
            shares = weights[self.plan.dimension :]
            records = thin(records, self.images.labels[records], shares, self.coins)
        return self.data.sample(records, self.objective, key), planted[sample[~real] - len(self.images)]

    def _gradient(
        self, release: Release, recipe: StepSettings, weights: npt.NDArray[np.float32], key: DrawKey
    ) -> Integers:
        """One step: the integer sum of the sampled records' clipped gradients, the canaries' among them."""
        load_flat(self.model, torch.from_numpy(weights[: self.plan.dimension]))
        records, drawn = self.drawn(release, weights, key)
        size = self.micro_batch(recipe)
        chunks = micro_batches(self.model, self.objective, records, size)
        total = integer_sum(chunks, release.grid, self.plan.dimension)
        return self.with_canaries(total, drawn, release, micro_batch=size, key=key)

    def with_canaries(
        self,
        total: Integers,
        drawn: npt.NDArray[np.intp],
        release: Release,
        *,
        micro_batch: int,
        key: DrawKey,
    ) -> Integers:
        """Return the records' sum with the canaries' coordinates behind it, those `drawn` added and noted."""
        total = np.pad(total, (0, release.canaries))
        if self.planted is None or not release.canaries:
            return total
        _, _, number, attempt = key
        self.planted.notes.write(self.client_id, int(number), int(attempt), drawn)
        rows = self.planted.gradients(
            drawn,
            dimension=self.plan.dimension,
            n_canaries=release.canaries,
            clip_norm=release.grid.clip_norm,
            micro_batch=micro_batch,
        )
        as_chunks = ({"canaries": torch.from_numpy(part)} for part in rows)
        return total + integer_sum(as_chunks, release.grid, release.length)

    def micro_batch(self, recipe: StepSettings | LocalSettings) -> int:
        """Return how many records' gradients are computed at once: on this machine, where that is "auto"."""
        configured = recipe.micro_batch
        if isinstance(configured, int):
            return configured
        _, channels, height, width = self.data.images.shape
        return resolve(
            configured,
            self.model,
            self.objective,
            image_shape=(channels, height, width),
            n_classes=self.plan.n_classes,
        )

    def _update(
        self, release: Release, weights: npt.NDArray[np.float32], key: DrawKey
    ) -> npt.NDArray[np.uint64]:
        """Local epochs, and what they changed: clipped and noised as a whole (`client`), or encoded."""
        recipe = self.plan.recipe
        if isinstance(recipe, StepSettings):
            raise TypeError("a gradient step has no local epochs")
        optimizer = LocalOptimizer(
            optimizer=recipe.optimizer, learning_rate=recipe.learning_rate, prox_mu=recipe.prox_mu
        )
        load_flat(self.model, torch.from_numpy(weights))
        if isinstance(recipe, LocalSettings):
            train_private(
                self.model,
                self.objective,
                self.data,
                optimizer,
                steps=release.steps,
                sampling_rate=release.mechanism.sampling_rate,
                divisor=recipe.divisor,
                grid=release.grid,
                noise_stddev=release.mechanism.share_stddev,
                micro_batch=self.micro_batch(recipe),
                key=key,
                sampling_entropy=self.coins,
                noise_entropy=self.entropy,
            )
        else:
            train_plain(
                self.model,
                self.objective,
                self.data,
                optimizer,
                epochs=recipe.local_epochs,
                batch=recipe.batch,
                key=key,
            )
        update = flatten(self.model).numpy().astype(np.float64) - weights
        if release.fixed_point is None:  # clipped as the grid says, flat or automatic
            return self._with_noise(release.grid.round(update[np.newaxis])[0], release).view(np.uint64)
        update = np.nan_to_num(update, posinf=0.0, neginf=0.0)  # a diverged step must not end the round
        if self.plan.mode != "none":
            return release.fixed_point.encode(update, entropy=self.entropy).vector.astype(np.uint64)
        weight = len(self.images)
        encoded = release.fixed_point.encode(update, weight=weight, entropy=self.entropy).vector
        return np.append(encoded.astype(np.uint64), np.uint64(weight))
