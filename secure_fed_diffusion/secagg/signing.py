"""Who is who: long-term Ed25519 keys, and the roster of public keys that every client pins.

Under the active profile each client signs every frame, over (label, session, sender, kind, H(payload)),
and checks its peers' signatures against ITS OWN copy of the roster, so a server can neither put its
keys in the place of a client's nor invent clients.  The roster's root is part of the session id: two
parties with different rosters share no key.

Not protected against: a stolen signing key; a roster that was wrong when it was pinned (compare roots
over another channel).  These keys sign and do nothing else: Shamir never holds them.

Source: RFC 8032 (Ed25519); Bonawitz et al., CCS 2017, section 6.2.

>>> key = SigningKey.generate()
>>> Roster({7: key.public}).verify(7, b"hello", key.sign(b"hello"))
True
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from functools import lru_cache, partial
from hashlib import sha256
from types import MappingProxyType

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ..entropy import Entropy, system
from ..errors import ConfigError

PUBLIC_BYTES = 32
SECRET_BYTES = 32
SIGNATURE_BYTES = 64
_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P) % _P
_ORDER_8 = int.from_bytes(
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
)
# y of the points whose order divides 8: for such a key anybody can sign
_SMALL_ORDER = frozenset({0, 1, _P - 1, _ORDER_8, _P - _ORDER_8})
_REMEMBERED = 4096  # answers about signatures, each with its message of a hundred bytes or so
LABEL_ROSTER = b"secure_fed_diffusion secagg v3 roster"


class SigningKey:
    """A client's long-term Ed25519 key; `public` is its 32-byte public key.

    Raises:
        ConfigError: a secret of another length than 32 bytes.
    """

    __slots__ = ("_key", "public")

    def __init__(self, secret: bytes) -> None:
        if not isinstance(secret, bytes):
            raise ConfigError(f"expected bytes, got {type(secret).__name__}", key="signing_key")
        if len(secret) != SECRET_BYTES:
            raise ConfigError(f"expected {SECRET_BYTES} bytes, got {len(secret)}", key="signing_key")
        self._key = Ed25519PrivateKey.from_private_bytes(secret)
        self.public = self._key.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return "SigningKey(...)"

    @classmethod
    def generate(cls, entropy: Entropy = system) -> SigningKey:
        """Make a fresh key."""
        return cls(entropy(SECRET_BYTES))

    @property
    def secret(self) -> bytes:
        """The 32 bytes to keep: whoever has them is this client."""
        return self._key.private_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature."""
        return self._key.sign(message)


class Roster:
    """The pinned public keys by client id; immutable, with a 32-byte `root` to compare by voice.

    Raises:
        ConfigError: no clients, an id outside 0..2^32-1, a key that is none, or one key for two clients.
    """

    __slots__ = ("_is_genuine", "_keys", "_publics", "root")

    def __init__(self, publics: Mapping[int, bytes]) -> None:
        if not publics:
            raise ConfigError("expected at least one client", key="roster")
        keys = {}
        for client_id in publics:
            if isinstance(client_id, bool) or not isinstance(client_id, int) or not 0 <= client_id < 1 << 32:
                raise ConfigError(f"expected client ids in 0..2^32-1, got {client_id!r}", key="roster")
        for client_id in sorted(publics):
            if not _is_public_key(publics[client_id]):
                message = f"expected an Ed25519 public key of {PUBLIC_BYTES} bytes for client {client_id}"
                raise ConfigError(message, key="roster")
            keys[client_id] = Ed25519PublicKey.from_public_bytes(publics[client_id])
        if len({bytes(public) for public in publics.values()}) != len(publics):
            raise ConfigError("two clients have the same public key", key="roster")
        self._keys = keys
        # Where one process plays many clients, each of them checks the same signatures: said once, known.
        self._is_genuine = lru_cache(maxsize=_REMEMBERED)(partial(_is_genuine, keys))
        self._publics = MappingProxyType({client_id: bytes(publics[client_id]) for client_id in keys})
        rows = b"".join(struct.pack("<I", client_id) + public for client_id, public in self._publics.items())
        self.root = sha256(LABEL_ROSTER + rows).digest()

    def __contains__(self, client_id: object) -> bool:
        return client_id in self._publics

    def __iter__(self) -> Iterator[int]:
        return iter(self._publics)

    def __len__(self) -> int:
        return len(self._publics)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Roster) and self.root == other.root

    def __hash__(self) -> int:
        return hash(self.root)

    def __reduce__(self) -> tuple[type[Roster], tuple[dict[int, bytes]]]:
        return Roster, (dict(self._publics),)  # not what it remembers

    def __repr__(self) -> str:
        return f"Roster({len(self)} clients, root {self.root.hex()[:16]})"

    @property
    def publics(self) -> Mapping[int, bytes]:
        """The public keys by client id, ascending."""
        return self._publics

    def verify(self, client_id: int, message: bytes, signature: bytes) -> bool:
        """Tell whether `client_id` signed `message`; False also for a client that is not on the roster."""
        return client_id in self._keys and self._is_genuine(client_id, message, signature)


def _is_public_key(public: object) -> bool:
    """Say whether this is the encoding of a curve point that can be somebody's key (RFC 8032, 5.1.3).

    OpenSSL takes any 32 bytes, and for a point of small order it takes one signature for many messages.
    """
    if not isinstance(public, bytes | bytearray | memoryview) or len(public) != PUBLIC_BYTES:
        return False
    y = int.from_bytes(public, "little") & ((1 << 255) - 1)
    if y >= _P or y in _SMALL_ORDER:
        return False
    numerator, denominator = y * y - 1, _D * y * y + 1  # x^2 is their quotient
    return pow(numerator * denominator, (_P - 1) // 2, _P) == 1


def _is_genuine(
    keys: Mapping[int, Ed25519PublicKey], client_id: int, message: bytes, signature: bytes
) -> bool:
    try:
        keys[client_id].verify(signature, message)
    except InvalidSignature:
        return False
    return True
