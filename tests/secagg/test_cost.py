"""What a round costs in memory and bytes, and the benchmark that measures its time."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from secure_fed_diffusion.benchmarks import secagg as benchmark
from secure_fed_diffusion.errors import ConfigError

from .rounds import Round, make_params, make_session

DIMENSION = 1 << 19
VECTOR_BYTES = 4 * DIMENSION


def peak_bytes(action: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_client_holds_its_masked_vector_and_its_frame_and_no_third() -> None:
    a_round = Round(make_session(make_params(5, 4, dimension=DIMENSION)))
    a_round.vectors = dict.fromkeys(range(5), np.zeros(DIMENSION, dtype=np.uint32))
    a_round.run_to("masked_input")
    assert peak_bytes(lambda: a_round.answer(0)) < 2.3 * VECTOR_BYTES


def test_the_server_streams_and_never_keeps_an_input() -> None:
    a_round = Round(make_session(make_params(5, 4, dimension=DIMENSION)))
    a_round.vectors = dict.fromkeys(range(5), np.zeros(DIMENSION, dtype=np.uint32))
    frames = a_round.run_to("masked_input").answers()
    for v, frame in frames.items():
        assert peak_bytes(lambda v=v, frame=frame: a_round.server.receive(v, frame)) < 0.1 * VECTOR_BYTES  # type: ignore[misc]


@pytest.mark.parametrize("modulus_bits", [8, 13, 16, 20, 32, 48, 64])
def test_a_masked_frame_is_its_header_and_the_exact_bits(modulus_bits: int) -> None:
    a_round = Round(make_session(make_params(3, 2, dimension=1001, modulus_bits=modulus_bits)))
    frame = a_round.run_to("masked_input").answer(0)
    assert len(frame) == 50 + -(-1001 * modulus_bits // 8)


def test_the_bytes_of_a_sparse_round_stay_under_the_published_expansion() -> None:
    """2^10 clients, 2^20 values of 16 bits, k = 30: at most 1.66 times the plain vector, by the formats."""
    k, n, plain = 30, 1 << 10, 2 << 20
    ring = make_params(n, 17, dimension=1 << 20, modulus_bits=16 + 10, n_neighbours=k)  # n = 2^10 summands
    sent = (50 + 64) + (50 + 36 + 86 * k) + (50 + ring.frame_vector_bytes) + (50 + 8 + 37 * (k + 1))
    received = (50 + 4 + 68 * k) + (50 + 4 + 86 * k) + (50 + n // 8)
    assert (sent + received) / plain < 1.66


def test_the_benchmark_reports_every_ratio_or_why_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name == "flwr" or name.startswith("flwr.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "flwr", None)
    for name, value in [
        ("N_VALUES", 1000),
        ("N_PEERS", 3),
        ("ROUND_CLIENTS", 8),
        ("ROUND_DROPOUTS", 2),
        ("ROUND_DIMENSION", 50),
    ]:
        monkeypatch.setattr(benchmark, name, value)
    found = benchmark.run()
    assert found["repetitions"] == 5
    assert found["bytes"]["masked_frame"] == 250
    ratios = found["ratios"]
    assert ratios["masking_over_cipher_ceiling"] > 0
    missing = [name for name, value in ratios.items() if value == "not measured: flwr is not installed"]
    assert missing == [f"flower_over_ours_{part}" for part in ("masking", "shamir_split", "shamir_combine")]
    assert all(value > 0 for name, value in found["seconds"].items() if not name.startswith("flower"))


def test_the_benchmark_refuses_fewer_than_five_repetitions() -> None:
    with pytest.raises(ConfigError, match="repetitions >= 5"):
        benchmark.run(repetitions=4)
