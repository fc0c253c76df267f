"""Broken groups: clients that are computed in shared micro-batches are not kept apart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from secure_fed_diffusion.dp.grid import IntegerGrid
from secure_fed_diffusion.entropy import Entropy
from secure_fed_diffusion.federation import together
from secure_fed_diffusion.federation.together import Joined
from secure_fed_diffusion.training.integer_sums import integer_sum
from secure_fed_diffusion.training.per_example import Records
from tests.mutants.broken.mutant import Honest, Table

TOGETHER = Table()
mutant = TOGETHER.mutant


@mutant(
    together,
    "integer_sums",
    "The first record behind a client's own is added to its sum too: a record counts in two sums.",
    named="A7 together",
)
def _one_row_too_many(honest: Honest) -> Honest:
    def integer_sums(chunks: Any, sizes: Any, grid: IntegerGrid, length: int) -> Any:
        whole = [{name: g.clone() for name, g in chunk.items()} for chunk in chunks]
        rows = {name: torch.cat([chunk[name] for chunk in whole]) for name in whole[0]}
        n, start, sums = len(next(iter(rows.values()))), 0, []
        for size in sizes:
            end = min(start + size + 1, n)
            part = {name: gradient[start:end].clone() for name, gradient in rows.items()}
            sums.append(integer_sum([part], grid, length))
            start += size
        return sums

    return integer_sums


@mutant(
    together,
    "integer_sums",
    "Each client of a group is given an equal part of the group's sum.",
    named="A7 together",
)
def _a_group_s_sum_dealt_out(honest: Honest) -> Honest:
    def integer_sums(*arguments: Any) -> Any:
        sums = honest(*arguments)
        return [sum(sums) // len(sums) for _ in sums]

    return integer_sums


@mutant(
    Joined,
    "at",
    "A record's draws are keyed by its place in the group: removing one shifts those of the next clients.",
    named="A7 together",
)
def _draws_keyed_by_place_in_the_group(honest: Honest) -> Honest:
    def at(self: Joined, index: Any) -> Records:
        found = honest(self, index)
        noise = torch.stack(
            [
                torch.randn(found.draws.noise.shape[1:], generator=torch.Generator().manual_seed(int(place)))
                for place in index
            ]
        )
        return Records(found.images, found.labels, replace(found.draws, noise=noise))

    return at


@mutant(
    together,
    "vectors",
    "The noise of a group is drawn once: all of its clients add the same.",
    named="together as alone",
)
def _one_noise_for_a_group(honest: Honest) -> Honest:
    def vectors(contributors: Any, *arguments: Any, **names: Any) -> Any:
        tape = _tape(contributors[0].entropy)
        return honest([replace(each, entropy=tape()) for each in contributors], *arguments, **names)

    return vectors


@mutant(
    together,
    "vectors",
    "The coins of a group are tossed once: whose coins somebody knows, he knows everybody's.",
    named="together as alone",
)
def _one_toss_for_a_group(honest: Honest) -> Honest:
    def vectors(contributors: Any, *arguments: Any, **names: Any) -> Any:
        tape = _tape(contributors[0].coins)
        return honest([replace(each, coins=tape()) for each in contributors], *arguments, **names)

    return vectors


def _tape(entropy: Entropy) -> Any:
    """Return what makes copies of a stream: each gives the same bytes from the first on."""
    drawn: list[bytes] = []

    def copy() -> Entropy:
        position = 0

        def play(n_bytes: int) -> bytes:
            nonlocal position
            if position == len(drawn):
                drawn.append(entropy(n_bytes))
            position += 1
            return drawn[position - 1]

        return play

    return copy


@mutant(
    together,
    "vectors",
    "Clients that are computed together leave their canaries out: an audit looks at what no run does.",
    named="together as alone",
)
def _no_canaries_in_a_group(honest: Honest) -> Honest:
    def vectors(contributors: Any, *arguments: Any, **names: Any) -> Any:
        return honest([replace(each, planted=None) for each in contributors], *arguments, **names)

    return vectors
