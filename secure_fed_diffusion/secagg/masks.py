"""Masks: AES-256-CTR keystreams added to, or taken from, a ring vector in place.

Every value of the ring is equally likely in a mask, the largest one included: the streams fill the
whole unsigned type, which the ring divides.  The loop runs over chunks that stay in the cache, with
all keys inside, and writes each stream into one reused buffer; nothing of the size of the vector is
allocated.

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
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from .encoding import RingVector

CHUNK_BYTES = 1 << 18
_KEYS_AT_ONCE = 256  # bounds the cipher contexts alive when a server removes thousands of masks
_ZEROS = bytes(CHUNK_BYTES)


def apply(vector: RingVector, *, plus: Sequence[bytes] = (), minus: Sequence[bytes] = ()) -> None:
    """Add the streams of the 32-byte keys in `plus`, subtract those in `minus`, modulo the type's size.

    `vector` is C-contiguous and writable, in the ring's little-endian type.
    """
    signed = [(key, np.add) for key in plus] + [(key, np.subtract) for key in minus]
    buffer = np.empty(min(CHUNK_BYTES, vector.nbytes), dtype=np.uint8)
    zeros = memoryview(_ZEROS)
    chunk = CHUNK_BYTES // vector.dtype.itemsize
    for first in range(0, len(signed), _KEYS_AT_ONCE):
        streams = [
            (Cipher(AES256(key), CTR(bytes(16))).encryptor(), add)
            for key, add in signed[first : first + _KEYS_AT_ONCE]
        ]
        for start in range(0, len(vector), chunk):
            piece = vector[start : start + chunk]
            source, target = zeros[: piece.nbytes], buffer.data[: piece.nbytes]
            stream = buffer[: piece.nbytes].view(vector.dtype)
            for encryptor, add in streams:
                encryptor.update_into(source, target)
                add(piece, stream, out=piece)
