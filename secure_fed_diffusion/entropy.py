"""The one door to the operating system's randomness.

Keys, masks, noise and Poisson coins come from `system`; nothing in this package seeds them.  A
function that needs randomness takes an `Entropy` as an argument, so a test can inject its own;
the default is always `system`.  `Keystream` stretches 32 bytes into as many as one likes.

Not protected against: an operating system whose generator is broken, or a host whose memory can
be read or rolled back.

>>> len(system(32))
32
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from secure_fed_diffusion.errors import ConfigError

Entropy = Callable[[int], bytes]
"""`entropy(n)` returns `n` fresh random bytes."""

KEY_BYTES = 32
_CHUNK_BYTES = 1 << 18  # stays in the second-level cache together with the array that it fills


def system(n_bytes: int) -> bytes:
    """Return `n_bytes` from the operating system's CSPRNG."""
    return os.urandom(n_bytes)


class Keystream:
    """AES-256 in counter mode as a generator of random bytes (NIST SP 800-38A, F.5).

    One key, one stream: the counter starts at zero, so a key must never be used for two streams.
    """

    __slots__ = ("_encryptor", "_zeros")

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ConfigError(f"expected {KEY_BYTES} bytes, got {len(key)}", key="key")
        self._encryptor = Cipher(AES256(key), CTR(bytes(16))).encryptor()
        self._zeros = memoryview(bytes(_CHUNK_BYTES))

    def fill(self, out: npt.NDArray[Any]) -> None:
        """Overwrite the C-contiguous array `out` with the next `out.nbytes` of the stream."""
        target = out.reshape(-1).view(np.uint8).data
        for start in range(0, len(target), _CHUNK_BYTES):
            piece = target[start : start + _CHUNK_BYTES]
            self._encryptor.update_into(self._zeros[: len(piece)], piece)

    def read(self, n_bytes: int) -> bytes:
        """Return the next `n_bytes` of the stream; a `Keystream.read` is itself an `Entropy`."""
        return self._encryptor.update(bytes(n_bytes))
