"""Masks that are weak, shared or used twice (T8, T9, T10; weaknesses 1 and 10 of the reference)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from secure_fed_diffusion.secagg import client_setup, encoding, keyring, keys, masks, messages, params, policy
from secure_fed_diffusion.secagg.keyring import RoundSecrets

from ..forging import (
    combined,
    mask_publics_of,
    masked_vector_of,
    payload_of,
    round_id,
    unmask_shares_of,
    without_masks,
)
from ..rounds import Round

Patch = pytest.MonkeyPatch

_MASK_KEY = keys._mask_key
_APPLY = masks.apply
_ADVERTISE = client_setup.ClientSetup.advertise
_SEED_SPACE = 1 << 16


# T10, weakness 1: the secret is folded by XOR before it becomes a seed.


def _folded(secret: bytes) -> bytes:
    words = struct.unpack("<16H", secret)
    return struct.pack("<H", int(np.bitwise_xor.reduce(words)))


def without_full_width_seeds(patch: Patch) -> None:
    """As in Flower, but to 16 bits, so that the search of the whole space fits a test."""

    def mask_key(secret: bytes, *context: Any) -> keys.MaskKey:
        return _MASK_KEY(_folded(secret), *context)

    patch.setattr(keys, "_mask_key", mask_key)


def search_of_the_seed_space() -> bool:
    """Three clients, one drops: one pairwise mask is left on the victim's vector; try every seed of it."""
    a_round = Round.of("semi_honest", n_clients=3, threshold=2, dimension=64)
    a_round.vectors = {v: x % np.uint64(1 << 12) for v, x in a_round.vectors.items()}  # small, as updates are
    a_round.run_to("masked_input")
    frames = a_round.answers(without=[2])
    vector = masked_vector_of(a_round, frames[0])
    a_round.close(frames)
    replies = {v: unmask_shares_of(a_round, frame) for v, frame in a_round.answers().items()}
    seed = combined({v: reply.self_mask[0] for v, reply in replies.items()}, 2)
    dropped = keys.PrivateKey(combined({v: reply.mask_key[2] for v, reply in replies.items()}, 2))
    slot_id, victim_public = round_id(a_round), mask_publics_of(a_round)[0]
    to_dropped = keys.pair_mask_key(dropped, victim_public, slot_id=slot_id, own_id=2, peer_id=0)
    own = keys.self_mask_key(seed, slot_id=slot_id, client_id=0)
    _APPLY(vector, minus=[own.stream, to_dropped.stream])
    context = struct.pack("<II", 0, 1)
    for candidate in range(_SEED_SPACE):
        key = _MASK_KEY(struct.pack("<H", candidate), keys.LABEL_PAIR_MASK, slot_id, context)
        guess = vector[:8].copy()
        _APPLY(guess, minus=[key.stream])
        if guess.max() < 1 << 12:
            whole = vector.copy()
            _APPLY(whole, minus=[key.stream])
            return bool(np.array_equal(whole, a_round.vectors[0]))
    return False


# Weakness 1: masks that never take the largest value; weakness 3: at modulus 2 they are all zero.


def _apply_without_largest(modulus: int, vector: Any, plus: Sequence[bytes], minus: Sequence[bytes]) -> None:
    for group, sign in ((plus, 1), (minus, -1)):
        for key in group:
            stream = np.zeros_like(vector)
            _APPLY(stream, plus=[key])
            residues = stream.astype(np.uint64) % np.uint64(modulus)
            residues[residues == modulus - 1] = 0
            drawn = residues.astype(vector.dtype)
            vector += drawn if sign > 0 else -drawn


def without_the_largest_mask_value(patch: Patch) -> None:
    """`randint(0, modulus - 1)` excludes its upper end."""
    patch.setattr(
        masks, "apply", lambda vector, *, plus=(), minus=(): _apply_without_largest(256, vector, plus, minus)
    )


def a_mask_value_that_never_occurs() -> bool:
    """Missing by chance has probability (1 - 1/256)^65536, below 1e-111."""
    mask = np.zeros(1 << 16, dtype=np.uint8)
    masks.apply(mask, plus=[b"k" * 32])
    return len(np.unique(mask)) < 256


