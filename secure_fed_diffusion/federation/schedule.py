"""Who takes part in which round: public, fixed in advance, balanced.

Nobody is amplified by client sampling: a cohort that the server or chance picked in secret would be a
claim about the server.  What a fixed schedule gives instead is fewer charges for each client.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from secure_fed_diffusion.federation.settings import FederationSettings

ReleaseName = Literal[
    "prototypes",
    "training",
    "training_2",
    "training_3",
    "training_4",
    "training_5",
    "training_6",
    "training_7",
    "training_8",
    "covariances",
]
"""What a sum is for: class means and covariances, or the training in one phase of a batch schedule."""

PHASES: tuple[ReleaseName, ...] = get_args(ReleaseName)[1:-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round: its number, counted from 1, what is summed, and who takes part."""

    number: int
    release: ReleaseName
    cohort: tuple[int, ...]


def make_schedule(
    federation: FederationSettings,
    *,
    n_prototypes: int,
    n_training: int,
    seed: int,
    n_covariances: int = 0,
    phases: Sequence[int] = (1,),
) -> tuple[Round, ...]:
    """Fix every cohort: those with the fewest rounds of this release so far, ties by a public permutation.

    `phases` are the training rounds, counted from 1, with which each phase begins.
    """
    rng = np.random.default_rng([seed, 0xC0])
    names: list[ReleaseName] = ["prototypes"] * n_prototypes
    names += ["covariances"] * n_covariances
    names += [PHASES[sum(first <= t for first in phases) - 1] for t in range(1, n_training + 1)]
    taken: dict[str, list[int]] = defaultdict(lambda: [0] * federation.clients)
    rounds = []
    for number, name in enumerate(names, start=1):
        counts, ties = taken[name], rng.permutation(federation.clients).tolist()
        order = sorted(range(federation.clients), key=list(zip(counts, ties, strict=True)).__getitem__)
        cohort = tuple(sorted(order[: federation.clients_per_round]))
        for client_id in cohort:
            counts[client_id] += 1
        rounds.append(Round(number=number, release=name, cohort=cohort))
    return tuple(rounds)


def most_participations(rounds: tuple[Round, ...], release: str) -> int:
    """Return the largest number of rounds of `release` that any one client takes part in."""
    counts: dict[int, int] = {}
    for planned in rounds:
        if planned.release == release:
            for client_id in planned.cohort:
                counts[client_id] = counts.get(client_id, 0) + 1
    return max(counts.values(), default=0)
