"""Sums of many rounds as a server of the real protocol decodes them: grid, noise shares, masks, modular sum.

Vectors are clipped and rounded by `dp.IntegerGrid`, noised by `dp.noise` and summed by `secagg.Client` and
`secagg.Server` over one set-up.  What is left out is training: the vectors are given.

>>> rounds = [(0, 1, 2), (0, 1)]
>>> sums([{v: np.ones(4) / 2 for v in log} for log in rounds], n_clients=3).round(2).tolist()
[[1.5, 1.5, 1.5, 1.5], [1.0, 1.0, 1.0, 1.0]]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion import entropy
from secure_fed_diffusion.dp.grid import IntegerGrid
from secure_fed_diffusion.dp.noise import discrete_gaussian
from secure_fed_diffusion.secagg.encoding import centred

from .secagg_round import Round, make_params, make_session

Floats = npt.NDArray[np.float64]
CLIP_NORM = 1.0
MODULUS_BITS = 32

NoiseSource = Callable[[int, int], entropy.Entropy]
"""`source(round, client)` is the generator that a client's share of a round comes from."""


def from_the_system(number: int, client_id: int) -> entropy.Entropy:
    """Draw every share from the operating system, as the package does."""
    return entropy.system


def predictable(seed: int) -> NoiseSource:
    """Return generators that whoever knows `seed` can run again."""

    def source(number: int, client_id: int) -> entropy.Entropy:
        return entropy.Keystream(sha256(f"{seed} {number} {client_id}".encode()).digest()).read

    return source


def unit_vectors(n: int, dimension: int, seed: int) -> Floats:
    """Return `n` random directions of length `CLIP_NORM`, shape (n, dimension)."""
    drawn = np.random.default_rng(seed).normal(size=(n, dimension))
    unit: Floats = CLIP_NORM * drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return unit


def noise_share(
    dimension: int, *, noise_multiplier: float, n_shares: int, source: entropy.Entropy
) -> npt.NDArray[np.int64]:
    """Return one client's share of the noise, in grid units, where `n_shares` make up the whole."""
    if noise_multiplier == 0:
        return np.zeros(dimension, dtype=np.int64)
    norm_bound = IntegerGrid.for_dimension(dimension, CLIP_NORM).norm_bound
    return discrete_gaussian(noise_multiplier * norm_bound / math.sqrt(n_shares), dimension, source)


def sums(
    rounds: Sequence[Mapping[int, Floats]],
    *,
    n_clients: int,
    noise_multiplier: float = 0.0,
    source: NoiseSource = from_the_system,
) -> Floats:
    """Return the decoded sum of each round, shape (rounds, dimension).

    `rounds` maps who takes part to its vector; a client that is not in round 0 vanishes before it sends
    its masked vector, as one that dropped out does.
    """
    dimension = len(next(iter(rounds[0].values())))
    grid = IntegerGrid.for_dimension(dimension, CLIP_NORM)
    params = make_params(
        n_clients, n_clients // 2 + 1, dimension=dimension, modulus_bits=MODULUS_BITS, n_rounds=len(rounds)
    )
    a_round = Round(make_session(params))
    decoded = []
    for number, vectors in enumerate(rounds):
        if number:
            a_round.begin(number, participants=sorted(vectors))
        for v, vector in vectors.items():
            share = noise_share(
                dimension, noise_multiplier=noise_multiplier, n_shares=len(vectors), source=source(number, v)
            )
            integers = grid.round(vector[None])[0] + share
            a_round.vectors[v] = integers.astype(np.uint64) & np.uint64(2**MODULUS_BITS - 1)
        absent = set(range(n_clients)) - set(vectors) if number == 0 else set()
        a_round.finish(dropouts=dict.fromkeys(absent, "masked_input"))
        decoded.append(grid.to_float(centred(a_round.server.total, MODULUS_BITS)))
    return np.array(decoded)


def cosine(a: Floats, b: Floats) -> float:
    """Return the cosine of two vectors; 0 where one has no length."""
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths else 0.0
