"""Broken sampling: other records, or more of them, than the accountant is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from secure_fed_diffusion.federation import contribution
from secure_fed_diffusion.federation.contribution import Contributor
from tests.federation.small import seeded
from tests.mutants.broken.mutant import Honest, Table

SAMPLING = Table()
mutant = SAMPLING.mutant


@mutant(
    contribution,
    "poisson_sample",
    "Each epoch is shuffled and cut into batches: no Poisson sampling, and no amplification by it.",
    named="A0 conformance",
)
def _shuffling(honest: Honest) -> Honest:
    left: dict[int, list[int]] = {}
    rng = np.random.default_rng(3)

    def poisson_sample(n: int, rate: float, entropy: Any) -> Any:
        if rate == 1.0:
            return honest(n, rate, entropy)
        flags = np.zeros(n, dtype=np.bool_)
        queue = left.setdefault(id(entropy), [])
        for _ in range(round(n * rate)):
            queue[:] = [i for i in queue if i < n] or rng.permutation(n).tolist()
            flags[queue.pop()] = True
        return flags

    return poisson_sample


@mutant(
    contribution,
    "poisson_sample",
    "Records are drawn at twice the rate that is accounted.",
    named="A0 conformance",
)
def _twice_the_rate(honest: Honest) -> Honest:
    return lambda n, rate, entropy: honest(n, min(1.0, 2 * rate), entropy)


@mutant(
    contribution,
    "poisson_sample",
    "Records are drawn 5 % more often than is accounted.",
    named="sample is the sampler's",
)
def _five_percent_more_often(honest: Honest) -> Honest:
    return lambda n, rate, entropy: honest(n, min(1.0, 1.05 * rate), entropy)


@mutant(
    Contributor,
    "_sample",
    "Records are drawn at twice the rate and canaries at the plan's: an audit of canaries would lie.",
    named="A0 batch sizes",
)
def _twice_the_rate_for_records_alone(honest: Honest) -> Honest:
    def sample(self: Contributor, rate: float, n_canaries: int = 0) -> Any:
        chosen, more = honest(self, rate, n_canaries), honest(self, rate, n_canaries)
        return np.union1d(chosen, more[more < len(self.images)])

    return sample


@mutant(
    Contributor,
    "_covariances",
    "Class covariances are of all records, at whatever rate they are accounted.",
    named="sample is the sampler's",
)
def _covariances_of_all_records(honest: Honest) -> Honest:
    def covariances(self: Contributor, release: Any, means: Any) -> Any:
        return honest(self, replace(release, mechanism=replace(release.mechanism, sampling_rate=1.0)), means)

    return covariances


@mutant(
    Contributor,
    "vector",
    "Coins come from the public seed, the client and the attempt at the round: everybody can toss them.",
    named="fresh draws",
)
def _seeded_coins(honest: Honest) -> Honest:
    def vector(self: Contributor, release: Any, weights: Any, *, number: int, attempt: int) -> Any:
        public = replace(self, coins=seeded(self.plan.seed, self.client_id, number, attempt))
        return honest(public, release, weights, number=number, attempt=attempt)

    return vector


@mutant(
    Contributor,
    "vector",
    "A retry of a round takes the sample of its first attempt.",
    named="fresh draws",
)
def _retry_reuses_the_sample(honest: Honest) -> Honest:
    def vector(self: Contributor, release: Any, weights: Any, *, number: int, attempt: int) -> Any:
        again = replace(self, coins=seeded("sample of", self.client_id, number))
        return honest(again, release, weights, number=number, attempt=attempt)

    return vector


@mutant(
    Contributor,
    "_sample",
    "A client that drew nothing draws again.",
    named="A7 gradients",
)
def _empty_samples_are_drawn_again(honest: Honest) -> Honest:
    def sample(self: Contributor, rate: float, n_canaries: int = 0) -> Any:
        for _ in range(3):
            chosen = honest(self, rate, n_canaries)
            if len(chosen):
                break
        return chosen

    return sample
