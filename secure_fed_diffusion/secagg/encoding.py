"""Vectors of the ring: floats to fixed point and back, and exact-bit packing for the wire.

`FixedPoint` rounds to a grid of step 2^-fraction_bits, without bias, with coins from the operating
system.  The sum cannot wrap, whatever the clients hold: n_max · w_max · q < 2^(b-1) is proven when
the object is made, q being the largest magnitude of an encoded value.

Not protected against: `FixedPoint` gives no differential privacy; the modes that need it round as
`dp` says.  A client that does not clip is not caught by the ring.

>>> grid = FixedPoint(clip=1.0, fraction_bits=16, modulus_bits=32, max_clients=100)
>>> grid.decode(grid.encode(np.array([0.5, -0.25])).vector).tolist()
[0.5, -0.25]
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..entropy import Entropy, system
from ..errors import ConfigError, DataError, FrameError
from .params import MAX_CLIENTS, MAX_MODULUS_BITS, MIN_MODULUS_BITS, SecAggParams, require_integer

RingVector = npt.NDArray[np.unsignedinteger[Any]]
_LANES = 8  # eight values of b bits are b whole bytes
_GROUPS_AT_ONCE = 1 << 14  # what is unpacked at once stays in the cache, and a vector is never held twice


def ring_dtype(modulus_bits: int) -> np.dtype[np.unsignedinteger[Any]]:
    """Return the narrowest little-endian unsigned type that holds the ring; it wraps as the ring does."""
    return np.dtype(f"<u{next(size for size in (1, 2, 4, 8) if modulus_bits <= 8 * size)}")


def reduce_in_place(vector: RingVector, modulus_bits: int) -> None:
    """Reduce modulo 2^modulus_bits."""
    if modulus_bits < 8 * vector.dtype.itemsize:
        vector &= vector.dtype.type((1 << modulus_bits) - 1)


def centred(vector: RingVector, modulus_bits: int) -> npt.NDArray[np.int64]:
    """Return the integers nearest zero that are the vector's residues modulo 2^modulus_bits."""
    shift = 64 - modulus_bits
    lifted: npt.NDArray[np.int64] = (vector.astype(np.uint64) << np.uint64(shift)).view(np.int64)
    return lifted >> np.int64(shift)


def to_ring(values: npt.ArrayLike, params: SecAggParams) -> RingVector:
    """Return a copy of integers in [0, 2^modulus_bits), shape (dimension,), in the ring's type.

    Raises:
        ConfigError: another shape, another kind of number, a value outside the ring, or one that is too large
            for a verifiable sum.
    """
    array = _as_array(values, key="vector")
    if array.shape != (params.dimension,):
        raise ConfigError(f"expected shape ({params.dimension},), got {array.shape}", key="vector")
    if array.dtype.kind not in "ui":
        raise ConfigError(f"expected integers of the ring, got {array.dtype}", key="vector")
    dtype = ring_dtype(params.modulus_bits)
    if array.dtype != dtype or params.modulus_bits < 8 * dtype.itemsize:
        _require_ring(array, params.modulus_bits, key="vector")
    ring: RingVector = array.astype(dtype)
    if params.verifiable:
        integers = centred(ring, params.modulus_bits)
        if max(int(integers.max()), -int(integers.min())) > params.max_centred:
            bound = params.max_centred
            raise ConfigError(f"expected centred values of at most {bound} in a verifiable sum", key="vector")
    return ring


def _as_array(values: npt.ArrayLike, *, key: str) -> npt.NDArray[Any]:
    """Return the values as an array, if they are one.

    Raises:
        ConfigError: rows of different lengths.
    """
    try:
        return np.asarray(values)
    except ValueError:
        raise ConfigError("expected shape (d,), got no array", key=key) from None


def _require_ring(array: npt.NDArray[Any], modulus_bits: int, *, key: str) -> None:
    """Refuse integers outside [0, 2^modulus_bits)."""
    too_small = array.dtype.kind == "i" and int(array.min(initial=0)) < 0
    if too_small or int(array.max(initial=0)) >> modulus_bits:
        raise ConfigError(f"expected values in 0..2^{modulus_bits} - 1", key=key)


