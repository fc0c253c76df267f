"""Sealed shares: what one client entrusts to another through the server, which cannot read them.

AES-256-GCM.  The associated data is the header (session, sender, receiver), so shares that are moved,
replayed or altered do not open.  Each key comes from a fresh agreement, is for one direction, and seals
one message: that is why the nonce may be constant.

Not protected against: the server withholding a share, which is a dropout.

>>> key, sent = bytes(32), Entrusted((SharePair(1, 2), SharePair(3, 4)))
>>> sealed = seal(key, sent, session_id=bytes(32), sender=1, receiver=2)
>>> unseal(key, sealed, session_id=bytes(32), sender=1, receiver=2, n_rounds=2) == sent
True
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ..errors import FrameError
from .params import SecAggParams
from .shamir import PRIME, SHARE_BYTES

CONTRIBUTION_BYTES = 32
_PAIR_BYTES = 2 * SHARE_BYTES
_GCM_TAG_BYTES = 16
_NONCE = bytes(12)


class SharePair(NamedTuple):
    """One holder's shares of one client's two secrets of a round; at most one of them is ever revealed."""

    mask_key: int
    self_mask: int

    def __repr__(self) -> str:
        return "SharePair(...)"


class Entrusted(NamedTuple):
    """What one client gives another: a pair of shares for each round, and its part of the group key."""

    pairs: tuple[SharePair, ...]
    contribution: bytes = b""

    def __repr__(self) -> str:
        return "Entrusted(...)"


def sealed_bytes(params: SecAggParams) -> int:
    """Return the length of what one client seals for another."""
    contribution = CONTRIBUTION_BYTES if params.verifiable else 0
    return params.n_rounds * _PAIR_BYTES + contribution + _GCM_TAG_BYTES


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


def seal(key: bytes, entrusted: Entrusted, *, session_id: bytes, sender: int, receiver: int) -> bytes:
    """Seal shares under a key that seals nothing else."""
    plain = b"".join(encode_share(share) for pair in entrusted.pairs for share in pair)
    return AESGCM(key).encrypt(_NONCE, plain + entrusted.contribution, _header(session_id, sender, receiver))


def unseal(
    key: bytes, sealed: bytes, *, session_id: bytes, sender: int, receiver: int, n_rounds: int
) -> Entrusted:
    """Open what `sender` sealed for `receiver`.

    Raises:
        FrameError: it is not what that sender sealed for that receiver in this session.
    """
    try:
        plain = AESGCM(key).decrypt(_NONCE, sealed, _header(session_id, sender, receiver))
    except InvalidTag:
        message = f"the shares that client {sender} sealed for client {receiver} do not open"
        raise FrameError(message, culprits=(sender,)) from None
    shares = [
        decode_share(plain[start : start + SHARE_BYTES])
        for start in range(0, n_rounds * _PAIR_BYTES, SHARE_BYTES)
    ]
    pairs = tuple(SharePair(*shares[i : i + 2]) for i in range(0, len(shares), 2))
    return Entrusted(pairs, plain[n_rounds * _PAIR_BYTES :])


def _header(session_id: bytes, sender: int, receiver: int) -> bytes:
    return session_id + struct.pack("<II", sender, receiver)
