"""Shamir's sharing: what t shares give and what t - 1 do not, and which of more are false."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_fed_diffusion.errors import FrameError, RecoveryError
from secure_fed_diffusion.secagg import seal, shamir

from .rounds import fixed_entropy, make_params


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_threshold_shares_give_the_secret(data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 20))
    threshold = data.draw(st.integers(2, n))
    holders = data.draw(st.lists(st.integers(0, 2**32 - 1), min_size=n, max_size=n, unique=True))
    secret = data.draw(st.integers(0, 2**256 - 1))
    shares = shamir.split(secret, holders, threshold=threshold, entropy=fixed_entropy())
    chosen = data.draw(st.permutations(holders))[:threshold]
    assert shamir.combine({v: shares[v] for v in chosen}, threshold=threshold) == secret


@pytest.mark.parametrize("prime", [7, 11])
@pytest.mark.parametrize("threshold", [2, 3])
def test_fewer_shares_than_the_threshold_are_independent_of_the_secret(prime: int, threshold: int) -> None:
    """Exhaustive: for every secret, each value of any t - 1 shares comes from equally many polynomials."""
    holders = range(5)
    for seen_by in combinations(holders, threshold - 1):
        views = []
        for secret in range(prime):
            view: Counter[tuple[int, ...]] = Counter()
            for random in product(range(prime), repeat=threshold - 1):
                shares = shamir.evaluate((secret, *random), holders, prime=prime)
                view[tuple(shares[v] for v in seen_by)] += 1
            views.append(view)
        assert all(view == views[0] for view in views)
        assert set(views[0].values()) == {1}
        assert len(views[0]) == prime ** (threshold - 1)


def test_the_threshold_of_shares_is_not_independent_of_the_secret() -> None:
    """The positive control of the test above."""
    views = [
        {tuple(shamir.evaluate((secret, a), (0, 1), prime=7).values()) for a in range(7)} for secret in (0, 1)
    ]
    assert not views[0] & views[1]


def test_exactly_the_threshold_of_shares_is_taken() -> None:
    shares = shamir.split(5, (0, 1, 2, 3), threshold=3)
    for count in (2, 4):
        few = dict(list(shares.items())[:count])
        with pytest.raises(RecoveryError, match="exactly threshold=3"):
            shamir.combine(few, threshold=3)


def test_false_shares_are_located_wherever_there_is_one_nearest_polynomial() -> None:
    """Exhaustive, up to a constant: five shares over a field of seven, threshold two, so one is corrected."""
    lines = [
        (secret, tuple(shamir.evaluate((secret, slope), range(5), prime=7).values()))
        for secret, slope in product(range(7), repeat=2)
    ]
    located: Counter[tuple[int, ...] | None] = Counter()
    for word in product((0,), *[range(7)] * 4):
        moments = shamir.moments(dict(enumerate(word)), threshold=2, prime=7)
        off = {tuple(v for v in range(5) if word[v] != line[v]): secret for secret, line in lines}
        near = {places: secret for places, secret in off.items() if len(places) <= 1}
        found = shamir.locate(moments, range(5), prime=7)
        assert [found] == (list(near) or [None])
        located[found] += 1
        if found is not None:
            assert shamir.leave_out(moments, found, prime=7) == near[found]
    assert located[()] == 7
    assert all(located[(v,)] == 7 * 6 for v in range(5))
    assert located[None] == 7**4 - 7 - 5 * 7 * 6


def test_whoever_is_left_out_the_others_give_the_secret_if_and_only_if_they_agree() -> None:
    """Every choice of up to three of five holders, of every word whose first two shares are 0 and 1."""
    lines = [
        (secret, shamir.evaluate((secret, slope), range(5), prime=7))
        for secret, slope in product(range(7), repeat=2)
    ]
    for rest in product(range(7), repeat=3):
        word = dict(enumerate((0, 1, *rest)))
        moments = shamir.moments(word, threshold=2, prime=7)
        for size in range(4):
            for left_out in combinations(range(5), size):
                kept = [v for v in range(5) if v not in left_out]
                through = [secret for secret, line in lines if all(line[v] == word[v] for v in kept)]
                assert [shamir.leave_out(moments, left_out, prime=7)] == (through or [None])


def test_below_the_threshold_nothing_is_decoded() -> None:
    shares = shamir.split(5, (0, 1, 2, 3), threshold=3)
    with pytest.raises(RecoveryError, match="at least threshold=3 shares, got 2"):
        shamir.moments({v: shares[v] for v in (0, 1)}, threshold=3)
    moments = shamir.moments(shares, threshold=3)
    assert shamir.leave_out(moments, (2,)) == 5
    with pytest.raises(RecoveryError, match="at most 1 shares to leave out, got 2"):
        shamir.leave_out(moments, (0, 1))


def test_points_that_coincide_in_the_field_are_refused() -> None:
    with pytest.raises(RecoveryError, match="distinct"):
        shamir.lagrange((0, 7), prime=7)
    with pytest.raises(RecoveryError, match="non-zero"):
        shamir.lagrange((6, 1), prime=7)


def test_a_secret_outside_the_field_is_refused() -> None:
    with pytest.raises(RecoveryError):
        shamir.split(shamir.PRIME, (0, 1), threshold=2)


def test_coefficients_spread_over_the_whole_field() -> None:
    """The leading half of the field is hit as often as the other; error probability 2e-9."""
    entropy = fixed_entropy()
    slopes = [shamir.split(0, (0,), threshold=2, entropy=entropy)[0] for _ in range(400)]
    high = sum(slope > shamir.PRIME // 2 for slope in slopes)
    assert 140 <= high <= 260  # six standard deviations
    assert len(set(slopes)) == 400


@pytest.mark.parametrize("contribution", [b"", b"c" * seal.CONTRIBUTION_BYTES])
@pytest.mark.parametrize("n_rounds", [1, 3])
def test_sealed_shares_open_for_their_receiver_alone(n_rounds: int, contribution: bytes) -> None:
    pairs = tuple(seal.SharePair(mask_key=shamir.PRIME - 1 - r, self_mask=r) for r in range(n_rounds))
    entrusted = seal.Entrusted(pairs, contribution)
    context: dict[str, Any] = {"session_id": b"s" * 32, "sender": 1, "receiver": 2}
    sealed = seal.seal(b"k" * 32, entrusted, **context)
    params = make_params(
        n_rounds=n_rounds, **({"profile": "active", "verifiable": True} if contribution else {})
    )
    assert len(sealed) == seal.sealed_bytes(params)

    def opened(data: bytes, **changes: Any) -> seal.Entrusted:
        return seal.unseal(b"k" * 32, data, n_rounds=n_rounds, **(context | changes))

    assert opened(sealed) == entrusted
    for change in ({"session_id": b"t" * 32}, {"sender": 2}, {"receiver": 1}, {"sender": 2, "receiver": 1}):
        with pytest.raises(FrameError, match="do not open"):
            opened(sealed, **change)
    for byte in range(len(sealed)):
        altered = bytearray(sealed)
        altered[byte] ^= 0x80
        with pytest.raises(FrameError):
            opened(bytes(altered))


def test_a_share_outside_the_field_is_refused() -> None:
    for value in (shamir.PRIME, 2**264 - 1):
        with pytest.raises(FrameError, match="outside the field"):
            seal.decode_share(value.to_bytes(33, "little"))
    assert seal.decode_share((shamir.PRIME - 1).to_bytes(33, "little")) == shamir.PRIME - 1


@pytest.mark.parametrize("length", [0, 1, 15, 16, 81, 83])
def test_sealed_shares_of_another_length_are_refused(length: int) -> None:
    with pytest.raises(FrameError):
        seal.unseal(bytes(32), bytes(length), session_id=bytes(32), sender=1, receiver=2, n_rounds=1)