def without_a_least_ring(patch: Patch) -> None:
    """The server may choose modulus 2; masks drawn below modulus - 1 are then all zero."""
    patch.setattr(params, "MIN_MODULUS_BITS", 1)
    patch.setattr(policy, "MIN_MODULUS_BITS", 1)
    patch.setattr(
        masks, "apply", lambda vector, *, plus=(), minus=(): _apply_without_largest(2, vector, plus, minus)
    )
    patch.setattr(messages, "pack", lambda vector, bits: np.packbits(vector & 1, bitorder="little").data)


def signs_in_clear_at_modulus_two() -> bool:
    """With a modulus of 2 what is sent is the sign bits."""
    a_round = Round.of("semi_honest", modulus_bits=1)
    frame = a_round.run_to("masked_input").answer(0)
    sent = np.unpackbits(np.frombuffer(payload_of(a_round, frame), dtype=np.uint8), bitorder="little")
    return bool(np.array_equal(sent[:16], a_round.vectors[0] % 2))


# T8: one mask only, and an input that comes late.


def without_self_masks(patch: Patch) -> None:
    """A self mask that everybody knows is none."""
    known = keys.MaskKey(bytes(32), bytes(16))
    patch.setattr(keys, "self_mask_key", lambda seed, **context: known)


def unmasking_of_a_late_input() -> bool:
    """The victim's frame comes after it was declared dropped, when its mask key is known."""
    a_round = Round.of("semi_honest", dimension=64).run_to("masked_input")
    frames = a_round.answers()
    late = masked_vector_of(a_round, frames.pop(4))
    a_round.close(frames)
    replies = {v: unmask_shares_of(a_round, frame) for v, frame in a_round.answers().items()}
    mask_key = combined({v: reply.mask_key[4] for v, reply in replies.items()}, 4)
    found = without_masks(
        a_round,
        late,
        4,
        mask_key=mask_key,
        seed=bytes(32),  # the server has no share of the real one
        publics=mask_publics_of(a_round),
        slot_id=round_id(a_round),
    )
    return bool(np.array_equal(found, a_round.vectors[4]))


# T9, weakness 10: the same masks twice.


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
        lambda secret, label, slot_id, context: _MASK_KEY(secret, label, bytes(32), context),
    )
    # The peers' keys in use must be those of the first round as well.
    publics = keyring.Keyring.take_round

    def take_round(ring: keyring.Keyring, number: int) -> Any:
        ring.mask_publics = {v: (own[0],) * len(own) for v, own in ring.mask_publics.items()}
        return publics(ring, number)

    patch.setattr(keyring.Keyring, "take_round", take_round)


def difference_of_two_rounds() -> bool:
    """y1 - y0 of one client is x1 - x0 if the masks are the same."""
    a_round, seen = Round.of("semi_honest", dimension=64, n_rounds=2), []
    for number in range(2):
        if number:
            a_round.begin(1)
        a_round.run_to("masked_input")
        frames = a_round.answers()
        seen.append((masked_vector_of(a_round, frames[0]), a_round.vectors[0].astype(np.uint32)))
        a_round.close(frames)
    (y0, x0), (y1, x1) = seen
    return bool(np.array_equal(y1 - y0, x1 - x0))


def without_forgetting_a_used_round(patch: Patch) -> None:
    """The keyring hands out the same round's secrets as often as it is asked."""

    def take_round(ring: keyring.Keyring, number: int) -> Any:
        return ring.rounds[number], dict(ring.held[number])

    patch.setattr(keyring.Keyring, "take_round", take_round)


def the_same_round_number_twice() -> bool:
    """The server asks for round 0 again, with another vector underneath: a two-time pad."""
    a_round = Round.of("semi_honest", dimension=64).run_to("masked_input")
    client, frame = a_round.clients[0], a_round.inbox[0]
    first = masked_vector_of(a_round, client.masked_input(frame, a_round.vectors[0]))
    client.begin(0)
    second = masked_vector_of(a_round, client.masked_input(frame, a_round.vectors[1]))
    difference = a_round.vectors[0].astype(np.uint32) - a_round.vectors[1].astype(np.uint32)
    return bool(np.array_equal(first - second, difference))


# Weakness 10: one number masks the whole model.


def without_a_fresh_mask_for_each_coordinate(patch: Patch) -> None:
    """As one float added to every parameter."""

    def apply(vector: Any, *, plus: Sequence[bytes] = (), minus: Sequence[bytes] = ()) -> None:
        for group, sign in ((plus, 1), (minus, -1)):
            for key in group:
                first = np.zeros(1, dtype=vector.dtype)
                _APPLY(first, plus=[key])
                vector += first[0] if sign > 0 else -first[0]

    patch.setattr(masks, "apply", apply)


