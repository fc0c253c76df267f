"""Fixed ids and bytes that the cases are made of."""

from __future__ import annotations

from hashlib import sha256

from secure_fed_diffusion import entropy
from secure_fed_diffusion.secagg import keys

P25519 = 2**255 - 19
LOW_ORDER = {
    "the point 0": 0,
    "the point 1": 1,
    "the point -1": P25519 - 1,
    "a point of order 8": 325606250916557431795983626356110631294008115727848805560023387167927233504,
    "the other of order 8": 39382357235489614581723060781553021112529911719440698176882885853963445705823,
}
SESSION_ID = sha256(b"session").hexdigest()
SLOT_ID = sha256(b"slot").hexdigest()


def fixed(label: str, n_bytes: int = 32) -> str:
    """Bytes of the stream whose key is SHA-256(label)."""
    return entropy.Keystream(sha256(label.encode()).digest()).read(n_bytes).hex()


def public(label: str) -> str:
    return keys.PrivateKey(bytes.fromhex(fixed(label))).public.hex()


def little(number: int, n_bytes: int = 32) -> str:
    return number.to_bytes(n_bytes, "little").hex()
