"""Frames over TCP: four bytes of length, then the frame.  All that a transport for `secagg` has to be."""

from __future__ import annotations

import socket
import struct

MAX_FRAME_BYTES = 1 << 28


def send(connection: socket.socket, frame: bytes) -> None:
    """Send one frame."""
    connection.sendall(struct.pack("<I", len(frame)) + frame)


def receive(connection: socket.socket, at_most: int = MAX_FRAME_BYTES) -> bytes:
    """Wait for one frame; empty if the other side hung up or announces too much."""
    header = _exactly(connection, 4)
    if len(header) < 4 or (n_bytes := struct.unpack("<I", header)[0]) > at_most:
        return b""
    return _exactly(connection, n_bytes)


def _exactly(connection: socket.socket, n_bytes: int) -> bytes:
    parts = bytearray()
    while len(parts) < n_bytes and (part := connection.recv(n_bytes - len(parts))):
        parts += part
    return bytes(parts)
