"""Verifiable sums: a tag by which each client checks the total that it is shown.

The clients share a key that the server does not know.  It gives a vector r and one pad a client, both
modulo the prime p = 2^61 - 1.  Client i sends, masked like its vector but modulo p, the tag

    t_i = <r, x_i> + pad_i,      x_i its integers, centred.

Tags add up: a total X over the survivors S must come with T = <r, X> + Σ_{i in S} pad_i, over the
integers, since centred inputs of at most `max_centred` cannot wrap.  The server sees T, which the pads
make uniform whatever X is, so it learns nothing about r; another total, or another survivor set, with
any tag that it may choose is accepted with probability at most 2^-60 (one equation in an unknown that
takes no residue with more than twice its share).

Cost: 8 bytes a client, and <r, x> once a client and once a check (four 16-bit limbs by BLAS).

Not protected against: a client that gives the server the key, after which nothing is checked; a client
that sends a false tag, which fails every check and cannot be named.

Source: a one-time linear authenticator (Carter and Wegman 1981), `integer_mechanism` section 6.

>>> key = GroupKey.combine({1: bytes(32), 2: bytes(32)}, session_id=bytes(32)).of_round(bytes(32))
>>> inputs = {1: np.array([5, -3]), 2: np.array([1, 1])}
>>> total = sum(key.tag(client_id, values) for client_id, values in inputs.items()) % PRIME
>>> key.accepts(np.array([6, -2]), (1, 2), total), key.accepts(np.array([6, -1]), (1, 2), total)
(True, False)
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..entropy import Keystream
from .keys import derive

PRIME = (1 << 61) - 1
TAG_BYTES = 8
LABEL_GROUP = b"secure_fed_diffusion secagg v3 group key"
LABEL_VECTOR = b"secure_fed_diffusion secagg v3 check vector"
LABEL_PAD = b"secure_fed_diffusion secagg v3 tag pad"
_CHUNK = 1 << 16  # 2^16 products of 16 by 16 bits stay below 2^53: the BLAS sums are exact
_LIMB_BITS, _LIMBS = 16, 4
_WIDE_BYTES = 16


@dataclass(frozen=True, slots=True)
class GroupKey:
    """The key that the clients of one set-up share."""

    secret: bytes = field(repr=False)

    @classmethod
    def combine(cls, contributions: Mapping[int, bytes], *, session_id: bytes) -> GroupKey:
        """Join every client's 32 random bytes: unknown to whoever lacks one of them."""
        joined = b"".join(struct.pack("<I", v) + contributions[v] for v in sorted(contributions))
        return cls(derive(joined, label=LABEL_GROUP, session_id=session_id, context=b""))

    def of_round(self, slot_id: bytes) -> TagKey:
        """Return the one-time key of a round."""
        return TagKey(secret=self.secret, slot_id=slot_id)


@dataclass(frozen=True, slots=True)
class TagKey:
    """The key of one round's tags."""

    secret: bytes = field(repr=False)
    slot_id: bytes = field(repr=False)

    def tag(self, client_id: int, centred: npt.NDArray[np.int64]) -> int:
        """Return the tag of one client's centred integers, shape (dimension,)."""
        return (self._inner_product(centred) + self._pad(client_id)) % PRIME

    def accepts(self, centred_total: npt.NDArray[np.int64], survivors: Iterable[int], tag: int) -> bool:
        """Tell whether `tag` is that of this total over these survivors."""
        expected = self._inner_product(centred_total) + sum(self._pad(v) for v in survivors)
        return expected % PRIME == tag

    def _pad(self, client_id: int) -> int:
        context = struct.pack("<I", client_id)
        return wide(
            derive(
                self.secret, label=LABEL_PAD, session_id=self.slot_id, context=context, n_bytes=_WIDE_BYTES
            )
        )

    def _inner_product(self, centred: npt.NDArray[np.int64]) -> int:
        stream = Keystream(derive(self.secret, label=LABEL_VECTOR, session_id=self.slot_id, context=b""))
        words = np.empty(min(_CHUNK, len(centred)), dtype="<u8")
        total = 0
        for start in range(0, len(centred), _CHUNK):
            values = np.ascontiguousarray(centred[start : start + _CHUNK], dtype="<i8")
            drawn = words[: len(values)]
            stream.fill(drawn)
            # 61 bits: uniform but for the residue that 2^61 - 1 and 0 share
            drawn &= np.uint64(PRIME)
            magnitudes = np.abs(values).view("<u2").reshape(-1, _LIMBS).astype(np.float64)
            magnitudes *= np.sign(values)[:, None]
            limbs = drawn.view("<u2").reshape(-1, _LIMBS).astype(np.float64)
            products = magnitudes.T @ limbs
            total += sum(
                int(products[i, j]) << (_LIMB_BITS * (i + j)) for i in range(_LIMBS) for j in range(_LIMBS)
            )
        return total % PRIME


def wide(data: bytes) -> int:
    """Reduce 16 random bytes modulo the prime: within 2^-67 of uniform."""
    return int.from_bytes(data, "little") % PRIME
