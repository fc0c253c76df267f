"""The tag of a verifiable sum: linear, exact, and forged no more often than stated."""

from __future__ import annotations

from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_fed_diffusion.secagg import tag


def a_key(label: bytes = b"") -> tag.TagKey:
    return tag.TagKey(secret=b"k" * 32, slot_id=sha256(label).digest())


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.lists(st.integers(-(2**55), 2**55), min_size=3, max_size=3), min_size=1, max_size=5))
def test_tags_add_up_to_the_tag_of_the_sum(rows: list[list[int]]) -> None:
    key, inputs = a_key(), [np.array(row, dtype=np.int64) for row in rows]
    total = sum(key.tag(i, x) for i, x in enumerate(inputs)) % tag.PRIME
    assert key.accepts(np.sum(inputs, axis=0), range(len(inputs)), total)
    assert not key.accepts(np.sum(inputs, axis=0) + 1, range(len(inputs)), total)
    assert not key.accepts(np.sum(inputs, axis=0), range(1, len(inputs) + 1), total)


@pytest.mark.parametrize("dimension", [1, 2, tag._CHUNK - 1, tag._CHUNK, tag._CHUNK + 1])
def test_the_inner_product_is_exact_at_the_largest_values_and_across_chunks(dimension: int) -> None:
    """Against Python's integers; floating point inside must not round."""
    key, generator = a_key(), np.random.default_rng(dimension)
    extreme = 2**59
    for values in (
        np.full(dimension, extreme, dtype=np.int64),
        np.full(dimension, -extreme, dtype=np.int64),
        generator.integers(-extreme, extreme, dimension),
    ):
        unit = [np.arange(dimension) == j for j in {0, dimension // 2, dimension - 1}]
        assert all(0 <= key._inner_product(row.astype(np.int64)) < tag.PRIME for row in unit)
        words = np.empty(dimension, dtype="<u8")
        tag.Keystream(
            tag.derive(key.secret, label=tag.LABEL_VECTOR, session_id=key.slot_id, context=b"")
        ).fill(words)
        expected = sum((int(w) & tag.PRIME) * int(x) for w, x in zip(words, values, strict=True)) % tag.PRIME
        assert key._inner_product(values) == expected


@pytest.mark.parametrize(
    ("difference", "tag_difference", "residues"),
    [([1, 0], 0, 2), ([1, 0], 1, 1), ([3, 0], 5, 1), ([1, 1], 0, 1), ([126, 1], 64, 1), ([0, 1], 126, 1)],
)
def test_a_forgery_passes_with_the_stated_probability_on_a_toy_prime(
    difference: list[int], tag_difference: int, residues: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2^7 - 1 in the place of 2^61 - 1, a Mersenne prime too, so that the code is the same.

    A word of 7 bits hits a residue with probability 1/128, zero (0 and 127) with 2/128: the bound that
    the module states as 2/2^61.  6,000 keys; six standard deviations, 2e-9.
    """
    monkeypatch.setattr(tag, "PRIME", 127)
    total, n = np.array([5, 9]), 6000
    forged = total + np.array(difference)
    passed = 0
    for i in range(n):
        key = a_key(i.to_bytes(4, "little"))
        honest = key.tag(1, total)
        assert key.accepts(total, (1,), honest)
        passed += key.accepts(forged, (1,), (honest + tag_difference) % 127)
    expected = n * residues / 128
    assert abs(passed - expected) < 6 * np.sqrt(expected), (passed, expected)


def test_the_tag_that_the_server_sees_is_uniform_whatever_the_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pads are one-time.  Chi-square with 126 degrees of freedom stays under 250 but for 1e-9."""
    monkeypatch.setattr(tag, "PRIME", 127)
    for vector in ([0, 0], [1, 0], [12, -50]):
        seen = np.zeros(127)
        for i in range(5080):
            seen[a_key(i.to_bytes(4, "little")).tag(1, np.array(vector))] += 1
        assert np.sum((seen - 40) ** 2 / 40) < 250


def test_the_group_key_depends_on_every_contribution() -> None:
    parts = {v: bytes([v]) * 32 for v in range(5)}
    keys = {tag.GroupKey.combine(parts, session_id=bytes(32)).secret}
    for v in parts:
        keys.add(tag.GroupKey.combine({**parts, v: b"x" * 32}, session_id=bytes(32)).secret)
        left = {u: part for u, part in parts.items() if u != v}
        keys.add(tag.GroupKey.combine(left, session_id=bytes(32)).secret)
    keys.add(tag.GroupKey.combine(parts, session_id=b"s" * 32).secret)
    assert len(keys) == 12
