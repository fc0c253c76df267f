"""Keys: X25519 agreement, HKDF derivation with a label and a context each, one commitment.

Every ephemeral key of the protocol is made here, and every label stands at the head of this file.  The
salt of each derivation is the id of the session, or of the round for masks; these hash suite, run,
round, attempt, parameters (ring and length among them), cohort, roster and model, so keys of different
sessions, and masks of different rounds, are unrelated.

Public keys must be canonical and must not be of low order; both are refused on sight, by the server
too, so that one client's bad key does not cost the others their round.

Not protected against: in the profile `semi_honest` keys are not signed.  Python
cannot erase memory: a burned key is unreachable, not overwritten.

Sources: RFC 7748 (section 6.1), RFC 5869; low-order points: Curve25519's and its twist's points of
order 1, 2, 4 and 8.

>>> a, b = PrivateKey(bytes(32)), PrivateKey(bytes([1]) * 32)
>>> pair_mask_key(a, b.public, slot_id=bytes(32), own_id=1, peer_id=2) == pair_mask_key(
...     b, a.public, slot_id=bytes(32), own_id=2, peer_id=1)
True
"""

from __future__ import annotations

import struct
from hashlib import sha256
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ..errors import FrameError

LABEL_SEAL = b"secure_fed_diffusion secagg v3 sealed shares"
LABEL_PAIR_MASK = b"secure_fed_diffusion secagg v3 pairwise mask"
LABEL_SELF_MASK = b"secure_fed_diffusion secagg v3 self mask"
LABEL_SEED_COMMITMENT = b"secure_fed_diffusion secagg v3 self-mask seed commitment"

KEY_BYTES = 32
TAG_MASK_BYTES = 16
_P = 2**255 - 19
_LOW_ORDER = frozenset(
    {
        0,
        1,
        _P - 1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    }
)


class PrivateKey:
    """An X25519 private key; `public` is its 32-byte public key."""

    __slots__ = ("_key", "public", "secret")

    def __init__(self, secret: bytes) -> None:
        self._key = X25519PrivateKey.from_private_bytes(secret)
        self.secret = secret
        self.public = self._key.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return "PrivateKey(...)"

    def exchange(self, peer_public: bytes) -> bytes:
        """Return the raw shared secret, never the zero string.

        Raises:
            FrameError: the peer's key is not canonical or of low order.
        """
        check_public(peer_public)
        return self._key.exchange(X25519PublicKey.from_public_bytes(peer_public))


def check_public(public: bytes) -> None:
    """Refuse a public key that no honest client sends.

    Raises:
        FrameError: wrong length, not canonical (u >= 2^255 - 19), or of low order.
    """
    if len(public) != KEY_BYTES:
        raise FrameError(f"expected a public key of {KEY_BYTES} bytes, got {len(public)}")
    u = int.from_bytes(public, "little")
    if u >= _P:
        raise FrameError("a public key is not canonical")
    if u in _LOW_ORDER:
        raise FrameError("a public key is of low order")


def derive(
    secret: bytes, *, label: bytes, session_id: bytes, context: bytes, n_bytes: int = KEY_BYTES
) -> bytes:
    """HKDF-SHA-256 with the session as salt; label and context are length-prefixed in the info."""
    info = struct.pack("<H", len(label)) + label + struct.pack("<H", len(context)) + context
    return hkdf(secret, salt=session_id, info=info, n_bytes=n_bytes)


def hkdf(secret: bytes, *, salt: bytes, info: bytes, n_bytes: int) -> bytes:
    """HKDF-SHA-256, extract and expand (RFC 5869)."""
    return HKDF(algorithm=SHA256(), length=n_bytes, salt=salt, info=info).derive(secret)


class MaskKey(NamedTuple):
    """What one mask is made of: the key of the vector's keystream, and 16 bytes for the tag's."""

    stream: bytes
    tag: bytes

    def __repr__(self) -> str:
        return "MaskKey(...)"


def pair_mask_key(
    own: PrivateKey, peer_public: bytes, *, slot_id: bytes, own_id: int, peer_id: int
) -> MaskKey:
    """Return the key of the mask that these two clients share in a round, the same at both ends."""
    context = struct.pack("<II", min(own_id, peer_id), max(own_id, peer_id))
    return _mask_key(own.exchange(peer_public), LABEL_PAIR_MASK, slot_id, context)


def self_mask_key(seed: bytes, *, slot_id: bytes, client_id: int) -> MaskKey:
    """Return the key of a client's own mask in a round."""
    return _mask_key(seed, LABEL_SELF_MASK, slot_id, struct.pack("<I", client_id))


def _mask_key(secret: bytes, label: bytes, slot_id: bytes, context: bytes) -> MaskKey:
    n_bytes = KEY_BYTES + TAG_MASK_BYTES
    both = derive(secret, label=label, session_id=slot_id, context=context, n_bytes=n_bytes)
    return MaskKey(both[:KEY_BYTES], both[KEY_BYTES:])


def seal_keys(
    own: PrivateKey, peer_public: bytes, *, session_id: bytes, own_id: int, peer_id: int
) -> tuple[bytes, bytes]:
    """Return the keys (to the peer, from the peer): one for each direction, used once each."""
    context = struct.pack("<II", min(own_id, peer_id), max(own_id, peer_id))
    secret = own.exchange(peer_public)
    both = derive(secret, label=LABEL_SEAL, session_id=session_id, context=context, n_bytes=2 * KEY_BYTES)
    upwards, downwards = both[:KEY_BYTES], both[KEY_BYTES:]
    return (upwards, downwards) if own_id < peer_id else (downwards, upwards)


def commit_seed(seed: bytes, *, session_id: bytes, client_id: int, number: int) -> bytes:
    """Commit to the self-mask seed of round `number`.

    Binding by collision resistance, hiding by its 256 random bits.
    """
    bound = session_id + struct.pack("<II", client_id, number)
    return sha256(LABEL_SEED_COMMITMENT + bound + seed).digest()
