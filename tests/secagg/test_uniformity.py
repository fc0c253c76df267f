"""What the server sees of one client is uniform: every bit of the ring, every residue of the tags.

Each test draws 2^16 or more values with fixed keys and compares a chi-square statistic with a bound
that a uniform source exceeds with the stated probability; masking is deterministic given the keys,
so the tests do not flicker.
"""

from __future__ import annotations

from hashlib import sha256

import numpy as np
import pytest

from secure_fed_diffusion.secagg import codec, encoding, keys, masks
from secure_fed_diffusion.secagg.messages import MaskedInput
from secure_fed_diffusion.secagg.tag import PRIME, wide

from .rounds import CASES, Round, make_params, make_session

N_VALUES = 1 << 16


def masked(modulus_bits: int, vector: np.ndarray | None = None) -> np.ndarray:
    session = make_session(make_params(3, 2, dimension=N_VALUES, modulus_bits=modulus_bits))
    a_round = Round(session)
    a_round.vectors[1] = np.zeros(N_VALUES, dtype=np.uint8) if vector is None else vector
    frame = a_round.run_to("masked_input").answer(1)
    return encoding.unpack(memoryview(frame)[codec.HEADER_BYTES :], N_VALUES, modulus_bits)


@pytest.mark.parametrize("modulus_bits", [8, 12, 20, 32, 64])
def test_every_bit_of_a_masked_zero_vector_is_fair(modulus_bits: int) -> None:
    """Error probability 2e-9 a bit (six standard deviations), 3e-7 in all."""
    values = masked(modulus_bits)
    for bit in range(modulus_bits):
        ones = int(np.count_nonzero(values >> values.dtype.type(bit) & values.dtype.type(1)))
        assert abs(ones - N_VALUES / 2) < 6 * np.sqrt(N_VALUES) / 2, bit


@pytest.mark.parametrize("constant", [0, 255])
def test_an_8_bit_ring_is_hit_evenly_in_every_value_the_largest_included(constant: int) -> None:
    """Chi-square with 255 degrees of freedom stays under 400 but for 1e-8."""
    values = masked(8, np.full(N_VALUES, constant, dtype=np.uint8))
    counts = np.bincount(values, minlength=256)
    expected = N_VALUES / 256
    assert np.sum((counts - expected) ** 2 / expected) < 400
    assert counts[255] > 0
    assert counts[0] > 0


def test_the_largest_value_of_a_12_bit_ring_occurs() -> None:
    """Missing it has probability (1 - 2^-12)^65536 = 1e-7."""
    assert 4095 in masked(12)
    assert masked(12).max() == 4095


def test_a_biased_vector_fails_the_same_statistic() -> None:
    """The control: without masks, the vector itself."""
    counts = np.bincount(np.full(N_VALUES, 7, dtype=np.uint8), minlength=256)
    assert np.sum((counts - N_VALUES / 256) ** 2 / (N_VALUES / 256)) > 400


