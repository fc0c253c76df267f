"""What a poisoner sends, the round that takes it in, and a cut that a server could make if it saw vectors.

The cut is measured by the claims and is no part of the package: under masks no server can make it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion.federation.messages import decode_plain, encode_plain
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.release import Release
from threat_models.staging.small_federation import Integers, SmallFederation

FACTOR = 1000
_SLACK = 1.5  # a Poisson sample that much above its mean is as rare as the ring assumes
_SHARE_OF_RING = 0.25  # of the ring, on the largest coordinate: the others' sum still fits beside it

Cut = Callable[[Integers], Integers]
CutRule = Literal["worst_case", "median"]
"""A cut to the norm that an honest client cannot exceed, or to the median of the norms of the round."""


def poisoned(honest: Integers, modulus_bits: int) -> Integers:
    """Return -1000 times `honest`, or as much of it as does not wrap."""
    return scaled(honest, -float(FACTOR), modulus_bits)


def scaled(honest: Integers, factor: float, modulus_bits: int) -> Integers:
    """Return `factor` times `honest`, scaled down so far that no coordinate of the sum wraps."""
    wide = np.asarray(honest).astype(np.int64)
    largest = int(np.abs(wide).max(initial=0))
    if not largest:
        return wide
    most = _SHARE_OF_RING * 2.0**modulus_bits / largest
    return np.rint(np.clip(factor, -most, most) * wide).astype(np.int64)


def clipped_to(bound: float) -> Cut:
    """Return the cut of a vector to an L2 norm of `bound`."""

    def cut(vector: Integers) -> Integers:
        norm = float(np.linalg.norm(vector.astype(np.float64)))
        return vector if norm <= bound else np.trunc(vector * (bound / norm)).astype(np.int64)

    return cut


@dataclass(frozen=True, slots=True)
class Liar:
    """A contributor that sends what it likes: `lie` of what it would have sent honestly."""

    client_id: int
    plan: Plan
    lie: Callable[[Integers, Release], Integers]
    honestly: Callable[..., npt.NDArray[np.uint64]]

    def vector(
        self, release: Release, weights: npt.NDArray[np.float32], *, number: int, attempt: int
    ) -> npt.NDArray[np.uint64]:
        """Return the lie, modulo 2**64."""
        honest = self.honestly(release, weights, number=number, attempt=attempt)
        return self.lie(honest.view(np.int64), release).view(np.uint64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """A round that can be run with a poisoner in it; `honest` is its sum without poison and without noise."""

    federation: SmallFederation
    number: int
    poisoner: int
    honest: Integers
    cut: CutRule | None = None

    def cosine_with_honest(self, sent: Integers) -> float:
        """Return the cosine of the sum with `sent` in it and the honest one."""
        client = self.federation.clients[self.poisoner]
        plan = self.federation.plan
        client._contributor = Liar(self.poisoner, plan, lambda honest, release: sent, _nothing)
        total = run_with_cut(self.federation, self.number, self.cut)
        a, b = (part[: plan.dimension].astype(np.float64) for part in (total, self.honest))
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def _nothing(
    release: Release, weights: npt.NDArray[np.float32], *, number: int, attempt: int
) -> npt.NDArray[np.uint64]:
    return np.zeros(0, dtype=np.uint64)


def run_with_cut(federation: SmallFederation, number: int, cut: CutRule | None) -> Integers:
    """Run a round; where the server sees each contribution, a cut is made on each before they are added."""
    if cut is None:
        return federation.run_round(number)
    release = federation.release_of(number)
    ring = np.uint64((1 << release.modulus_bits) - 1)
    vectors = {}
    for client_id, frame in federation.server.open(number, 0).items():
        answer = federation.clients[client_id].handle(frame)
        vectors[client_id] = federation.in_ring(decode_plain(answer, release.length, client_id), number)
    if cut == "median":
        norms = [float(np.linalg.norm(vector.astype(np.float64))) for vector in vectors.values()]
        bound = float(np.median(norms))
    else:
        bound = _SLACK * release.divisor / len(vectors) * release.grid.norm_bound
    cut_to_bound = clipped_to(bound)
    federation.server.take(
        {c: encode_plain(cut_to_bound(vector).view(np.uint64) & ring) for c, vector in vectors.items()}
    )
    return federation.server.total()
