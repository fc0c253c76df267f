"""Frames: one canonical, versioned, exact-length encoding; bytes in, values out, or `FrameError`.

    magic 4 | version 1 | kind 1 | client id 4 | payload length 8 | session id 32 | payload

Little-endian throughout.  `client id` is the client at whose end the frame is: its sender when the
kind is a client's, its receiver when it is the server's, so a frame cannot be handed to another.
Every value has one encoding: tables are strictly ascending, padding is zero, nothing trails.

Under the profile `active` the payload of a client's frame ends in its signature.  Not protected against:
under `semi_honest` there is none, and whoever can write to the channel can speak for a client.

>>> writer = write_table({2: b"ab", 1: b"cd"}, width=2)
>>> Reader(writer).table(width=2)
{1: b'cd', 2: b'ab'}
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping
from hashlib import sha256

from ..errors import FrameError
from .phases import Kind
from .signing import SIGNATURE_BYTES

MAGIC = b"SFDA"
LABEL_FRAME = b"secure_fed_diffusion secagg v3 signed frame"
VERSION = 3
_HEADER = struct.Struct("<4sBBIQ32s")
HEADER_BYTES = _HEADER.size
_U32 = struct.Struct("<I")

Buffer = bytes | bytearray | memoryview


def pack(kind: Kind, *, session_id: bytes, client_id: int, payload: Buffer, signature: bytes = b"") -> bytes:
    """Put the header before the payload, and the signature, if any, at its end."""
    n_bytes = len(payload) + len(signature)
    header = _HEADER.pack(MAGIC, VERSION, kind, client_id, n_bytes, session_id)
    return b"".join((header, payload, signature))


def peek_kind(frame: Buffer) -> Kind:
    """Return the kind that a frame claims to be, once its header and its length are in order.

    Raises:
        FrameError: too short, another protocol or version, an unknown kind, or a false length.
    """
    if not isinstance(frame, bytes | bytearray | memoryview):
        raise FrameError(f"expected bytes, got {type(frame).__name__}")
    view = memoryview(frame)
    if view.ndim != 1 or view.itemsize != 1 or not view.contiguous:
        raise FrameError("expected one contiguous row of bytes")
    if len(frame) < HEADER_BYTES:
        raise FrameError(f"truncated: {len(frame)} bytes, the header alone has {HEADER_BYTES}")
    magic, version, kind, _, payload_bytes, _ = _HEADER.unpack_from(frame)
    if magic != MAGIC:
        raise FrameError("not a frame of this protocol")
    if version != VERSION:
        raise FrameError(f"expected version {VERSION}, got {version}")
    if len(frame) != HEADER_BYTES + payload_bytes:
        raise FrameError(f"{len(frame)} bytes where the header announces {HEADER_BYTES + payload_bytes}")
    try:
        return Kind(kind)
    except ValueError:
        raise FrameError(f"unknown kind {kind}") from None


def unpack(frame: Buffer, kind: Kind, *, session_id: bytes, client_id: int) -> memoryview:
    """Return the payload of a frame that is of this kind, this session and this client.

    Raises:
        FrameError: it is not.
    """
    found = peek_kind(frame)
    if found is not kind:
        raise FrameError(f"expected {kind.name}, got {found.name}")
    _, _, _, frame_client_id, _, frame_session_id = _HEADER.unpack_from(frame)
    if frame_session_id != session_id:
        raise FrameError(
            f"a frame of another session or round: expected the id {session_id[:4].hex()}…, got "
            f"{frame_session_id[:4].hex()}…"
        )
    if frame_client_id != client_id:
        raise FrameError(f"a frame of client {frame_client_id}, at the end of client {client_id}")
    return memoryview(frame).cast("B")[HEADER_BYTES:].toreadonly()


def signed_bytes(
    kind: Kind,
    *,
    session_id: bytes,
    client_id: int,
    payload: Buffer,
    masked_with: Collection[int] = (),
) -> bytes:
    """Return what a client signs: label, version, kind, sender, session, H(payload).

    With a masked input also whom it is masked with: were the delivery altered on its way, the masks would
    not cancel and the sum would be wrong unseen; so such an input is refused instead.
    """
    parts = [LABEL_FRAME, struct.pack("<BBI", VERSION, kind, client_id), session_id, sha256(payload).digest()]
    if kind is Kind.MASKED_INPUT:
        parts.append(sha256(struct.pack(f"<{len(masked_with)}I", *sorted(masked_with))).digest())
    return b"".join(parts)


def split_signature(payload: memoryview) -> tuple[memoryview, bytes]:
    """Return the payload and the signature at its end.

    Raises:
        FrameError: too short to hold one.
    """
    if len(payload) < SIGNATURE_BYTES:
        raise FrameError(
            f"truncated: {len(payload)} bytes of payload, a signature alone has {SIGNATURE_BYTES}"
        )
    return payload[:-SIGNATURE_BYTES], bytes(payload[-SIGNATURE_BYTES:])


def write_table(rows: Mapping[int, bytes], *, width: int) -> bytes:
    """Encode rows of `width` bytes by client id, ascending, with their count before them."""
    parts = [_U32.pack(len(rows))]
    for client_id in sorted(rows):
        if len(rows[client_id]) != width:
            raise FrameError(f"expected rows of {width} bytes, got {len(rows[client_id])}")
        parts += (_U32.pack(client_id), rows[client_id])
    return b"".join(parts)


class Reader:
    """Take values off the front of a payload; `finish` insists that nothing is left."""

    __slots__ = ("_rest",)

    def __init__(self, payload: Buffer) -> None:
        self._rest = memoryview(payload)

    def take(self, n_bytes: int) -> memoryview:
        """Take exactly `n_bytes`."""
        if n_bytes > len(self._rest):
            raise FrameError(f"truncated: {n_bytes} bytes expected, {len(self._rest)} left")
        taken, self._rest = self._rest[:n_bytes], self._rest[n_bytes:]
        return taken

    def table(self, *, width: int) -> dict[int, bytes]:
        """Take a table that `write_table` wrote."""
        (count,) = _U32.unpack(self.take(_U32.size))
        rows: dict[int, bytes] = {}
        previous = -1
        row_bytes = _U32.size + width
        body = self.take(count * row_bytes)
        for start in range(0, len(body), row_bytes):
            (client_id,) = _U32.unpack_from(body, start)
            if client_id <= previous:
                raise FrameError(f"client {client_id} after client {previous}: rows must ascend")
            rows[client_id] = bytes(body[start + _U32.size : start + row_bytes])
            previous = client_id
        return rows

    def rest(self) -> memoryview:
        """Take all that is left."""
        return self.take(len(self._rest))

    def finish(self) -> None:
        """Insist that everything was read."""
        if len(self._rest):
            raise FrameError(f"{len(self._rest)} bytes too many")
