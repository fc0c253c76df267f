"""Copies of ours whose masks are weak, shared or used twice, and whose grid has no proof (T8 to T11).

Where a weakness was seen in another library, its docstring names that library (reference,
secure_aggregation.md, section 2).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from secure_fed_diffusion.secagg import client_setup, encoding, keyring, keys, masks, messages, params, policy
from secure_fed_diffusion.secagg.keyring import RoundSecrets

from .patching import Patch

MASK_KEY = keys._mask_key
APPLY = masks.apply
_ADVERTISE = client_setup.ClientSetup.advertise


def folded(secret: bytes) -> bytes:
    """Fold 32 bytes to two by XOR."""
    words = struct.unpack("<16H", secret)
    return struct.pack("<H", int(np.bitwise_xor.reduce(words)))


def without_full_width_seeds(patch: Patch) -> None:
    """As in Flower, but to 16 bits, so that the search of the whole space fits a test."""

    def mask_key(secret: bytes, *context: Any) -> keys.MaskKey:
        return MASK_KEY(folded(secret), *context)

    patch.setattr(keys, "_mask_key", mask_key)


def _apply_without_largest(modulus: int, vector: Any, plus: Sequence[bytes], minus: Sequence[bytes]) -> None:
    for group, sign in ((plus, 1), (minus, -1)):
        for key in group:
            stream = np.zeros_like(vector)
            APPLY(stream, plus=[key])
            residues = stream.astype(np.uint64) % np.uint64(modulus)
            residues[residues == modulus - 1] = 0
            drawn = residues.astype(vector.dtype)
            vector += drawn if sign > 0 else -drawn


def without_the_largest_mask_value(patch: Patch) -> None:
    """`randint(0, modulus - 1)` excludes its upper end."""
    patch.setattr(
        masks, "apply", lambda vector, *, plus=(), minus=(): _apply_without_largest(256, vector, plus, minus)
    )


def without_a_least_ring(patch: Patch) -> None:
    """The server may choose modulus 2; masks drawn below modulus - 1 are then all zero."""
    patch.setattr(params, "MIN_MODULUS_BITS", 1)
    patch.setattr(policy, "MIN_MODULUS_BITS", 1)
    patch.setattr(
        masks, "apply", lambda vector, *, plus=(), minus=(): _apply_without_largest(2, vector, plus, minus)
    )
    patch.setattr(messages, "pack", lambda vector, bits: np.packbits(vector & 1, bitorder="little").data)


def without_self_masks(patch: Patch) -> None:
    """Pairwise masks alone: a self mask's key is empty, and empty keys mask nothing."""
    none = keys.MaskKey(b"", b"")

    def apply(vector: Any, *, plus: Sequence[bytes] = (), minus: Sequence[bytes] = ()) -> None:
        APPLY(vector, plus=[key for key in plus if key], minus=[key for key in minus if key])

    patch.setattr(keys, "self_mask_key", lambda seed, **context: none)
    patch.setattr(masks, "apply", apply)


def without_the_round_in_the_derivation(patch: Patch) -> None:
    """One secret for all rounds of a set-up, and masks that hang on the pair alone."""

    def advertise(setup: client_setup.ClientSetup) -> bytes:
        advert = _ADVERTISE(setup)
        first = setup.keyring.rounds[0]
        setup.keyring.rounds = dict.fromkeys(setup.keyring.rounds, RoundSecrets(*first))
        return advert

    patch.setattr(client_setup.ClientSetup, "advertise", advertise)
    patch.setattr(client_setup.ClientSetup, "_check_adverts", lambda setup, adverts: None)
    patch.setattr(
        keys,
        "_mask_key",
        lambda secret, label, slot_id, context: MASK_KEY(secret, label, bytes(32), context),
    )
    # The peers' keys in use must be those of the first round as well.
    publics = keyring.Keyring.take_round

    def take_round(ring: keyring.Keyring, number: int) -> Any:
        ring.mask_publics = {v: (own[0],) * len(own) for v, own in ring.mask_publics.items()}
        return publics(ring, number)

    patch.setattr(keyring.Keyring, "take_round", take_round)


def without_forgetting_a_used_round(patch: Patch) -> None:
    """The keyring hands out the same round's secrets as often as it is asked."""

    def take_round(ring: keyring.Keyring, number: int) -> Any:
        return ring.rounds[number], dict(ring.held[number])

    patch.setattr(keyring.Keyring, "take_round", take_round)


def without_a_fresh_mask_for_each_coordinate(patch: Patch) -> None:
    """As one float added to every parameter."""

    def apply(vector: Any, *, plus: Sequence[bytes] = (), minus: Sequence[bytes] = ()) -> None:
        for group, sign in ((plus, 1), (minus, -1)):
            for key in group:
                first = np.zeros(1, dtype=vector.dtype)
                APPLY(first, plus=[key])
                vector += first[0] if sign > 0 else -first[0]

    patch.setattr(masks, "apply", apply)


class _TransparentKey:
    """Key agreement in which what is published is the secret."""

    def __init__(self, secret: bytes) -> None:
        self.secret = self.public = secret[:-1] + bytes([secret[-1] & 127])  # of a canonical form

    def exchange(self, peer_public: bytes) -> bytes:
        return keys.hkdf(b"".join(sorted((self.public, peer_public))), salt=b"", info=b"", n_bytes=32)


def without_secret_keys(patch: Patch) -> None:
    """The public key is the secret key, as in FedML."""
    patch.setattr(keys, "PrivateKey", _TransparentKey)


def without_exact_packing(patch: Patch) -> None:
    """64 bits for every value, as in Flower."""
    patch.setattr(messages, "pack", lambda vector, bits: memoryview(vector.astype("<i8").tobytes()))


def without_a_headroom_proof(patch: Patch) -> None:
    """A grid is taken as it is proposed."""
    patch.setattr(encoding.FixedPoint, "__post_init__", lambda grid: None)


def without_unbiased_rounding(patch: Patch) -> None:
    """float32, shifted by the clip, rounded to the nearest: as in Flower."""

    def encode(
        grid: encoding.FixedPoint, values: Any, *, weight: int = 1, entropy: Any = None
    ) -> encoding.Encoded:
        shifted = np.clip(values, -grid.clip, grid.clip).astype(np.float32) + np.float32(grid.clip)
        step = np.float32(2.0**-grid.fraction_bits)
        integers = np.rint(shifted / step).astype(np.int64) - round(grid.clip * 2**grid.fraction_bits)
        return encoding.Encoded(integers.astype(encoding.ring_dtype(grid.modulus_bits)), 0)

    patch.setattr(encoding.FixedPoint, "encode", encode)
