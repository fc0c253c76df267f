"""A client's state as bytes, whole or not at all: for a client that must outlive its process.

A file that was cut or damaged is refused as a whole, before any part of it is used.

Not protected against: whoever reads the bytes is the client (keep them as you keep a private key), and
whoever can write them can write a matching checksum.

>>> read(write({"phase": "unmask"}))
{'phase': 'unmask'}
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

from ..errors import FrameError, PhaseError
from .session import DIGEST_BYTES

_WRONG_FORM = (
    ArithmeticError,
    AttributeError,
    LookupError,
    PhaseError,
    RecursionError,
    TypeError,
    ValueError,
)


def write(state: Mapping[str, Any]) -> bytes:
    """Return the state, made of JSON types, with its checksum before it."""
    body = json.dumps(state, separators=(",", ":")).encode()
    return sha256(body).digest() + body


def read(snapshot: bytes) -> Any:
    """Return what `write` was given; call within `as_frame_error`.

    Raises:
        FrameError: cut or damaged.
    """
    checksum, body = snapshot[:DIGEST_BYTES], snapshot[DIGEST_BYTES:]
    if checksum != sha256(body).digest():
        raise FrameError("a damaged snapshot")
    return json.loads(body)


@contextmanager
def as_frame_error() -> Iterator[None]:
    """Turn whatever a state of the wrong form raises into one error of the tree."""
    try:
        yield
    except _WRONG_FORM:
        raise FrameError("not a snapshot of a client, or of one that failed") from None
