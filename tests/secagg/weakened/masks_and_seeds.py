"""Masks that are weak, shared or used twice (T8, T9, T10; weaknesses 1 and 10 of the reference)."""

from __future__ import annotations

import struct

import numpy as np

from secure_fed_diffusion.secagg import encoding, keys, masks
from threat_models.weakened.masks_and_seeds import APPLY, MASK_KEY

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

_SEED_SPACE = 1 << 16


# T10, weakness 1: the secret is folded by XOR before it becomes a seed.


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
    APPLY(vector, minus=[own.stream, to_dropped.stream])
    context = struct.pack("<II", 0, 1)
    for candidate in range(_SEED_SPACE):
        key = MASK_KEY(struct.pack("<H", candidate), keys.LABEL_PAIR_MASK, slot_id, context)
        guess = vector[:8].copy()
        APPLY(guess, minus=[key.stream])
        if guess.max() < 1 << 12:
            whole = vector.copy()
            APPLY(whole, minus=[key.stream])
            return bool(np.array_equal(whole, a_round.vectors[0]))
    return False


# Weakness 1: masks that never take the largest value; weakness 3: at modulus 2 they are all zero.


def a_mask_value_that_never_occurs() -> bool:
    """Missing by chance has probability (1 - 1/256)^65536, below 1e-111."""
    mask = np.zeros(1 << 16, dtype=np.uint8)
    masks.apply(mask, plus=[b"k" * 32])
    return len(np.unique(mask)) < 256


def signs_in_clear_at_modulus_two() -> bool:
    """With a modulus of 2 what is sent is the sign bits."""
    a_round = Round.of("semi_honest", modulus_bits=1)
    frame = a_round.run_to("masked_input").answer(0)
    sent = np.unpackbits(np.frombuffer(payload_of(a_round, frame), dtype=np.uint8), bitorder="little")
    return bool(np.array_equal(sent[:16], a_round.vectors[0] % 2))


# T9, weakness 10: the same masks twice.


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


def differences_within_one_vector() -> bool:
    """A scalar mask cancels between two coordinates."""
    a_round = Round.of("semi_honest", dimension=64).run_to("masked_input")
    sent = masked_vector_of(a_round, a_round.answer(0))
    plain = a_round.vectors[0].astype(sent.dtype)
    return bool(np.array_equal(np.diff(sent), np.diff(plain)))


# Weakness 10: the public key is the secret key.


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


def twice_the_bytes_of_the_ring() -> bool:
    """A million values of a 32-bit ring need four megabytes."""
    a_round = Round.of("semi_honest", n_clients=2, threshold=2, dimension=1 << 20)
    a_round.vectors = dict.fromkeys(range(2), np.zeros(1 << 20, dtype=np.uint32))
    return len(a_round.run_to("masked_input").answer(0)) > 1.9 * (4 << 20)


# T11, weakness 7: a ring without headroom, and rounding that is biased or silent.

SMALL_VALUE = 1e-5


def a_sum_that_wraps() -> bool:
    """Ten clients at the clip, in a ring with room for four: every coordinate comes out wrong."""
    grid = encoding.FixedPoint(clip=1.0, fraction_bits=5, modulus_bits=8, max_clients=10)
    total = np.zeros(16, dtype=np.uint8)
    for _ in range(10):
        total += grid.encode(np.ones(16)).vector
    return bool(np.all(np.abs(grid.decode(total) - 10.0) > 1.0))


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
