"""What the server sees of one client is uniform on the ring, on every bit.

Each test draws 2^16 or more values with fixed keys and compares a chi-square statistic with a bound
that a uniform source exceeds with the stated probability; masking is deterministic given the keys,
so the tests do not flicker.
"""

from __future__ import annotations

import numpy as np
import pytest

from secure_fed_diffusion.secagg import codec, encoding, masks

from .rounds import Round, make_params, make_session

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