def differences_within_one_vector() -> bool:
    """A scalar mask cancels between two coordinates."""
    a_round = Round.of("semi_honest", dimension=64).run_to("masked_input")
    sent = masked_vector_of(a_round, a_round.answer(0))
    plain = a_round.vectors[0].astype(sent.dtype)
    return bool(np.array_equal(np.diff(sent), np.diff(plain)))


# Weakness 10: the public key is the secret key.


class _TransparentKey:
    """Key agreement in which what is published is the secret."""

    def __init__(self, secret: bytes) -> None:
        self.secret = self.public = secret[:-1] + bytes([secret[-1] & 127])  # of a canonical form

    def exchange(self, peer_public: bytes) -> bytes:
        return keys.hkdf(b"".join(sorted((self.public, peer_public))), salt=b"", info=b"", n_bytes=32)


def without_secret_keys(patch: Patch) -> None:
    patch.setattr(keys, "PrivateKey", _TransparentKey)


def pairwise_masks_from_public_keys() -> bool:
    """Take each advertised key for the secret one; the survivor's seed comes from its unmask shares."""
    a_round = Round.of("semi_honest", dimension=64).run_to("masked_input")
    publics, frames = mask_publics_of(a_round), a_round.answers()
    sent = masked_vector_of(a_round, frames[0])
    a_round.close(frames)
    replies = {v: unmask_shares_of(a_round, frame) for v, frame in a_round.answers().items()}
    seed = combined({v: reply.self_mask[0] for v, reply in replies.items()}, 4)
    found = without_masks(
        a_round, sent, 0, mask_key=publics[0], seed=seed, publics=publics, slot_id=round_id(a_round)
    )
    return bool(np.array_equal(found, a_round.vectors[0]))


# Weakness 8: 64 bits for every value.


def without_exact_packing(patch: Patch) -> None:
    patch.setattr(messages, "pack", lambda vector, bits: memoryview(vector.astype("<i8").tobytes()))


def twice_the_bytes_of_the_ring() -> bool:
    """A million values of a 32-bit ring need four megabytes."""
    a_round = Round.of("semi_honest", n_clients=2, threshold=2, dimension=1 << 20)
    a_round.vectors = dict.fromkeys(range(2), np.zeros(1 << 20, dtype=np.uint32))
    return len(a_round.run_to("masked_input").answer(0)) > 1.9 * (4 << 20)


# T11, weakness 7: a ring without headroom, and rounding that is biased or silent.

SMALL_VALUE = 1e-5


def without_a_headroom_proof(patch: Patch) -> None:
    patch.setattr(encoding.FixedPoint, "__post_init__", lambda grid: None)


def a_sum_that_wraps() -> bool:
    """Ten clients at the clip, in a ring with room for four: every coordinate comes out wrong."""
    grid = encoding.FixedPoint(clip=1.0, fraction_bits=5, modulus_bits=8, max_clients=10)
    total = np.zeros(16, dtype=np.uint8)
    for _ in range(10):
        total += grid.encode(np.ones(16)).vector
    return bool(np.all(np.abs(grid.decode(total) - 10.0) > 1.0))


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


def a_small_value_comes_out_biased() -> bool:
    """The mean over 2^20 encodings of 1e-5 on a grid of 2^-16, where ours has a standard error of 0.1 %.

    A fair coin of probability 0.655 has a relative standard error of 0.0007; 2 % is 28 of them.
    """
    grid = encoding.FixedPoint(clip=1.0, fraction_bits=16, modulus_bits=32, max_clients=1)
    decoded = grid.decode(grid.encode(np.full(1 << 20, SMALL_VALUE)).vector)
    return bool(abs(decoded.mean() - SMALL_VALUE) > 0.02 * SMALL_VALUE)


def clipping_nobody_is_told_of() -> bool:
    """Half the values lie beyond the clip; is their owner told?"""
    grid = encoding.FixedPoint(clip=1.0, fraction_bits=16, modulus_bits=32, max_clients=1)
    return grid.encode(np.array([5.0, 0.5, -3.0, 0.1])).n_clipped != 2
