"""Many simulated clients, few who compute: worker processes that hold the clients' records.

In a run in one process each client keeps its own state machine, policy and ledger here, and `HandedIn`
stands for its `Contributor`: asked for a vector, it hands the request to a worker and waits.  The charge is
on disk before it is asked (`Client`), so before anything is computed.  A worker has the records, one scratch
model and the plan; coins and noise come from the operating system there; back come the vectors, which leave
this process masked as ever.  A worker computes for several clients at once (`together`).

Guarantees: with the same coins and noise a vector is to the bit what the client's `Contributor` alone would
give, for any number of workers: each computes with `run.threads` threads, as this process would.

Not protected against: see `contribution`; and the parent sees what a simulation's process always saw.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion.data.images import ImageSet
from secure_fed_diffusion.engines.side_by_side import SideBySide
from secure_fed_diffusion.engines.workers import Workers
from secure_fed_diffusion.entropy import Entropy, system
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.release import Release
from secure_fed_diffusion.federation.settings import LocalSettings, RunSettings, StepSettings

_WORTH = 4e11  # parameters times pixels times records: less is done before a worker has started
_FIXED = 7e8  # of the same, what one client's part of one round costs however few its records
_HELD_BYTES = 1 << 28  # of vectors in one group
_NEARLY = 1.05  # of a fair share of the clients, for the worker with the most
_RECORDS_IN_GROUP = 512  # expected: enough that the padding of the last micro-batch does not count


@dataclass(frozen=True, slots=True)
class Asked:
    """One client's request: what `Contributor.vector` is given."""

    client_id: int
    release: Release
    weights: npt.NDArray[np.float32] = field(repr=False)
    number: int
    attempt: int

    def goes_with(self, other: Asked) -> bool:
        """Say whether both can be computed together: they are of one attempt, and were shown one model."""
        return (self.release.name, self.number, self.attempt) == (
            other.release.name,
            other.number,
            other.attempt,
        ) and np.array_equal(self.weights, other.weights)


@dataclass(frozen=True, slots=True)
class Batch:
    """The requests of several clients that go together."""

    client_ids: tuple[int, ...]
    release: Release
    weights: npt.NDArray[np.float32] = field(repr=False)
    number: int
    attempt: int

    @classmethod
    def of(cls, asked: Sequence[Asked]) -> Batch:
        """Put requests together that go together."""
        first = asked[0]
        clients = tuple(each.client_id for each in asked)
        return cls(clients, first.release, first.weights, first.number, first.attempt)


@dataclass(slots=True, kw_only=True)
class Workroom:
    """What computes: the clients' records and a scratch model; made once in each worker."""

    settings: RunSettings
    plan: Plan
    images: Mapping[int, ImageSet] = field(repr=False)
    _contributors: dict[int, Any] = field(default_factory=dict, repr=False)
    _bench: Any = field(default=None, repr=False)

    def open(self) -> Workroom:
        """Build the model, and refuse a machine that cannot keep the plan's sensitivity.

        Raises:
            ConfigError: see `Workbench.require_exact_micro_batches`.
        """
        from secure_fed_diffusion.federation.workbench import Workbench

        self._bench = Workbench.make(
            self.settings,
            image_shape=self.plan.image_shape,
            n_classes=self.plan.n_classes,
            device="cpu",
            threads=self.settings.run.threads or 1,
        )
        self._bench.require_exact_micro_batches(self.plan)
        return self

    def __call__(self, batch: Batch) -> list[npt.NDArray[np.uint64]]:
        """Return each client's vector."""
        from secure_fed_diffusion.federation.together import vectors

        return vectors(
            [self._contributor(client_id) for client_id in batch.client_ids],
            batch.release,
            batch.weights,
            number=batch.number,
            attempt=batch.attempt,
        )

    def _contributor(self, client_id: int) -> Any:
        if client_id not in self._contributors:
            self._contributors[client_id] = self._bench.contributor(
                self.plan, client_id, self.images[client_id]
            )
        return self._contributors[client_id]


