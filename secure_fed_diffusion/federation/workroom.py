"""Many simulated clients, few who compute: this process, or worker processes that hold the clients' records.

In a run in one process each client keeps its own state machine, policy and ledger here, and `HandedIn`
stands for its `Contributor`: asked for a vector, it hands in the request and waits.  The charge is on disk
before it is asked (`Client`), so before anything is computed.  What computes is a `Workroom`, here or in a
worker: it has the records, one scratch model and the plan, draws coins and noise from the operating system,
gives back the vectors, which leave this process masked as ever, and computes for several clients at once
(`together`).

Guarantees: with the same coins and noise a vector is to the bit what the client's `Contributor` alone would
give, for any number of workers: each computes with `run.threads` threads, as this process does (but for 0,
which is one thread in a worker and torch's choice here).

Not protected against: see `contribution`; and the parent sees what a simulation's process always saw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion.audit.canaries import Planted
from secure_fed_diffusion.cores import usable_cores
from secure_fed_diffusion.data.images import ImageSet
from secure_fed_diffusion.engines.side_by_side import SideBySide
from secure_fed_diffusion.engines.workers import Workers
from secure_fed_diffusion.entropy import Entropy, system
from secure_fed_diffusion.errors import SecureFedDiffusionError
from secure_fed_diffusion.federation.contribution import Contributor
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.release import Release
from secure_fed_diffusion.federation.settings import LocalSettings, RunSettings, StepSettings
from secure_fed_diffusion.federation.together import vectors
from secure_fed_diffusion.federation.workbench import Workbench

_WORTH = 4e11  # parameters times pixels times records: less is done before a worker has started
_FIXED = 7e8  # of the same, what one client's part of one round costs however few its records
_HELD_BYTES = 1 << 30  # of the groups under way
_COORDINATE_BYTES = 20  # of a client in a group: its weights, its sum, its sum with noise
_HELD = 256  # clients in the groups under way: each waits in a thread of its own
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
    """What computes: the clients' records and a scratch model, whose bench has been found to be exact."""

    plan: Plan
    images: Mapping[int, ImageSet] = field(repr=False)
    bench: Workbench = field(repr=False)
    planted: Mapping[int, Planted] = field(default_factory=dict, repr=False)
    _contributors: dict[int, Contributor] = field(default_factory=dict, repr=False)

    def __call__(self, batch: Batch) -> list[npt.NDArray[np.uint64]]:
        """Return each client's vector."""
        return vectors(
            [self._contributor(client_id) for client_id in batch.client_ids],
            batch.release,
            batch.weights,
            number=batch.number,
            attempt=batch.attempt,
        )

    def _contributor(self, client_id: int) -> Contributor:
        if client_id not in self._contributors:
            self._contributors[client_id] = self.bench.contributor(
                self.plan, client_id, self.images[client_id], planted=self.planted.get(client_id)
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


def side_by_side(
    settings: RunSettings,
    plan: Plan,
    images: Mapping[int, ImageSet],
    bench: Workbench,
    *,
    entropy: Entropy,
    coins: Entropy,
    planted: Mapping[int, Planted],
) -> SideBySide | None:
    """Return what runs the clients' handlers and has their vectors computed; None: each computes its own.

    That is where a test injects randomness, which is drawn in one order; on a GPU, where nobody has tried
    whether the vectors are the same; and where nothing would be shared.  With canaries `planted` this
    process computes: the auditor's notes of what was drawn lie here.
    """
    if entropy is not system or coins is not system or bench.device.type != "cpu":
        return None
    n = 1 if planted else worker_count(settings, plan)
    if n > 1:
        return in_workers(settings, plan, images, n)
    return in_this_process(plan, images, bench, planted) if group_sizes(plan, 1) > (1,) else None


def in_workers(settings: RunSettings, plan: Plan, images: Mapping[int, ImageSet], n: int) -> SideBySide:
    """Let `n` worker processes compute, which start when it is first used."""
    workers = Workers(n, partial(_open, settings, plan, images))
    return SideBySide(
        lambda asked: workers.submit(Batch.of(asked)),
        groups=group_sizes(plan, n),
        ahead=2 * n - 1,  # each worker has one group, and finds the next one when that is done
        hands=n,
        same=Asked.goes_with,
        begin=workers.warm,
        n=n,
    )


def _open(settings: RunSettings, plan: Plan, images: Mapping[int, ImageSet]) -> Workroom:
    """Build a worker's model, and refuse a machine that cannot keep the plan's sensitivity.

    Raises:
        ConfigError: see `Workbench.require_exact_micro_batches`.
    """
    bench = Workbench.make(
        settings,
        image_shape=plan.image_shape,
        n_classes=plan.n_classes,
        device="cpu",
        threads=settings.run.threads or 1,
    )
    bench.require_exact_micro_batches(plan)
    return Workroom(plan=plan, images=images, bench=bench)


def in_this_process(
    plan: Plan, images: Mapping[int, ImageSet], bench: Workbench, planted: Mapping[int, Planted]
) -> SideBySide:
    """Compute here, for a group of clients as soon as all of it have asked; then the next ones begin."""
    room = Workroom(plan=plan, images=images, bench=bench, planted=planted)

    def submit(asked: Sequence[Asked]) -> Future[Sequence[Any]]:
        done: Future[Sequence[Any]] = Future()
        try:
            done.set_result(room(Batch.of(asked)))
        except SecureFedDiffusionError as error:  # the clients' refusal; anything else ends the run
            done.set_exception(error)
        return done

    return SideBySide(submit, groups=group_sizes(plan, 1), ahead=0, same=Asked.goes_with)


def worker_count(settings: RunSettings, plan: Plan) -> int:
    """Return how many processes compute for the clients; 1 is this one."""
    wanted = settings.run.workers
    if wanted == "auto":
        wanted = usable_cores() if _work(plan) > _WORTH else 1
    return min(wanted, plan.federation.clients_per_round)


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


def group_sizes(plan: Plan, n: int) -> tuple[int, ...]:
    """Return how many clients are computed together, group after group: from public figures.

    For one, which does one thing at a time, all that memory and threads bear, in groups of like size.  `n`
    workers share three quarters of the clients, then of the rest, until groups hold few records: little is
    padded, masks of the first are made while others are computed, and whoever has met clients with many
    records takes fewer of the last.
    """
    recipe, federation = plan.recipe, plan.federation
    if not isinstance(recipe, StepSettings):
        return (1,)
    cohort = federation.clients_per_round
    longest = max(release.length for release in plan.releases.values())
    under_way = max(4, 2 * n)  # for one process as for two
    held = min(_HELD, _HELD_BYTES // (_COORDINATE_BYTES * longest))
    most = max(1, held // under_way)
    if n == 1:
        groups = -(-cohort // most)
        return (-(-cohort // groups),)
    expected = federation.declared_records * recipe.sampling_rate / federation.clients
    few = _RECORDS_IN_GROUP / max(1.0, expected)
    sizes: list[int] = []
    while (left := cohort - sum(sizes)) > 0:
        fair = -(-left // n)
        size = min(most, fair if fair <= few else round(0.75 * fair))
        sizes += [min(size, left - i * size) for i in range(n) if left > i * size]
    return tuple(sizes)
