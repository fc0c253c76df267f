"""Masks: AES-256-CTR keystreams added to, or taken from, a ring vector in place.

Every value of the ring is equally likely in a mask, the largest one included: the streams fill the
whole unsigned type, which the ring divides.  The loop runs over chunks that stay in the cache, with
all keys inside, and writes each stream into one reused buffer; nothing of the size of the vector is
allocated.  Both buffers start on a cache line: an add that straddles lines costs half as much again.

Not protected against: one key must never mask two vectors; `keys` binds each to one session.

Source: NIST SP 800-38A, section 6.5; the loop as measured in `secure_aggregation`, section 3.

>>> vector = np.zeros(4, dtype="<u4")
>>> apply(vector, plus=[bytes(32)], minus=[bytes(32)])
>>> vector.tolist()
[0, 0, 0, 0]
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from .encoding import RingVector

CHUNK_BYTES = 1 << 17
_LINE_BYTES = 64
_KEYS_AT_ONCE = 256  # bounds the cipher contexts alive when a server removes thousands of masks
_ZEROS = bytes(CHUNK_BYTES)


def apply(vector: RingVector, *, plus: Sequence[bytes] = (), minus: Sequence[bytes] = ()) -> None:
    """Add the streams of the 32-byte keys in `plus`, subtract those in `minus`, modulo the type's size.

    `vector` is C-contiguous and writable, in the ring's little-endian type.
    """
    signed = [(key, np.add) for key in plus] + [(key, np.subtract) for key in minus]
    n_bytes = min(CHUNK_BYTES, vector.nbytes)
    stream_bytes, sum_bytes = _on_a_line(n_bytes), _on_a_line(n_bytes)
    zeros = memoryview(_ZEROS)
    chunk = CHUNK_BYTES // vector.dtype.itemsize
    for first in range(0, len(signed), _KEYS_AT_ONCE):
        streams = [
            (Cipher(AES256(key), CTR(bytes(16))).encryptor(), add)
            for key, add in signed[first : first + _KEYS_AT_ONCE]
        ]
        for start in range(0, len(vector), chunk):
            piece = vector[start : start + chunk]
            source, target = zeros[: piece.nbytes], stream_bytes.data[: piece.nbytes]
            stream = stream_bytes[: piece.nbytes].view(vector.dtype)
            total = sum_bytes[: piece.nbytes].view(vector.dtype)
            total[:] = piece
            for encryptor, add in streams:
                encryptor.update_into(source, target)
                add(total, stream, out=total)
            piece[:] = total


def _on_a_line(n_bytes: int) -> npt.NDArray[np.uint8]:
    """Return an uninitialised buffer whose first byte starts a cache line."""
    spacious = np.empty(n_bytes + _LINE_BYTES, dtype=np.uint8)
    offset = -spacious.__array_interface__["data"][0] % _LINE_BYTES
    return spacious[offset : offset + n_bytes]
