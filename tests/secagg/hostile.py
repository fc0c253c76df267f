"""Frames that a hostile sender would make, and its own signature over them."""

from __future__ import annotations

import struct

from secure_fed_diffusion.secagg import codec

from .rounds import Round, signing_key

HEADER = codec.HEADER_BYTES


def with_length(frame: bytes, payload_bytes: int) -> bytes:
    return frame[:10] + struct.pack("<Q", payload_bytes) + frame[18:]


def rewrap(frame: bytes, payload: bytes) -> bytes:
    """The same header around another payload, its length corrected."""
    return with_length(frame[:HEADER], len(payload)) + payload


def signed_frame(a_round: Round, client_id: int, frame: bytes, payload: bytes) -> bytes:
    """A frame with another payload, signed by its sender where the profile signs."""
    kind, session_id = codec.peek_kind(frame), frame[18:HEADER]
    signature = b""
    if a_round.session.params.signed:
        signature = signing_key(client_id).sign(
            codec.signed_bytes(
                kind,
                session_id=session_id,
                client_id=client_id,
                payload=payload,
                masked_with=masked_with(a_round, client_id),
            )
        )
    return codec.pack(kind, session_id=session_id, client_id=client_id, payload=payload, signature=signature)


def masked_with(a_round: Round, client_id: int) -> frozenset[int]:
    a_servers_round = a_round.server._round
    return a_servers_round.masked_with(client_id) if a_servers_round else frozenset()


def payload_of(a_round: Round, frame: bytes) -> bytes:
    return frame[HEADER : len(frame) - (64 if a_round.session.params.signed else 0)]