def test_masks_that_are_added_and_taken_cancel_across_chunks_and_batches() -> None:
    key_list = [bytes([i % 256, i // 256]) * 16 for i in range(masks._KEYS_AT_ONCE + 3)]
    for dtype in ("<u1", "<u2", "<u4", "<u8"):
        n = masks.CHUNK_BYTES // np.dtype(dtype).itemsize + 3
        vector = np.arange(n).astype(dtype)
        before = vector.copy()
        masks.apply(vector, plus=key_list[:2])
        assert not np.array_equal(vector, before)
        masks.apply(vector, minus=key_list[:2])
        assert np.array_equal(vector, before)
    small = np.zeros(5, dtype="<u4")
    masks.apply(small, plus=key_list)
    masks.apply(small, minus=key_list[::-1])
    assert not small.any()


def test_a_mask_of_a_longer_vector_starts_like_that_of_a_shorter_one() -> None:
    """The chunk size is no part of the protocol."""
    short, long = np.zeros(1000, dtype="<u4"), np.zeros(masks.CHUNK_BYTES, dtype="<u4")
    masks.apply(short, plus=[b"k" * 32])
    masks.apply(long, plus=[b"k" * 32])
    assert np.array_equal(long[:1000], short)
    assert len(np.unique(long)) > 0.999 * len(long)


MASKED = [case for case in CASES if case != "unsafe_unmasked"]
N_ROUNDS = 3


def masked_in_every_round(case: str) -> list[np.ndarray]:
    """One client's masked inputs of the same vector in each round of one set-up, and another client's."""
    a_round = Round.of(case, dimension=N_VALUES, modulus_bits=16, n_rounds=N_ROUNDS)
    params, seen = a_round.session.params, []
    zero = np.zeros(N_VALUES, dtype=np.uint16)
    for number in range(N_ROUNDS):
        if number:
            a_round.begin(number)
        a_round.vectors = dict.fromkeys(a_round.session.cohort, zero)
        a_round.run_to("masked_input")
        frames = {v: a_round.answer(v) for v in a_round.inbox}
        watched = (1, 2) if number == 0 else (1,)
        n_packed = codec.HEADER_BYTES + params.frame_vector_bytes
        seen += [
            encoding.unpack(memoryview(frames[v])[codec.HEADER_BYTES : n_packed], N_VALUES, 16)
            for v in watched
        ]
        a_round.close(frames)
        a_round.finish()
        assert not a_round.server.total.any()
    return seen


@pytest.mark.parametrize("case", MASKED)
def test_masks_of_different_rounds_and_clients_are_independent(case: str) -> None:
    """Each of 16 bits of each stream and each difference, 6 standard deviations: 2e-9 each, 4e-7 in all.

    The counts of the high bytes of the differences: chi-square under 400 but for 1e-8 each.
    """
    seen = masked_in_every_round(case)
    assert len(seen) == N_ROUNDS + 1
    streams = list(seen)
    streams += [a - b for i, a in enumerate(seen) for b in seen[:i]]
    for stream in streams:
        for bit in range(16):
            ones = int(np.count_nonzero(stream >> np.uint16(bit) & np.uint16(1)))
            assert abs(ones - N_VALUES / 2) < 6 * np.sqrt(N_VALUES) / 2, bit
        counts = np.bincount(stream >> 8, minlength=256)
        assert np.sum((counts - N_VALUES / 256) ** 2 / (N_VALUES / 256)) < 400


def masked_tags(n_rounds: int) -> list[int]:
    """One client's masked tags of the zero vector, whose own tag is its pad."""
    a_round = Round.of("verifiable", n_clients=3, threshold=2, dimension=1, n_rounds=n_rounds)
    params, tags = a_round.session.params, []
    for number in range(n_rounds):
        if number:
            a_round.begin(number)
        a_round.vectors = {v: np.zeros(1, dtype=np.uint32) for v in a_round.session.cohort}
        frames = a_round.run_to("masked_input").answers()
        payload = memoryview(frames[1])[codec.HEADER_BYTES : -64]
        tags.append(MaskedInput.decode(payload, params).tag)
    return tags


def test_masked_tags_are_uniform_modulo_the_prime_in_every_bit() -> None:
    """61 bits of 256 tags, 6 standard deviations: 2e-9 each, 1.2e-7 in all; 16 bins: chi-square 15, 1e-8."""
    tags = masked_tags(256)
    assert len(set(tags)) == 256
    assert max(tags) < PRIME
    for bit in range(61):
        ones = sum(value >> bit & 1 for value in tags)
        assert abs(ones - 128) < 6 * 8, bit
    counts = np.bincount([value >> 57 for value in tags], minlength=16)
    assert np.sum((counts - 16) ** 2 / 16) < 68


def test_the_same_statistics_fail_where_a_round_s_masks_are_used_twice() -> None:
    """The control: the difference of two masked vectors under one mask is that of the vectors."""
    first = masked(8, np.full(N_VALUES, 3, dtype=np.uint8))
    difference = first - masked(8, np.full(N_VALUES, 2, dtype=np.uint8))
    counts = np.bincount(difference, minlength=256)
    assert np.sum((counts - N_VALUES / 256) ** 2 / (N_VALUES / 256)) > 400


def test_each_mask_of_a_tag_is_uniform_by_itself() -> None:
    """61 bits of 4,096 masks, 6 standard deviations: 1.2e-7 in all; 64 bins: chi-square under 140, 1e-7."""
    n = 4096
    slots = [sha256(b"slot %d" % i).digest() for i in range(n)]
    drawn = [wide(keys.self_mask_key(bytes(32), slot_id=slot, client_id=1).tag) for slot in slots]
    for bit in range(61):
        ones = sum(value >> bit & 1 for value in drawn)
        assert abs(ones - n / 2) < 6 * 32, bit
    counts = np.bincount([value >> 55 for value in drawn], minlength=64)
    assert np.sum((counts - n / 64) ** 2 / (n / 64)) < 140