def pack(vector: RingVector, modulus_bits: int) -> memoryview:
    """Pack a ring vector into ceil(d · b / 8) bytes, least significant bit first; may be a view."""
    vector = np.ascontiguousarray(vector)
    if modulus_bits == 8 * vector.dtype.itemsize:
        return vector.view(np.uint8).data
    packed = np.empty((-(-len(vector) // _LANES), modulus_bits), dtype=np.uint8)
    for start in range(0, len(packed), _GROUPS_AT_ONCE):
        groups = packed[start : start + _GROUPS_AT_ONCE]
        _pack_groups(vector[_LANES * start : _LANES * (start + len(groups))], groups)
    return packed.reshape(-1)[: (len(vector) * modulus_bits + 7) // 8].data


def _pack_groups(vector: RingVector, packed: npt.NDArray[np.uint8]) -> None:
    """Fill `packed`, shape (groups, modulus_bits), with eight values a row; missing ones are zero."""
    n_groups, modulus_bits = packed.shape
    lanes = np.zeros((_LANES, n_groups), dtype=vector.dtype)
    for lane in range(_LANES):
        column = vector[lane::_LANES]
        lanes[lane, : len(column)] = column
    for byte in range(modulus_bits):
        lane, shift = divmod(8 * byte, modulus_bits)
        bits = lanes[lane] >> vector.dtype.type(shift)
        if shift + 8 > modulus_bits:  # the byte ends in the next value
            bits = bits | (lanes[lane + 1] << vector.dtype.type(modulus_bits - shift))
        packed[:, byte] = bits.astype(np.uint8)


def unpack(data: memoryview, dimension: int, modulus_bits: int) -> RingVector:
    """Undo `pack`; read-only and a view of `data` where the width is that of the type.

    Raises:
        FrameError: another length, or padding that is not zero.
    """
    expected = (dimension * modulus_bits + 7) // 8
    if len(data) != expected:
        raise FrameError(f"expected a vector of {expected} bytes, got {len(data)}")
    dtype = ring_dtype(modulus_bits)
    if modulus_bits == 8 * dtype.itemsize:
        return np.frombuffer(data, dtype=dtype)
    spare_bits = 8 * expected - dimension * modulus_bits
    if spare_bits and data[-1] >> (8 - spare_bits):
        raise FrameError("the vector's padding is not zero")
    values = np.empty((-(-dimension // _LANES), _LANES), dtype=dtype)
    for start in range(0, len(values), _GROUPS_AT_ONCE):
        groups = values[start : start + _GROUPS_AT_ONCE]
        packed = np.zeros((len(groups), modulus_bits), dtype=np.uint8)
        piece = np.frombuffer(data, dtype=np.uint8)[start * modulus_bits :][: packed.size]
        packed.reshape(-1)[: len(piece)] = piece
        _unpack_groups(packed, groups)
    vector = values.reshape(-1)[:dimension]
    reduce_in_place(vector, modulus_bits)
    return vector


def _unpack_groups(packed: npt.NDArray[np.uint8], values: RingVector) -> None:
    """Undo `_pack_groups`, up to bits above the ring."""
    modulus_bits = packed.shape[1]
    dtype = values.dtype
    for lane in range(_LANES):
        first_bit = lane * modulus_bits
        first, last = first_bit // 8, (first_bit + modulus_bits - 1) // 8
        value = packed[:, first].astype(dtype) >> dtype.type(first_bit % 8)
        for byte in range(first + 1, last + 1):
            value |= packed[:, byte].astype(dtype) << dtype.type(8 * byte - first_bit)
        values[:, lane] = value


class Encoded(NamedTuple):
    """A ring vector, and how many values were clipped: for the client itself, never for the server."""

    vector: RingVector
    n_clipped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedPoint:
    """A fixed-point grid with proven headroom.

    `clip` bounds a value's magnitude, `fraction_bits` sets the step 2^-fraction_bits, `max_weight`
    bounds the integer weight by which a client may multiply its vector.
    """

    clip: float
    fraction_bits: int
    modulus_bits: int
    max_clients: int
    max_weight: int = 1

    def __post_init__(self) -> None:
        require_integer("modulus_bits", self.modulus_bits, MIN_MODULUS_BITS, MAX_MODULUS_BITS)
        require_integer("fraction_bits", self.fraction_bits, 0, MAX_MODULUS_BITS)
        require_integer("max_clients", self.max_clients, 1, MAX_CLIENTS)
        require_integer("max_weight", self.max_weight, 1, 1 << MAX_MODULUS_BITS)
        if not (math.isfinite(self.clip) and self.clip > 0):
            raise ConfigError(f"expected a finite clip > 0, got {self.clip}", key="clip")
        if self.clip >= 2.0**MAX_MODULUS_BITS:  # no ring has room for it, nor a float for it in small steps
            raise ConfigError(f"expected clip < 2^{MAX_MODULUS_BITS}, got {self.clip}", key="clip")
        largest_sum = self.max_clients * self.max_weight * self.max_magnitude
        if largest_sum >= 1 << (self.modulus_bits - 1):
            raise ConfigError(
                f"no headroom: max_clients={self.max_clients} times max_weight={self.max_weight} times "
                f"max_magnitude={self.max_magnitude} needs {largest_sum.bit_length() + 1} bits, "
                f"modulus_bits={self.modulus_bits}",
                key="modulus_bits",
            )

    @classmethod
    def finest(cls, *, clip: float, modulus_bits: int, max_clients: int, max_weight: int = 1) -> FixedPoint:
        """Return the finest grid that the ring has headroom for.

        Raises:
            ConfigError: not even a step of one fits.
        """
        grid = partial(
            cls, clip=clip, modulus_bits=modulus_bits, max_clients=max_clients, max_weight=max_weight
        )
        for fraction_bits in range(MAX_MODULUS_BITS, 0, -1):
            with suppress(ConfigError):
                return grid(fraction_bits=fraction_bits)
        return grid(fraction_bits=0)

    @classmethod
    def for_params(cls, params: SecAggParams, *, clip: float, max_weight: int = 1) -> FixedPoint:
        """Return the finest grid for a session: its ring, with headroom for all of its clients.

        Raises:
            ConfigError: not even a step of one fits.
        """
        return cls.finest(
            clip=clip,
            modulus_bits=params.modulus_bits,
            max_clients=params.n_clients,
            max_weight=max_weight,
        )

    @property
    def max_magnitude(self) -> int:
        """The largest magnitude of one encoded value, before its weight."""
        return math.ceil(math.ldexp(self.clip, self.fraction_bits))

    def encode(self, values: npt.ArrayLike, *, weight: int = 1, entropy: Entropy = system) -> Encoded:
        """Clip, round up or down at random, times the weight, into the ring; from floats of shape (d,).

        Guarantees: the expectation of what a clipped value decodes to differs from it by at most
        2^-64 steps; the coins are 64 bits each.

        Raises:
            DataError: a value is not finite.
            ConfigError: no vector of real numbers, or the weight is not in 1..max_weight.
        """
        whole_weight: Any = weight.item() if isinstance(weight, np.generic) else weight
        require_integer("weight", whole_weight, 1, self.max_weight, upper_name="max_weight")
        floats = _real_vector(values)
        n_bad = int(np.count_nonzero(~np.isfinite(floats)))
        if n_bad:
            raise DataError(f"{n_bad} of {floats.size} values are not finite")
        magnitudes = np.abs(floats)
        n_clipped = int(np.count_nonzero(magnitudes > self.clip))
        # By magnitude, so that the fraction is exact: 1 - 1e-20 is not a float.
        scaled = np.ldexp(np.minimum(magnitudes, self.clip), self.fraction_bits)
        whole = np.floor(scaled)
        threshold = np.ldexp(scaled - whole, 64).astype(np.uint64)
        coins = np.frombuffer(entropy(8 * floats.size), dtype="<u8").reshape(floats.shape)
        rounded = whole.astype(np.uint64) + (coins < threshold)
        rounded *= np.uint64(whole_weight)
        dtype = ring_dtype(self.modulus_bits)
        vector: RingVector = np.where(floats < 0, np.negative(rounded), rounded).astype(dtype)
        reduce_in_place(vector, self.modulus_bits)
        return Encoded(vector, n_clipped)

    def decode(self, total: RingVector, *, total_weight: int = 1) -> npt.NDArray[np.float64]:
        """Return the sum as floats, divided by `total_weight`; exact where it has at most 53 bits.

        Raises:
            ConfigError: no integers of the ring (a total that was divided before), or a weight below 1.
        """
        ring = np.asarray(total)
        if ring.dtype.kind not in "ui":
            raise ConfigError(f"expected integers of the ring, got {ring.dtype}", key="total")
        _require_ring(ring, self.modulus_bits, key="total")
        if not total_weight >= 1:
            raise ConfigError(f"expected total_weight >= 1, got {total_weight}", key="total_weight")
        integers = centred(ring, self.modulus_bits)
        decoded: npt.NDArray[np.float64] = np.ldexp(integers.astype(np.float64), -self.fraction_bits)
        return decoded / total_weight


def _real_vector(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return real numbers of shape (d,) as float64; numpy would drop an imaginary part and read text.

    Raises:
        ConfigError: another shape, or another kind of value.
    """
    array = _as_array(values, key="values")
    if array.dtype.kind not in "fiub":
        raise ConfigError(f"expected real numbers, got {array.dtype}", key="values")
    if array.ndim != 1:
        raise ConfigError(f"expected shape (d,), got {array.shape}", key="values")
    return array.astype(np.float64, copy=False)