@dataclass(frozen=True, slots=True)
class HandedIn:
    """Stands for a client's `Contributor`: its vector is computed by whom `beside` hands it to."""

    client_id: int
    plan: Plan = field(repr=False)
    beside: SideBySide = field(repr=False)

    def vector(
        self, release: Release, weights: npt.NDArray[np.float32], *, number: int, attempt: int
    ) -> npt.NDArray[np.uint64]:
        """Return this client's contribution; see `Contributor.vector`."""
        vector: npt.NDArray[np.uint64] = self.beside.ask(
            Asked(self.client_id, release, weights, number, attempt)
        )
        return vector


def side_by_side(settings: RunSettings, plan: Plan, images: Mapping[int, ImageSet], n: int) -> SideBySide:
    """Return what runs the clients' handlers, with `n` worker processes that start when it is first used."""
    workers = Workers(n, partial(_open, settings, plan, images))
    return SideBySide(
        lambda asked: workers.submit(Batch.of(asked)),
        group=group_size(plan, n),
        ahead=n,
        hands=n,
        same=Asked.goes_with,
        begin=workers.warm,
        n=n,
    )


def _open(settings: RunSettings, plan: Plan, images: Mapping[int, ImageSet]) -> Workroom:
    return Workroom(settings=settings, plan=plan, images=images).open()


def worker_count(settings: RunSettings, plan: Plan, *, device: str, entropy: Entropy, coins: Entropy) -> int:
    """Return how many processes compute for the clients; 1 is this one.

    One where a test injects randomness, which cannot be shared between processes in one order; with
    canaries, whose auditor notes here what is drawn; and on a GPU, which runs one thing at a time anyway.
    """
    if entropy is not system or coins is not system or plan.canaries or device != "cpu":
        return 1
    wanted = settings.run.workers
    if wanted == "auto":
        wanted = _cores() if _work(plan) > _WORTH else 1
    return min(wanted, plan.federation.clients_per_round)


def _cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _work(plan: Plan) -> float:
    """Estimate the run's work from its public figures."""
    recipe, federation = plan.recipe, plan.federation
    rounds = recipe.rounds
    share = federation.clients_per_round / federation.clients
    records = federation.declared_records * share * plan.diffusion.noise_multiplicity
    if isinstance(recipe, StepSettings):
        records *= recipe.sampling_rate
        fixed = _FIXED * federation.clients_per_round
    else:
        records *= recipe.local_epochs
        steps = recipe.steps if isinstance(recipe, LocalSettings) else recipe.local_epochs
        fixed = _FIXED * federation.clients_per_round * steps
    _, height, width = plan.image_shape
    return rounds * (fixed + records * plan.dimension * height * width / plan.patch**2)


def group_size(plan: Plan, n: int) -> int:
    """Return how many clients are computed together: from public figures, so that all workers are busy.

    It is the smallest size at which no worker has much more than a fair share: masks of small groups are made
    while others are computed.
    """
    recipe, federation = plan.recipe, plan.federation
    if not isinstance(recipe, StepSettings):
        return 1
    cohort = federation.clients_per_round
    expected = federation.declared_records * recipe.sampling_rate * cohort / federation.clients
    turns = max(1, round(expected / (n * _RECORDS_IN_GROUP)))
    longest = max(release.length for release in plan.releases.values())
    in_memory = max(1, _HELD_BYTES // (8 * longest))
    fair = -(-cohort // n)
    least = -(-cohort // (n * turns))
    sizes = range(min(in_memory, least), min(in_memory, fair) + 1)
    shares = {size: _busiest(cohort, size, n) for size in sizes}
    good = max(_NEARLY * fair, min(shares.values()))
    return next(size for size, share in shares.items() if share <= good)


def _busiest(cohort: int, size: int, n: int) -> int:
    """Return how many clients fall to the worker with the most, groups going to whoever is free."""
    loads = [0] * n
    for first in range(0, cohort, size):
        loads[loads.index(min(loads))] += min(size, cohort - first)
    return max(loads)
