"""The lengths that the wire table names are those of the frames that travel."""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

import numpy as np
import pytest

from secure_fed_diffusion import secagg
from secure_fed_diffusion.secagg import codec, wire
from secure_fed_diffusion.secagg.choice import depth
from secure_fed_diffusion.secagg.phases import Kind

N, D, BITS = 9, 11, 20
CASES = {
    "semi_honest": {"threshold": 6},
    "semi_honest sparse": {"threshold": 4, "n_neighbours": 6},
    "active": {"threshold": 6, "profile": "active"},
    "active sparse": {"threshold": 4, "n_neighbours": 6, "profile": "active"},
    "verifiable, 3 rounds": {"threshold": 6, "profile": "active", "verifiable": True, "n_rounds": 3},
}
Formula = Callable[[secagg.SecAggParams, int], int]


def sealed(params: secagg.SecAggParams) -> int:
    return 66 * params.n_rounds + 16 + 32 * params.verifiable


def proof(params: secagg.SecAggParams) -> int:
    return 64 * params.signed + 32 * depth(N) * params.client_chosen_graph


def vector(params: secagg.SecAggParams, rows: int) -> int:
    return ceil(D * BITS / 8) + 8 * params.verifiable


# What the table says, as arithmetic; the second argument is how many rows the frame's table has.
FORMULAS: dict[Kind, Formula] = {
    Kind.ADVERT: lambda p, rows: 32 * (1 + p.n_rounds),
    Kind.ADVERT_LIST: lambda p, rows: 4 + rows * (4 + 32 * (1 + p.n_rounds) + proof(p)),
    Kind.SHARES: lambda p, rows: 32 * p.n_rounds + 4 + rows * (4 + sealed(p)),
    Kind.MASKED_INPUT: vector,
    Kind.SURVIVORS: lambda p, rows: ceil(N / 8),
    Kind.CONSISTENCY: lambda p, rows: 32,
    Kind.CONSISTENCY_LIST: lambda p, rows: 4 + 68 * rows,
    Kind.COMMITMENT: lambda p, rows: 32 + 32 * depth(N) + ceil(N / 8),
    Kind.CHOICE: lambda p, rows: 4 + 4 * (p.n_neighbours or 0),
    Kind.RESULT: vector,
}


@pytest.mark.parametrize("case", CASES)
def test_every_frame_has_the_length_that_the_table_names(case: str) -> None:
    params = secagg.SecAggParams(n_clients=N, dimension=D, modulus_bits=BITS, **CASES[case])  # type: ignore[arg-type]
    vectors = {v: np.full(D, v, dtype=np.uint32) for v in range(N)}
    seen = set()
    for entry in secagg.simulate(params, vectors, dropouts={2: "masked_input"}).transcript:
        kind = codec.peek_kind(entry.frame)
        seen.add(kind)
        payload = entry.frame[codec.HEADER_BYTES :]
        if params.signed and entry.receiver == "server":
            payload = payload[:-64]
        start = 32 * params.n_rounds if kind is Kind.SHARES else 0
        rows = int.from_bytes(payload[start : start + 4], "little")
        if kind in FORMULAS:
            assert len(payload) == FORMULAS[kind](params, rows), kind.name
        elif kind is Kind.SHARE_DELIVERY:
            masks_only = 0
            if params.client_chosen_graph:
                at = 4 + rows * (4 + sealed(params))
                masks_only = 4 + 4 * int.from_bytes(payload[at : at + 4], "little")
            assert len(payload) == 4 + rows * (4 + sealed(params)) + masks_only
        else:
            assert kind is Kind.UNMASK_SHARES
            second = 4 + 37 * rows
            dropped = int.from_bytes(payload[second : second + 4], "little")
            assert len(payload) == 8 + 37 * (rows + dropped)
    expected = {kind for step in params.steps for kind in (step.receives, step.sends) if kind is not None}
    assert seen == expected


def test_the_table_has_every_kind_once() -> None:
    assert list(wire.MESSAGES) == list(Kind)
    assert [row.split(" | ")[1] for row in wire.table().splitlines()[2:]] == [kind.name for kind in Kind]
