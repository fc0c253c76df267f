"""Class prototypes of all clients through one secure sum: exact, or with noise in shares.

A client's vector is, for each class, the sum of its embeddings and its count.  `exact` masks it in fixed
point.  `private` clips each record's row, rounds it to the integer grid, and each client adds its share of
discrete Gaussian noise before the mask; from the noisy sum everything is post-processing.

Formal guarantee of `private`: sensitivity `grid.norm_bound` (integer L2), unit one example, relation
add/remove, view the server with `colluders` clients, accountant PLD; for ONE release of prototypes, of a
network that is given.  NOT covered: how that network was trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion import secagg
from secure_fed_diffusion.dp.calibration import calibrate
from secure_fed_diffusion.dp.grid import IntegerGrid
from secure_fed_diffusion.dp.mechanism import INNER_STDDEV, Mechanism, View
from secure_fed_diffusion.dp.noise import discrete_gaussian
from secure_fed_diffusion.secagg.encoding import RingVector, centred

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

COUNT_SHARE = 0.25  # of the clip norm: the weight of a record's count beside its embedding
RING_BITS = 48
FIXED_RANGE = 1 << 20  # largest sum of one embedding coordinate over one client's records


@dataclass(frozen=True, slots=True)
class Aggregated:
    """Prototypes (n_classes, d), NaN rows for classes that nobody holds, and the bytes that moved."""

    prototypes: Floats
    bytes_up: int  # a client
    bytes_down: int


def exact(features: Sequence[Floats], labels: Sequence[Labels], n_classes: int) -> Aggregated:
    """Sum embeddings and counts of all clients under masks, without noise."""
    vectors = [_sums(rows, held, n_classes) for rows, held in zip(features, labels, strict=True)]
    grid = secagg.FixedPoint.finest(
        clip=float(FIXED_RANGE), modulus_bits=RING_BITS, max_clients=len(vectors), max_weight=1
    )
    encoded = {client: grid.encode(vector).vector for client, vector in enumerate(vectors)}
    total, up, down = _secure_sum(encoded)
    sums, counts = _split(grid.decode(total), n_classes)
    prototypes = np.full(sums.shape, np.nan)
    held = counts > 0.5
    prototypes[held] = sums[held] / counts[held, None]
    return Aggregated(prototypes, up, down)


def private(
    features: Sequence[Floats],
    labels: Sequence[Labels],
    n_classes: int,
    *,
    clip_norm: float,
    epsilon: float,
    delta: float,
    colluders: int,
) -> Aggregated:
    """Release the prototypes once, under (epsilon, delta); `clip_norm` is public."""
    length = n_classes * (features[0].shape[1] + 1)
    grid = IntegerGrid.for_dimension(length, clip_norm)
    share = share_stddev(grid.norm_bound, len(features), colluders, length, epsilon, delta)
    vectors = {
        client: _rounded_sum(rows, held, n_classes, grid) + discrete_gaussian(share, length)
        for client, (rows, held) in enumerate(zip(features, labels, strict=True))
    }
    ring = np.uint64((1 << RING_BITS) - 1)
    total, up, down = _secure_sum({client: v.view(np.uint64) & ring for client, v in vectors.items()})
    sums, counts = _split(grid.to_float(centred(total, RING_BITS)), n_classes)
    counts = counts / (COUNT_SHARE * clip_norm)
    # A class with less than one record by its noisy count has no mean of its own.
    return Aggregated(
        np.where(counts[:, None] >= 1.0, sums / np.maximum(counts, 1.0)[:, None], np.nan), up, down
    )


@lru_cache
def share_stddev(
    norm_bound: int, n_clients: int, colluders: int, length: int, epsilon: float, delta: float
) -> float:
    """Return each client's noise, so that the honest ones' alone suffices for one release."""

    def mechanism(multiplier: float) -> Mechanism:
        whole = math.sqrt((multiplier * norm_bound) ** 2 + INNER_STDDEV**2)
        return Mechanism(
            kind="shares",
            unit="example",
            relation="add_remove",
            sampling_rate=1.0,
            sensitivity=float(norm_bound),
            share_stddev=whole / math.sqrt(n_clients - colluders),
            server_stddev=0.0,
            min_survivors=n_clients,
            integer=True,
            dimension=length,
        )

    view = View(name="sum", colluders=colluders)
    multiplier = calibrate(
        lambda scale: {mechanism(scale): 1}, target_epsilon=epsilon, delta=delta, view=view
    )
    return mechanism(multiplier).share_stddev


def _rows(features: Floats, labels: Labels, n_classes: int, count: float) -> Floats:
    """Return one row a record: its embedding in its class's place, and `count` in its class's counter."""
    n, d = features.shape
    sums, counts = np.zeros((n, n_classes, d)), np.zeros((n, n_classes))
    sums[np.arange(n), labels] = features
    counts[np.arange(n), labels] = count
    return np.concatenate([sums.reshape(n, -1), counts], axis=1)


def _sums(features: Floats, labels: Labels, n_classes: int) -> Floats:
    return _rows(features, labels, n_classes, 1.0).sum(axis=0)


def _rounded_sum(
    features: Floats, labels: Labels, n_classes: int, grid: IntegerGrid
) -> npt.NDArray[np.int64]:
    return grid.round(_rows(features, labels, n_classes, COUNT_SHARE * grid.clip_norm)).sum(axis=0)


def _split(total: Floats, n_classes: int) -> tuple[Floats, Floats]:
    return total[:-n_classes].reshape(n_classes, -1), total[-n_classes:]


def _secure_sum(vectors: dict[int, RingVector]) -> tuple[RingVector, int, int]:
    """Return the sum, and what the median client sent and was sent."""
    n = len(vectors)
    params = secagg.SecAggParams(
        n_clients=n, threshold=n // 2 + 2, dimension=len(vectors[0]), modulus_bits=RING_BITS
    )
    result = secagg.simulate(params, vectors)
    up, down = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    for entry in result.transcript:
        if entry.sender == "server":
            down[int(entry.receiver)] += len(entry.frame)
        else:
            up[int(entry.sender)] += len(entry.frame)
    return result.total, int(np.median(up)), int(np.median(down))
