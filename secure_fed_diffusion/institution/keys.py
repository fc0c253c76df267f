"""An institution's two keys and the roster of public keys, as files.

`signing.key` is the Ed25519 key that signs protocol frames and ledger heads (hexadecimal, one line);
`signing.pub` its public half, to hand to the others.  `node.key` is the P-384 key by which Flower's
SuperLink knows the SuperNode (OpenSSH form); `node.pub` its public half, for the coordinator to register.
They are two keys on purpose: the coordinator decides who may connect, never who is on the roster.

Not protected against: whoever can read a private key is this institution.

Source: RFC 8032 (Ed25519); FIPS 186-5 (P-384).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

from secure_fed_diffusion.entropy import Entropy, system
from secure_fed_diffusion.errors import ConfigError, LedgerError, RunError
from secure_fed_diffusion.federation.heads import read_roster, write_roster
from secure_fed_diffusion.secagg import Roster, SigningKey

SIGNING_KEY, SIGNING_PUBLIC = "signing.key", "signing.pub"
NODE_KEY, NODE_PUBLIC = "node.key", "node.pub"
_P384_ORDER = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16
)


def make_keys(folder: Path, entropy: Entropy = system) -> list[Path]:
    """Write both key pairs into `folder`; return the files.

    Raises:
        RunError: one of the files is there already; nothing was written.
    """
    paths = [folder / name for name in (SIGNING_KEY, SIGNING_PUBLIC, NODE_KEY, NODE_PUBLIC)]
    for path in paths:
        if path.exists():
            raise RunError(f"{path} exists: a key is made once; move it away if it is really to be replaced")
    folder.mkdir(parents=True, exist_ok=True)
    signing, node = SigningKey.generate(entropy), _p384(entropy)
    write_private(paths[0], signing.secret.hex().encode() + b"\n")
    paths[1].write_text(signing.public.hex() + "\n", encoding="ascii")
    write_private(paths[2], node.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    public = node.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    paths[3].write_bytes(public + b"\n")
    return paths


def _p384(entropy: Entropy) -> ec.EllipticCurvePrivateKey:
    while True:  # a draw at or above the order has probability 2^-190
        secret = int.from_bytes(entropy(48), "big")
        if 0 < secret < _P384_ORDER:
            return ec.derive_private_key(secret, ec.SECP384R1())


def write_private(path: Path, content: bytes) -> None:
    """Write a new file that its owner alone may read, from its first byte on."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def read_signing_key(path: Path, *, key: str = "identity.key") -> SigningKey:
    """Read the Ed25519 key.

    Raises:
        ConfigError: the file is missing, readable by others, or holds no such key.
    """
    content = _read_private(path, key)
    try:
        return SigningKey(bytes.fromhex(content.decode("ascii")))
    except (ValueError, ConfigError):
        raise ConfigError(
            f"{path} holds no Ed25519 signing key (expected 64 hexadecimal digits, as `sfd institution keys` "
            f"writes them into {SIGNING_KEY}){_mistaken_for(path, content)}",
            key=key,
        ) from None


def check_node_key(path: Path, *, key: str = "superlink.node_key") -> str:
    """Return the public half (OpenSSH) of the P-384 key that the SuperNode shows to the SuperLink.

    Raises:
        ConfigError: the file is missing, readable by others, or holds no such key.
    """
    content = _read_private(path, key)
    try:
        found = load_ssh_private_key(content, None)
    except (ValueError, UnsupportedAlgorithm, TypeError):
        raise ConfigError(
            f"{path} holds no private key in OpenSSH form without a passphrase, as `sfd institution keys` "
            f"writes it into {NODE_KEY}{_mistaken_for(path, content)}",
            key=key,
        ) from None
    if not (isinstance(found, ec.EllipticCurvePrivateKey) and isinstance(found.curve, ec.SECP384R1)):
        raise ConfigError(f"{path} holds a key of another kind than NIST P-384", key=key)
    return found.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def _read_private(path: Path, key: str) -> bytes:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        content = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"there is no file {path}: `sfd institution keys` makes it", key=key) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", key=key) from None
    if os.name == "posix" and mode & 0o077 and not content.startswith(b"ecdsa-sha2"):
        raise ConfigError(f"others may read {path} (mode {mode:04o}): chmod 600 {path}", key=key)
    return content


def _mistaken_for(path: Path, content: bytes) -> str:
    """Name the usual mix-ups; says nothing of the content of a key."""
    if content.startswith(b"ecdsa-sha2"):
        return f"; {path.name} is a public key"
    if content.startswith(b"-----BEGIN OPENSSH"):
        return f"; {path.name} is an OpenSSH key: were identity.key and superlink.node_key exchanged?"
    if len(content.split()) == 1 and len(content.strip()) == 64:
        return f"; {path.name} looks like a signing key: were identity.key and superlink.node_key exchanged?"
    return ""


def make_roster(publics: Iterable[Path], path: Path) -> Roster:
    """Write the roster of the public keys in the files `publics`: client 0 is the first, and so on.

    Raises:
        ConfigError: a file is missing, holds no public key or is named as a secret one; two are the same.
        RunError: there is a file at `path`.
    """
    if path.exists():
        raise RunError(f"{path} exists: a changed roster is a new one, and all institutions compare its root")
    keys = {}
    for client_id, file in enumerate(publics):
        if file.suffix == ".key":  # both halves are 64 digits: only the name tells them apart
            raise ConfigError(
                f"{file} is a secret key by its name, and a roster is shown to all: name {SIGNING_PUBLIC}",
                key="roster",
            )
        try:
            keys[client_id] = bytes.fromhex(file.read_text(encoding="ascii"))
        except (OSError, ValueError):
            raise ConfigError(
                f"{file} holds no public key (64 hexadecimal digits, as in {SIGNING_PUBLIC})", key="roster"
            ) from None
    roster = Roster(keys)
    write_roster(path, roster)
    return roster


def read_pinned_roster(path: Path, root: str) -> Roster:
    """Read the roster, and hold it to the root that was compared over another channel.

    Raises:
        ConfigError: the file is missing or no roster; no root is given, or another.
    """
    try:
        roster = read_roster(path)
    except LedgerError:
        reason = "holds no roster" if path.exists() else "is missing: ask the coordinator for it"
        raise ConfigError(f"{path} {reason}", key="identity.roster") from None
    found = roster.root.hex()
    if not root:
        raise ConfigError(
            f"is not set: the root of {path.name} is {found}; compare it with the other institutions over "
            "another channel (by telephone, on paper), then write it here",
            key="identity.roster_root",
        )
    if found != root:
        raise ConfigError(
            f"expected the root {root}, {path} has {found}: it is not the roster that was compared",
            key="identity.roster_root",
        )
    return roster


def client_id_of(key: SigningKey, roster: Roster) -> int:
    """Return whose key this is.

    Raises:
        ConfigError: the key is nobody's on the roster.
    """
    for client_id, public in roster.publics.items():
        if public == key.public:
            return client_id
    raise ConfigError(
        f"its public key {key.public.hex()} is not on the roster of {len(roster)} institutions: is it the "
        "right file, and was this key handed in when the roster was made?",
        key="identity.key",
    )
