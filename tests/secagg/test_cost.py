"""What a round costs in memory and bytes; what it costs in time is for the benchmark."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from secure_fed_diffusion.secagg import codec

from .rounds import Round

DIMENSION = 1 << 19
VECTOR_BYTES = 4 * DIMENSION
HEADER = codec.HEADER_BYTES


def peak_bytes(action: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def large_round(case: str) -> Round:
    a_round = Round.of(case, dimension=DIMENSION)
    a_round.vectors = dict.fromkeys(a_round.session.cohort, np.zeros(DIMENSION, dtype=np.uint32))
    return a_round.run_to("masked_input")


@pytest.mark.parametrize("case", ["semi_honest", "active", "active_sparse"])
def test_a_client_holds_its_masked_vector_and_its_frame_and_no_third(case: str) -> None:
    a_round = large_round(case)
    assert peak_bytes(lambda: a_round.answer(0)) < 2.3 * VECTOR_BYTES


@pytest.mark.parametrize("case", ["semi_honest", "active"])
def test_the_server_streams_and_never_keeps_an_input(case: str) -> None:
    a_round = large_round(case)
    frames = a_round.answers()
    assert peak_bytes(lambda: a_round.close(frames)) < 0.5 * VECTOR_BYTES
    frames = a_round.answers()
    if case == "active":
        a_round.close(frames)
        frames = a_round.answers()
    assert peak_bytes(lambda: a_round.close(frames)) < 0.5 * VECTOR_BYTES


def test_an_epoch_of_120_rounds_costs_a_client_4_kB_of_keys_and_71_kB_of_shares() -> None:
    """n = 10: 32 (1 + 120) bytes of keys; 9 holders at 4 + 66 * 120 + 16; 120 commitments."""
    a_round = Round.of("semi_honest", n_clients=10, threshold=6, n_rounds=120)
    adverts = a_round.answers()
    assert len(adverts[0]) == HEADER + 32 * 121
    a_round.close(adverts)
    shares = a_round.answers()
    assert len(shares[0]) == HEADER + 32 * 120 + 4 + 9 * (4 + 66 * 120 + 16)


def test_a_later_round_delivers_no_share_again() -> None:
    a_round = Round.of("active", n_rounds=2).finish()
    first = Round.of("active", n_rounds=2).run_to("masked_input").inbox[0]
    again = a_round.begin(1).inbox[0]
    assert len(again) == HEADER + 4 < len(first)


def test_a_verifiable_round_costs_8_bytes_on_the_way_up_and_one_vector_on_the_way_down() -> None:
    plain, checked = Round.of("active"), Round.of("verifiable")
    masked = [a_round.run_to("masked_input").answer(0) for a_round in (plain, checked)]
    assert len(masked[1]) - len(masked[0]) == 8
    checked = Round.of("verifiable").finish()
    assert {len(frame) for frame in checked.inbox.values()} == {HEADER + 16 * 4 + 8}


@pytest.mark.parametrize("modulus_bits", [8, 13, 16, 20, 32, 48, 64])
def test_a_masked_frame_is_its_header_and_the_exact_bits(modulus_bits: int) -> None:
    a_round = Round.of("semi_honest", dimension=1001, modulus_bits=modulus_bits)
    assert len(a_round.run_to("masked_input").answer(0)) == HEADER + -(-1001 * modulus_bits // 8)
