"""The gradients of several simulated clients in shared micro-batches; each client's sum stays its own.

A pass over a micro-batch costs as much before its first record as for a dozen records, and it is padded to
its full size, so a hundred clients with five records each cost ten times what one with five hundred does.
Where one process computes for many clients their records stand in one row, client after client, cut into
micro-batches of the size that each would have used alone.  A record's gradient, its norm and so its rounded
row do not depend on its place or its neighbours (`micro_batch.resolve` has shown it), so each client's vector
is, to the bit, what `Contributor.vector` gives.

Guarantees: those of `contribution`, client by client: its own coins, its own clipped and rounded records, its
own noise.  A client's records reach no other client's vector.

Not protected against: it is a simulation's short cut; whoever computes for several clients sees their data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from secure_fed_diffusion.diffusion.objective import Draws
from secure_fed_diffusion.federation.contribution import Contributor
from secure_fed_diffusion.federation.release import Release
from secure_fed_diffusion.federation.schedule import PHASES
from secure_fed_diffusion.federation.settings import StepSettings
from secure_fed_diffusion.training.integer_sums import integer_sums
from secure_fed_diffusion.training.local import DrawKey
from secure_fed_diffusion.training.per_example import Records, Sample, micro_batches
from secure_fed_diffusion.training.vectors import load_flat


class Joined:
    """Several clients' samples in one row, gathered in parts as they are needed: a `Sample`."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = [sample for sample in samples if len(sample)]
        self._ends = np.cumsum([len(sample) for sample in self._samples], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def at(self, index: Tensor) -> Records:
        """Gather the records at `index`, in that order."""
        places = index.numpy()
        owners = np.searchsorted(self._ends, places, side="right")
        found: list[Records] = []
        for start, end in _runs(owners):
            owner = int(owners[start])
            first = int(self._ends[owner]) - len(self._samples[owner])
            found.append(self._samples[owner].at(index[start:end] - first))
        return Records(
            torch.cat([part.images for part in found]),
            torch.cat([part.labels for part in found]),
            Draws(
                torch.cat([part.draws.timesteps for part in found]),
                torch.cat([part.draws.noise for part in found]),
            ),
        )


def _runs(owners: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield where each run of equal numbers begins and ends."""
    cuts = np.flatnonzero(np.diff(owners)) + 1
    yield from zip([0, *cuts.tolist()], [*cuts.tolist(), len(owners)], strict=True)


def vectors(
    contributors: Sequence[Contributor],
    release: Release,
    weights: npt.NDArray[np.float32],
    *,
    number: int,
    attempt: int,
) -> list[npt.NDArray[np.uint64]]:
    """Return what `Contributor.vector` of each would; all share one scratch model.

    Gradients of one step are computed together, the canaries' rows added to each owner's sum; other releases
    client by client.  Nothing that our own errors are raised for here depends on a record: with one client's
    computation a whole group's is refused.
    """
    first = contributors[0]
    place = {"number": number, "attempt": attempt}
    if (
        release.name not in PHASES
        or not isinstance(first.plan.recipe, StepSettings)
        or len(contributors) == 1
    ):
        return [each.vector(release, weights, **place) for each in contributors]
    size = first.micro_batch(first.plan.recipe)
    load_flat(first.model, torch.from_numpy(weights[: first.plan.dimension]))
    keys: list[DrawKey] = [(each.plan.seed, each.client_id, number, attempt) for each in contributors]
    drawn = [each.drawn(release, weights, key) for each, key in zip(contributors, keys, strict=True)]
    samples = [sample for sample, _ in drawn]
    chunks = micro_batches(first.model, first.objective, Joined(samples), size)
    sums = integer_sums(chunks, [len(sample) for sample in samples], release.grid, first.plan.dimension)
    return [
        each.noised(each.with_canaries(total, canaries, release, micro_batch=size, key=key), release)
        for each, key, (_, canaries), total in zip(contributors, keys, drawn, sums, strict=True)
    ]
