"""Fixed point without bias, headroom proven, packing exact."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_fed_diffusion import secagg
from secure_fed_diffusion.errors import ConfigError, DataError, FrameError
from secure_fed_diffusion.secagg import encoding

from .rounds import fixed_entropy, make_params, make_session

GRID = secagg.FixedPoint(clip=1.0, fraction_bits=16, modulus_bits=32, max_clients=100)


@pytest.mark.parametrize("modulus_bits", range(8, 65))
def test_packing_is_exact_for_every_width(modulus_bits: int) -> None:
    generator = np.random.default_rng(modulus_bits)
    dtype = encoding.ring_dtype(modulus_bits)
    largest = 2**modulus_bits - 1
    for dimension in (1, 2, 7, 8, 9, 64, 101):
        vector = generator.integers(0, largest, dimension, dtype=np.uint64, endpoint=True).astype(dtype)
        vector[-1] = largest
        packed = encoding.pack(vector, modulus_bits)
        assert len(packed) == math.ceil(dimension * modulus_bits / 8)
        assert np.array_equal(encoding.unpack(packed, dimension, modulus_bits), vector)
        number = sum(int(value) << (i * modulus_bits) for i, value in enumerate(vector))
        assert bytes(packed) == number.to_bytes(len(packed), "little")  # the definition of the format


@settings(max_examples=60, deadline=None, derandomize=True)
@given(modulus_bits=st.integers(8, 64), dimension=st.integers(1, 40), data=st.data())
def test_what_unpacks_packs_to_the_same_bytes(modulus_bits: int, dimension: int, data: st.DataObject) -> None:
    n_bytes = (dimension * modulus_bits + 7) // 8
    wire = data.draw(st.binary(min_size=n_bytes, max_size=n_bytes))
    try:
        vector = encoding.unpack(memoryview(wire), dimension, modulus_bits)
    except FrameError:
        return
    assert bytes(encoding.pack(vector, modulus_bits)) == wire


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_sums_of_encoded_vectors_decode_within_a_step_for_each_client(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 10))
    grid = secagg.FixedPoint.finest(clip=2.5, modulus_bits=data.draw(st.integers(8, 52)), max_clients=n)
    values = np.array(
        data.draw(st.lists(st.lists(st.floats(-2.5, 2.5), min_size=4, max_size=4), min_size=n, max_size=n))
    )
    total = np.zeros(4, dtype=encoding.ring_dtype(grid.modulus_bits))
    for row in values:
        total += grid.encode(row).vector
    encoding.reduce_in_place(total, grid.modulus_bits)
    error = np.abs(grid.decode(total) - values.sum(axis=0))
    assert np.all(error <= n * 2.0**-grid.fraction_bits + 1e-9)


def test_the_extremes_of_all_clients_do_not_wrap() -> None:
    for modulus_bits in (8, 13, 32, 64):
        grid = secagg.FixedPoint.finest(clip=1.0, modulus_bits=modulus_bits, max_clients=7, max_weight=3)
        for sign in (1.0, -1.0):
            vector = grid.encode(np.array([sign]), weight=3).vector
            total = (vector.astype(np.uint64) * np.uint64(7)) & np.uint64(2**modulus_bits - 1)
            assert grid.decode(total.astype(vector.dtype)) == sign * 21


def test_finest_leaves_no_room_for_one_bit_more() -> None:
    for modulus_bits in (8, 20, 32, 64):
        grid = secagg.FixedPoint.finest(clip=0.7, modulus_bits=modulus_bits, max_clients=9)
        with pytest.raises(ConfigError, match="no headroom"):
            secagg.FixedPoint(
                clip=0.7, fraction_bits=grid.fraction_bits + 1, modulus_bits=modulus_bits, max_clients=9
            )


def test_a_ring_without_headroom_is_refused_with_the_numbers() -> None:
    with pytest.raises(ConfigError, match=r"max_clients=100 .* needs 25 bits, modulus_bits=24") as caught:
        secagg.FixedPoint(clip=1.0, fraction_bits=17, modulus_bits=24, max_clients=100)
    assert caught.value.key == "modulus_bits"
    secagg.FixedPoint(clip=1.0, fraction_bits=17, modulus_bits=25, max_clients=100)
    with pytest.raises(ConfigError):
        secagg.FixedPoint(clip=1.0, fraction_bits=17, modulus_bits=25, max_clients=100, max_weight=2)
    with pytest.raises(ConfigError):
        secagg.FixedPoint.finest(clip=1000.0, modulus_bits=8, max_clients=2)


def test_headroom_counts_the_exact_boundary() -> None:
    with pytest.raises(ConfigError):  # 128 = 2^7 would decode as -128
        secagg.FixedPoint(clip=128.0, fraction_bits=0, modulus_bits=8, max_clients=1)
    grid = secagg.FixedPoint(clip=127.0, fraction_bits=0, modulus_bits=8, max_clients=1)
    assert grid.decode(grid.encode([127.0, -127.0]).vector).tolist() == [127.0, -127.0]


@pytest.mark.parametrize("value", [1e-5, -1e-5, 0.3, -0.3, 0.999, 2.0**-17])
def test_rounding_has_no_bias(value: float) -> None:
    """The mean of 200,000 roundings is within six standard errors: error probability 2e-9 each.

    A deterministic rounding of 1e-5 on this grid would be off by 0.34 of a step; the bound is 0.007.
    """
    n = 200_000
    decoded = GRID.decode(GRID.encode(np.full(n, value), entropy=fixed_entropy(str(value))).vector)
    step = 2.0**-GRID.fraction_bits
    fraction = abs(value) / step % 1
    standard_error = step * math.sqrt(fraction * (1 - fraction) / n)
    assert abs(decoded.mean() - value) <= 6 * standard_error + 1e-15
    assert set(np.round((decoded - value) / step).tolist()) <= {-1.0, 0.0, 1.0}


def test_the_coin_of_every_value_is_its_own() -> None:
    rounded = GRID.encode(np.full(4096, 0.5 * 2.0**-16), entropy=fixed_entropy()).vector
    assert 1800 < np.count_nonzero(rounded) < 2300  # eight standard deviations
    other = GRID.encode(np.full(4096, 0.5 * 2.0**-16), entropy=fixed_entropy("other")).vector
    assert 1800 < np.count_nonzero(rounded != other) < 2300


def test_values_on_the_grid_are_exact_and_need_no_luck() -> None:
    values = np.arange(-5, 6) / 2.0**16
    for draw in (bytes, lambda n: b"\xff" * n):
        assert np.array_equal(GRID.decode(GRID.encode(values, entropy=draw).vector), values)


def test_tiny_negative_values_do_not_overflow_the_coin() -> None:
    assert GRID.encode([-1e-300, 1e-300], entropy=bytes).vector.tolist() == [0, 0]
    assert GRID.encode([-1e-20], entropy=lambda n: b"\xff" * n).vector.tolist() == [0]


def test_the_number_of_clipped_values_is_told() -> None:
    encoded = GRID.encode([0.5, 1.0, -1.0, 1.0001, -7.0, 1e300])
    assert encoded.n_clipped == 3
    assert GRID.decode(encoded.vector).tolist() == [0.5, 1.0, -1.0, 1.0, -1.0, 1.0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused_by_count(bad: float) -> None:
    with pytest.raises(DataError, match="2 of 4"):
        GRID.encode([0.0, bad, 1.0, bad])


def test_weights_ride_in_the_sum() -> None:
    """A weighted mean without a weight in clear: the weights are one more coordinate."""
    params = make_params(3, 2, dimension=3)
    grid = secagg.FixedPoint(clip=10.0, fraction_bits=10, modulus_bits=32, max_clients=3, max_weight=50)
    values = {0: [1.0, -2.0], 1: [0.5, 4.0], 2: [-3.0, 0.25]}
    weights = {0: 10, 1: 50, 2: 1}
    vectors = {
        v: np.append(grid.encode(values[v], weight=weights[v]).vector, np.uint32(weights[v])) for v in values
    }
    total = secagg.simulate(params, vectors).total
    assert total[-1] == 61
    mean = grid.decode(total[:-1], total_weight=int(total[-1]))
    expected = sum(weights[v] * np.array(values[v]) for v in values) / 61
    assert np.allclose(mean, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("weight", [0, -1, 2])
def test_a_weight_outside_its_bound_is_refused(weight: int) -> None:
    with pytest.raises(ConfigError, match="max_weight=1"):
        GRID.encode([0.0], weight=weight)


@pytest.mark.parametrize("weight", [1.9, 99.999, True, "3", None, np.float64(2.0), np.bool_(True)])
def test_a_weight_that_is_no_integer_is_refused_and_not_cut(weight: Any) -> None:
    grid = secagg.FixedPoint(clip=1.0, fraction_bits=8, modulus_bits=32, max_clients=4, max_weight=100)
    with pytest.raises(ConfigError, match="weight: expected an integer"):
        grid.encode([0.5], weight=weight)


@pytest.mark.parametrize("weight", [np.int64(3), np.uint32(3), np.int8(3)])
def test_a_weight_may_be_numpy_s(weight: Any) -> None:
    grid = secagg.FixedPoint(clip=1.0, fraction_bits=8, modulus_bits=32, max_clients=4, max_weight=100)
    assert grid.encode([0.5], weight=weight).vector.tolist() == [3 * 128]


def test_no_grid_is_fine_enough_for_a_clip_beyond_the_ring() -> None:
    for clip in (1e300, 2.0**64, 2.0**40):
        with pytest.raises(ConfigError, match=r"clip|headroom"):
            secagg.FixedPoint.finest(clip=clip, modulus_bits=32, max_clients=2)


def test_a_grid_for_a_session_has_headroom_for_all_of_it() -> None:
    params = make_params(n_clients=5, modulus_bits=32)
    grid = secagg.FixedPoint.for_params(params, clip=4.0, max_weight=100)
    assert (grid.modulus_bits, grid.max_clients, grid.max_weight) == (32, 5, 100)
    assert grid == secagg.FixedPoint.finest(clip=4.0, modulus_bits=32, max_clients=5, max_weight=100)


def test_a_total_that_was_divided_before_is_not_decoded() -> None:
    total = GRID.encode([-0.5]).vector
    with pytest.raises(ConfigError, match="total: expected integers of the ring, got float64"):
        GRID.decode(total / 4)
    with pytest.raises(ConfigError, match="total_weight >= 1, got 0"):
        GRID.decode(total, total_weight=0)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([0.5 + 2j], "real numbers, got complex128"),
        (["0.5"], "real numbers, got <U3"),
        ([None], "real numbers, got object"),
        (0.5, r"shape \(d,\), got \(\)"),
        ([[0.5]], r"shape \(d,\), got \(1, 1\)"),
        ([[0.5], [0.5, 0.25]], r"shape \(d,\), got no array"),
    ],
)
def test_what_is_no_vector_of_real_numbers_is_not_encoded(values: Any, found: str) -> None:
    with pytest.raises(ConfigError, match=f"values: expected {found}"):
        GRID.encode(values)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8, np.bool_])
def test_real_numbers_of_any_type_are_encoded(dtype: type) -> None:
    assert GRID.decode(GRID.encode(np.array([0, 1], dtype=dtype)).vector).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("total", [[2**40], [-1], [2**32], np.array([2**32], dtype=np.uint64)])
def test_integers_outside_the_ring_are_not_decoded(total: Any) -> None:
    with pytest.raises(ConfigError, match=r"total: expected values in 0\.\.2\^32 - 1"):
        GRID.decode(total)
    assert GRID.decode(np.array([2**32 - 1])).tolist() == [-(2.0**-16)]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("clip", bad) for bad in (0.0, math.nan, math.inf, 1e300)),
        *(("fraction_bits", bad) for bad in (-1, 65, 1.5)),
        *(("modulus_bits", bad) for bad in (7, 65, 32.0)),
        *((key, bad) for key in ("max_clients", "max_weight") for bad in (0, 2.5)),
    ],
)
def test_a_grid_with_a_wrong_setting_names_it(key: str, value: float) -> None:
    settings = {"clip": 1.0, "fraction_bits": 2, "modulus_bits": 32, "max_clients": 5, "max_weight": 1}
    with pytest.raises(ConfigError) as caught:
        secagg.FixedPoint(**(settings | {key: value}))  # type: ignore[arg-type]
    assert caught.value.key == key


def test_vectors_of_any_integer_type_are_taken_when_their_values_fit() -> None:
    params = make_params(3, 2, dimension=2, modulus_bits=20)
    for dtype in (np.uint32, np.int32, np.uint64, np.int64):
        vectors = {v: np.array([v, 2**20 - 1], dtype=dtype) for v in range(3)}
        result = secagg.simulate(params, vectors, session=make_session(params))
        assert result.total.tolist() == [3, 3 * (2**20 - 1) % 2**20]
    with pytest.raises(ConfigError, match="vector"):
        encoding.to_ring(np.array([0, 2**20]), params)
