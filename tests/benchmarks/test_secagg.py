"""The benchmark of secure aggregation: what it reports, and that its rounds are real ones."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from secure_fed_diffusion import secagg
from secure_fed_diffusion.benchmarks import secagg as benchmark
from secure_fed_diffusion.benchmarks import secagg_flower, secagg_round
from secure_fed_diffusion.errors import ConfigError, SecureAggregationError

PEERS = ("masking", "client_step", "shamir_split", "shamir_combine", "round_server")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in [
        ("N_VALUES", 1000),
        ("N_PEERS", 3),
        ("SHAMIR_HOLDERS", 6),
        ("SHAMIR_THRESHOLD", 3),
        ("ROUND_CLIENTS", 5),
        ("ROUND_DROPOUTS", 1),
        ("ROUND_DIMENSION", 50),
        ("WIRE_CLIENTS", 40),
        ("WIRE_DIMENSION", 4096),
    ]:
        monkeypatch.setattr(benchmark, name, value)


@pytest.mark.usefixtures("small")
def test_without_the_peer_every_ratio_is_a_number_or_the_reason_why_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name == "flwr" or name.startswith("flwr.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "flwr", None)
    found = benchmark.run()
    assert found["repetitions"] == 5
    missing = {name for name, value in found["ratios"].items() if value == benchmark.NOT_MEASURED}
    assert missing == {f"flower_over_ours_{part}" for part in PEERS}
    assert all(value > 0 for name, value in found["ratios"].items() if name not in missing)
    assert all(value > 0 for value in found["seconds"].values())


@pytest.mark.usefixtures("small")
def test_the_bytes_of_a_large_frame_are_those_of_a_real_one() -> None:
    wire = benchmark.wire_bytes()
    k, threshold = benchmark._wire_graph()
    params = secagg.SecAggParams(
        n_clients=40, threshold=threshold, dimension=4096, modulus_bits=16 + 6, n_neighbours=k
    )
    cost = secagg_round.measure(params)
    assert wire["plain_vector"] == 2 * 4096
    assert wire["masked_frame"] == cost.masked_frame_bytes
    assert wire["client_up"] == cost.bytes_up
    assert wire["client_down"] == cost.bytes_down


@pytest.mark.slow
def test_a_client_of_a_large_sparse_round_sends_and_receives_less_than_the_published_expansion() -> None:
    """2^10 clients, 2^20 values of 16 bits; Bonawitz et al. report 1.73."""
    wire = benchmark.wire_bytes()
    assert (wire["client_up"] + wire["client_down"]) / wire["plain_vector"] < 1.66


def test_a_measured_round_drops_whom_it_is_told_and_checks_its_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    params = secagg.SecAggParams(n_clients=6, threshold=4, dimension=5, modulus_bits=20)
    cost = secagg_round.measure(params, dropouts=frozenset({0, 5}))
    assert cost.n_survivors == 4
    assert set(cost.client_seconds) == set(cost.server_seconds)
    monkeypatch.setattr(secagg.Server, "total", property(lambda self: np.zeros(5, dtype="<u4")))
    with pytest.raises(SecureAggregationError, match="not that of its survivors"):
        secagg_round.measure(params)


def test_vectors_depend_on_the_client_and_fill_the_ring() -> None:
    params = secagg.SecAggParams(n_clients=3, threshold=2, dimension=4096, modulus_bits=13)
    first, second = (secagg_round.vector_of(v, params) for v in (0, 1))
    assert not np.array_equal(first, second)
    assert first.max() < 1 << 13
    assert np.bitwise_or.reduce(first) == (1 << 13) - 1


@pytest.mark.skipif(not secagg_flower.available(), reason="flwr is not installed")
def test_the_peers_server_really_aggregates_and_does_so_again_from_memory() -> None:
    run = secagg_flower.server_round(4, 3, (0,), 20)
    for _ in range(2):
        np.testing.assert_allclose(run(), (1 + 2 + 3) / 4 / 3, atol=1e-5)


@pytest.mark.skipif(not secagg_flower.available(), reason="flwr is not installed")
def test_the_peers_client_makes_a_masked_vector_of_the_right_length() -> None:
    from flwr.common import bytes_to_ndarray

    factor, vector = secagg_flower.client_step(100, 3)()
    assert bytes_to_ndarray(factor).shape == (1,)
    masked = bytes_to_ndarray(vector)
    assert masked.shape == (100,)
    assert 0 <= masked.min() < masked.max() < 1 << 32


def test_fewer_than_five_repetitions_are_refused() -> None:
    with pytest.raises(ConfigError, match="repetitions >= 5"):
        benchmark.run(repetitions=4)
