"""Sealed shares: what one client entrusts to another through the server, which cannot read them.

AES-256-GCM.  The associated data is the header (session, sender, receiver), so a sealed pair of
shares that is moved, replayed or altered does not open.  Each key comes from a fresh agreement, is
for one direction, and seals one message: that is why the nonce may be constant.

Not protected against: the server withholding a share, which is a dropout.

>>> sealed = seal(bytes(32), SharePair(1, 2), session_id=bytes(32), sender=1, receiver=2)
>>> unseal(bytes(32), sealed, session_id=bytes(32), sender=1, receiver=2)
SharePair(...)
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ..errors import FrameError
from .shamir import PRIME, SHARE_BYTES

SEALED_BYTES = 2 * SHARE_BYTES + 16
_NONCE = bytes(12)


class SharePair(NamedTuple):
    """One holder's shares of one client's two secrets; at most one of them is ever revealed."""

    mask_key: int
    self_mask: int

    def __repr__(self) -> str:
        return "SharePair(...)"


def encode_share(share: int) -> bytes:
    """Encode a field element."""
    return share.to_bytes(SHARE_BYTES, "little")


def decode_share(data: bytes) -> int:
    """Decode a field element.

    Raises:
        FrameError: it is not reduced.
    """
    share = int.from_bytes(data, "little")
    if share >= PRIME:
        raise FrameError("a share lies outside the field")
    return share


def seal(key: bytes, pair: SharePair, *, session_id: bytes, sender: int, receiver: int) -> bytes:
    """Seal a pair of shares under a key that seals nothing else."""
    plain = encode_share(pair.mask_key) + encode_share(pair.self_mask)
    return AESGCM(key).encrypt(_NONCE, plain, _header(session_id, sender, receiver))


def unseal(key: bytes, sealed: bytes, *, session_id: bytes, sender: int, receiver: int) -> SharePair:
    """Open what `sender` sealed for `receiver`.

    Raises:
        FrameError: it is not what that sender sealed for that receiver in this session.
    """
    try:
        plain = AESGCM(key).decrypt(_NONCE, sealed, _header(session_id, sender, receiver))
    except InvalidTag:
        message = f"the shares that client {sender} sealed for client {receiver} do not open"
        raise FrameError(message, culprits=(sender,)) from None
    return SharePair(decode_share(plain[:SHARE_BYTES]), decode_share(plain[SHARE_BYTES:]))


def _header(session_id: bytes, sender: int, receiver: int) -> bytes:
    return session_id + struct.pack("<II", sender, receiver)
