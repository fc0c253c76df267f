"""Broken noise: too little, the same one again, or not the sampler's."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import chain
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from secure_fed_diffusion import entropy
from secure_fed_diffusion.dp import noise
from secure_fed_diffusion.federation import contribution, server
from secure_fed_diffusion.federation.contribution import Contributor
from secure_fed_diffusion.training import dpsgd, local
from tests.federation.small import seeded
from tests.mutants.broken.mutant import Honest, Table

NOISE = Table()
mutant = NOISE.mutant


@mutant(
    contribution, "draw_noise", "A client's share has half the standard deviation.", named="A0 conformance"
)
def _half_the_noise(honest: Honest) -> Honest:
    return lambda stddev, length, entropy: honest(stddev / 2, length, entropy)


@mutant(
    contribution,
    "draw_noise",
    "A client's share is divided by the number of clients as if the sum were a mean.",
    named="A0 conformance",
)
def _noise_over_the_wrong_divisor(honest: Honest) -> Honest:
    return lambda stddev, length, entropy: honest(stddev / 5, length, entropy)


@mutant(contribution, "draw_noise", "A share is 1 % too small.", named="noise is the sampler's")
def _one_percent_too_little(honest: Honest) -> Honest:
    return lambda stddev, length, entropy: honest(0.99 * stddev, length, entropy)


@mutant(contribution, "draw_noise", "A share is 5 % too small.", named="A0 conformance")
def _five_percent_too_little(honest: Honest) -> Honest:
    return lambda stddev, length, entropy: honest(0.95 * stddev, length, entropy)


@mutant(
    Contributor,
    "_with_noise",
    "A client draws its noise once and uses it in every round.",
    named="A0 conformance",
)
def _noise_reused_across_rounds(honest: Honest) -> Honest:
    drawn: dict[Any, Any] = {}

    def with_noise(self: Contributor, integers: Any, release: Any) -> Any:
        key = self.client_id, release.name, len(integers), release.mechanism.share_stddev
        if key not in drawn:
            drawn[key] = honest(self, integers, release) - integers
        return integers + drawn[key]

    return with_noise


@mutant(
    Contributor,
    "_with_noise",
    "All clients of a round draw from one stream: whoever colludes knows everybody's noise.",
    named="A0 noise shares",
)
def _same_noise_at_every_client(honest: Honest) -> Honest:
    common = [seeded("common"), 0]

    def with_noise(self: Contributor, integers: Any, release: Any) -> Any:
        if not release.mechanism.share_stddev:
            return integers
        count = common[1]
        common[1] = count + 1
        return integers + contribution.draw_noise(
            release.mechanism.share_stddev, len(integers), seeded("common", count // 5)
        )

    return with_noise


@mutant(
    Contributor,
    "_with_noise",
    "The noise of a pair of clients cancels: one adds what the other subtracts.",
    named="A0 conformance",
)
def _noise_that_cancels(honest: Honest) -> Honest:
    last: dict[int, Any] = {}

    def with_noise(self: Contributor, integers: Any, release: Any) -> Any:
        answer = honest(self, integers, release)
        if self.client_id % 2 and self.client_id - 1 in last:
            other = last.pop(self.client_id - 1)
            return integers - other if len(other) == len(integers) else answer
        last[self.client_id] = answer - integers
        return answer

    return with_noise


@mutant(
    Contributor,
    "_with_noise",
    "Class covariances go out without noise: what is left of the budget was spent on the means.",
    named="noise is the sampler's",
)
def _class_covariances_without_noise(honest: Honest) -> Honest:
    def with_noise(self: Contributor, integers: Any, release: Any) -> Any:
        return integers if release.name == "covariances" else honest(self, integers, release)

    return with_noise


@mutant(
    Contributor,
    "_with_noise",
    "Where there are canaries, their coordinates alone are noised: an audit of canaries would lie.",
    named="A0 noise shares",
)
def _noise_for_canaries_alone(honest: Honest) -> Honest:
    def with_noise(self: Contributor, integers: Any, release: Any) -> Any:
        answer = honest(self, integers, release)
        if release.canaries:
            answer[: -release.canaries] = integers[: -release.canaries]
        return answer

    return with_noise


@mutant(
    contribution,
    "draw_noise",
    "The noise is rounded float noise of numpy's generator, which nobody's entropy decides.",
    named="noise is the sampler's",
)
def _rounded_float_noise(honest: Honest) -> Honest:
    rng = np.random.default_rng(7)
    return lambda stddev, length, entropy: np.rint(rng.normal(0.0, stddev, length)).astype(np.int64)


@mutant(
    contribution,
    "draw_noise",
    "Rounded float noise again, seeded by the client's own entropy: 32 bits of it.",
    named="noise is the sampler's",
)
def _rounded_float_noise_well_seeded(honest: Honest) -> Honest:
    def draw_noise(stddev: float, length: int, entropy: Any) -> Any:
        rng = np.random.default_rng(int.from_bytes(entropy(32)[:4], "big"))
        return np.rint(rng.normal(0.0, stddev, length)).astype(np.int64)

    return draw_noise


def _clipped_draws(honest: Honest, stddevs: float) -> Honest:
    def draw(table: Any, *arguments: Any) -> Any:
        end = math.ceil(table.bound / 38.6 * stddevs)
        return np.clip(honest(table, *arguments), -end, end)

    return draw


@mutant(noise, "_draw", "The sampler's draws end at two standard deviations.", named="A0 noise shares")
def _no_tails(honest: Honest) -> Honest:
    return _clipped_draws(honest, 2.0)


@mutant(
    noise,
    "_draw",
    "The sampler's draws end at six standard deviations.",
    named="far tails",
)
def _short_tails(honest: Honest) -> Honest:
    return _clipped_draws(honest, 6.0)


@mutant(
    Contributor,
    "_with_noise",
    "A client whose sample is empty sends no noise.",
    named="A7 gradients",
)
def _empty_batch_without_noise(honest: Honest) -> Honest:
    return lambda self, integers, release: honest(self, integers, release) if integers.any() else integers


@mutant(
    local,
    "private_step",
    "A local step whose sample is empty is skipped.",
    named="A7 local step",
)
def _empty_local_step_is_skipped(honest: Honest) -> Honest:
    def private_step(model: Any, optimizer: Any, chunks: Any) -> None:
        rest = iter(chunks)
        for first in rest:
            honest(model, optimizer, chain([first], rest))

    return private_step


@mutant(
    dpsgd.IntegerDPOptimizer,
    "clip_and_accumulate",
    "A local step does not clip.",
    named="A7 local step",
)
def _no_clip_in_local_steps(honest: Honest) -> Honest:
    def clip_and_accumulate(self: Any) -> None:
        rows = torch.cat([g.flatten(1) for g in self.grad_samples], dim=1).double()
        total = torch.nan_to_num(rows * self._grid.scale).round().sum(dim=0)
        for p, part in zip(self.params, self._split(total), strict=True):
            p.summed_grad = part if p.summed_grad is None else p.summed_grad + part

    return clip_and_accumulate


@mutant(
    Contributor,
    "vector",
    "A retry of a round takes the noise of its first attempt.",
    named="fresh draws",
)
def _retry_reuses_the_noise(honest: Honest) -> Honest:
    def vector(self: Contributor, release: Any, weights: Any, *, number: int, attempt: int) -> Any:
        again = replace(self, entropy=seeded("noise of", self.client_id, number))
        return honest(again, release, weights, number=number, attempt=attempt)

    return vector


@mutant(
    server,
    "draw_noise",
    "The trusted server adds half of the noise.",
    named="A0 of a trusted server",
)
def _half_the_server_s_noise(honest: Honest) -> Honest:
    return lambda stddev, length, entropy: honest(stddev / 2, length, entropy)


@mutant(
    entropy,
    "os",
    "The operating system's randomness is a generator of a 32-bit seed.",
    survives="Predictable, and well distributed: no test of what comes out sees it. The package can only ask "
    "the operating system, and `tests/test_architecture.py` holds that it asks nothing else.",
)
def _predictable_randomness(honest: Honest) -> SimpleNamespace:
    return SimpleNamespace(urandom=np.random.default_rng(20_261_121).bytes)
