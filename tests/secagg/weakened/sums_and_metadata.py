"""What sums and frames say by themselves (T5, T6, T17; weakness 6).

T5 and T6 are against the SUM, which secure aggregation gives away exactly: here the policy's minimum
stops the smallest cohorts, and noise has to do the rest.  The boundary is shown by running the same
attack on the same protocol with and without each client's noise share.
"""

from __future__ import annotations

import struct

import numpy as np
import pytest

from secure_fed_diffusion import secagg
from secure_fed_diffusion.secagg import encoding
from secure_fed_diffusion.secagg.simulate import answer

from ..rounds import Round, make_params, make_session

Patch = pytest.MonkeyPatch

NOISE_STDDEV = 2_000.0
"""Of one client's share, in grid units; the vectors have a standard deviation of 1,000."""

_DIMENSION = 256


def without_noise(patch: Patch) -> None:
    """Secure aggregation alone."""
    patch.setattr(f"{__name__}.NOISE_STDDEV", 0.0)


def _noised(vector: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    noisy = vector + np.rint(generator.normal(0.0, NOISE_STDDEV, vector.shape)).astype(np.int64)
    return noisy.astype(np.uint64) & np.uint64(2**32 - 1)


def _sums_over(logs: list[tuple[int, ...]], vectors: np.ndarray, seed: int) -> np.ndarray:
    """The totals of real rounds of one set-up in which these clients take part, centred."""
    n, generator, totals = len(vectors), np.random.default_rng(seed), []
    params = make_params(n, n // 2 + 1, dimension=_DIMENSION, n_rounds=len(logs))
    a_round = Round(make_session(params))
    for number, participants in enumerate(logs):
        if number:
            a_round.begin(number, participants=participants)
        a_round.vectors = {v: _noised(vectors[v], generator) for v in range(n)}
        absent = set(range(n)) - set(participants) if number == 0 else ()
        a_round.finish(dropouts=dict.fromkeys(absent, "masked_input"))
        totals.append(encoding.centred(a_round.server.total, 32))
    return np.array(totals)


def _updates(n: int) -> np.ndarray:
    return np.rint(np.random.default_rng(5).normal(0, 1000, (n, _DIMENSION))).astype(np.int64)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


# T5: cohorts that differ by one.


def cohorts_that_differ_by_one() -> bool:
    """Two sums with and without client 4, whose vector has not changed: is the difference its vector?

    With noise the difference carries nine shares: a standard deviation of 6,000 in each of 256
    coordinates, so no quarter of them comes out within 1,000 by chance (expected 13 %, six standard
    deviations of 2.1 % above that is 26 %).
    """
    vectors = _updates(5)
    both = _sums_over([(0, 1, 2, 3, 4), (0, 1, 2, 3)], vectors, seed=1)
    residual = both[0] - both[1] - vectors[4]
    return bool(np.mean(np.abs(residual) < 1000) > 0.26)


def without_a_minimum_of_survivors(patch: Patch) -> None:
    patch.setattr(secagg.Policy, "check_survivors", lambda policy, n_survivors: None)


def a_sum_of_the_victim_and_an_accomplice() -> bool:
    """The server calls all but two dropped, one of the two being its own."""
    a_round = Round(make_session(make_params(3, 2)), policy=secagg.Policy())
    a_round.finish(dropouts={2: "masked_input"})
    return bool(np.array_equal(a_round.server.total, (a_round.vectors[0] + a_round.vectors[1]) % 2**32))


# T6: who took part in which round.


def disaggregation_from_participation_logs() -> bool:
    """Least squares over 12 rounds of 6 clients whose updates do not drift (arXiv 2106.06089).

    Success is a cosine above 0.9 with every client's vector.  With noise the sum of each round
    carries at least four shares; the residual after least squares keeps the cosine near 0.5.
    """
    n, generator = 6, np.random.default_rng(3)
    logs = [
        tuple(sorted(generator.choice(n, size=4 + int(i % 2), replace=False).tolist())) for i in range(12)
    ]
    took_part = np.array([[v in log for v in range(n)] for log in logs], dtype=float)
    assert np.linalg.matrix_rank(took_part) == n
    vectors = _updates(n)
    found = np.linalg.lstsq(took_part, _sums_over(logs, vectors, seed=2).astype(float), rcond=None)[0]
    return min(cosine(found[v], vectors[v].astype(float)) for v in range(n)) > 0.9


# T17, weakness 6: counts and losses beside the masked vector.

N_EXAMPLES, LOSS = 60_317, 0.4375


def counts_and_losses_in_the_transcript() -> bool:
    """Look for the count and the loss, in any usual encoding, in all frames that the victim sends.

    They are masked coordinates (the last two); a false hit has probability 2^-20 in all.
    """
    a_round = Round.of("semi_honest", dimension=18)
    grid = secagg.FixedPoint(clip=1.0, fraction_bits=10, modulus_bits=32, max_clients=5)
    updates = grid.encode(np.linspace(-1, 1, 16)).vector
    loss = round(LOSS * 2**10)
    vector = np.concatenate([updates, np.array([N_EXAMPLES, loss], dtype=np.uint32)])
    sent = b""
    for step in a_round.session.params.steps:
        frame = answer(a_round.clients[0], step.phase, a_round.inbox[0], vector)
        sent += frame
        if step.phase == "masked_input":
            break  # what comes later does not depend on the vector
        others = {v: a_round.answer(v) for v in range(1, 5)}
        a_round.close({0: frame, **others})
    patterns = [
        struct.pack("<I", N_EXAMPLES),
        struct.pack(">I", N_EXAMPLES),
        struct.pack("<d", LOSS),
        struct.pack("<f", LOSS),
        str(N_EXAMPLES).encode(),
    ]
    return any(pattern in sent for pattern in patterns)


def lengths_that_depend_on_the_data() -> bool:
    """A client with few examples has a sparse update: is its frame shorter?"""
    lengths = set()
    for n_zeros in (0, 8, 16):
        a_round = Round.of("semi_honest").run_to("masked_input")
        a_round.vectors[0][:n_zeros] = 0
        lengths.add(len(a_round.answer(0)))
    return len(lengths) > 1
