"""Secrets from shares some of which are false: which are survived, who is named, what it may cost."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import combinations
from math import comb

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_fed_diffusion.errors import RecoveryError
from secure_fed_diffusion.secagg import keys, recovery, shamir
from secure_fed_diffusion.secagg.messages import UnmaskShares
from secure_fed_diffusion.secagg.recovery import Recovery

from .hostile import payload_of, signed_frame
from .rounds import Round, fixed_entropy

OWNER = 7
SECRETS = st.integers(0, 2**256 - 1)


def is_secret(secret: int) -> Callable[[bytes], bool]:
    return lambda found: found == secret.to_bytes(32, "little")


def most_survived(n_shares: int, threshold: int) -> int:
    """Written down once more: half of those to spare; more where the choices come to 500 at most."""
    spare = n_shares - threshold
    decoded = spare // 2
    return max(
        size
        for size in range(decoded, spare + 1)
        if sum(comb(n_shares, k) for k in range(decoded + 1, size + 1)) <= 500
    )


# The decoder by itself.


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_false_shares_are_survived_up_to_the_bound_and_never_give_a_wrong_secret(data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 24))
    threshold = data.draw(st.integers(2, n))
    holders = data.draw(st.lists(st.integers(0, 2**32 - 1), min_size=n, max_size=n, unique=True))
    secret = data.draw(SECRETS)
    shares = shamir.split(secret, holders, threshold=threshold, entropy=fixed_entropy())
    at_most = data.draw(st.sampled_from((min(n, (n - threshold) // 2), min(n, n - threshold + 1), n)))
    liars = set(data.draw(st.permutations(holders))[: data.draw(st.integers(0, at_most))])
    if data.draw(st.booleans()):  # each for itself, or all on one other polynomial
        offsets = {v: data.draw(st.integers(1, shamir.PRIME - 1)) for v in liars}
    else:
        other = [data.draw(st.integers(1, shamir.PRIME - 1)) for _ in range(threshold)]
        offsets = shamir.evaluate(other, sorted(liars))
    told = {v: (share + offsets.get(v, 0)) % shamir.PRIME for v, share in shares.items()}
    liars = {v for v in holders if told[v] != shares[v]}

    recover = Recovery(threshold=threshold)
    unnoticed = liars.isdisjoint(holders[:threshold])
    if unnoticed or len(liars) <= most_survived(n, threshold):
        found = recover.secret(OWNER, told, matches=is_secret(secret))
        assert found == secret.to_bytes(32, "little")
        assert recover.suspects == (set() if unnoticed else {(OWNER, liar) for liar in liars})
    else:
        with pytest.raises(RecoveryError, match=f"client {OWNER}'s secret, from {n} holders") as caught:
            recover.secret(OWNER, told, matches=is_secret(secret))
        assert f"at least {most_survived(n, threshold) + 1} disagree" in str(caught.value)
        assert recover.suspects == set()


@pytest.mark.parametrize(("n", "threshold", "n_liars"), [(12, 8, 3), (9, 8, 1), (7, 4, 3), (100, 99, 1)])
def test_where_choices_are_few_more_false_shares_are_survived_than_can_be_decoded(
    n: int, threshold: int, n_liars: int
) -> None:
    assert threshold + n_liars <= n < threshold + 2 * n_liars
    assert n_liars == most_survived(n, threshold)
    shares = shamir.split(5, range(n), threshold=threshold)
    for liars in list(combinations(range(n), n_liars))[:: max(1, comb(n, n_liars) // 30)]:
        recover = Recovery(threshold=threshold)
        told = {v: share * 2 % shamir.PRIME if v in liars else share for v, share in shares.items()}
        assert recover.secret(OWNER, told, matches=is_secret(5))[0] == 5
        noticed = liars[0] < threshold
        assert recover.suspects == ({(OWNER, liar) for liar in liars} if noticed else set())


def test_false_shares_that_decode_to_another_polynomial_do_not_hide_the_right_one() -> None:
    """Three of twelve holders make ten shares agree on a secret of theirs, which is not the published one."""
    shares = shamir.split(5, range(12), threshold=8)
    told = on_another_polynomial(shares, liars=(0, 1, 2), at_zero=1, agreeing=range(5, 12))
    others, off = set(told) - {3, 4}, shamir.locate(shamir.moments(told, threshold=8), told)
    assert off == (3, 4)
    assert shamir.combine({v: told[v] for v in sorted(others)[:8]}, threshold=8) == 6
    recover = Recovery(threshold=8)
    assert recover.secret(OWNER, told, matches=is_secret(5))[0] == 5
    assert recover.suspects == {(OWNER, 0), (OWNER, 1), (OWNER, 2)}


def on_another_polynomial(
    shares: dict[int, int], *, liars: Iterable[int], at_zero: int, agreeing: Iterable[int]
) -> dict[int, int]:
    """The liars' shares on another polynomial, which is right at `agreeing` and off by `at_zero` at zero."""
    offset = [1] if at_zero else [0, 1]
    for holder in agreeing:
        point = holder + 1
        low, high = [*offset, 0], [0, *offset]
        offset = [(h - point * a) % shamir.PRIME for a, h in zip(low, high, strict=True)]
    if at_zero:
        scale = at_zero * pow(offset[0], -1, shamir.PRIME) % shamir.PRIME
        offset = [scale * a % shamir.PRIME for a in offset]
    lies = shamir.evaluate(offset, tuple(liars))
    return {v: (share + lies.get(v, 0)) % shamir.PRIME for v, share in shares.items()}


@pytest.mark.parametrize(
    ("liars", "named"),
    [((8, 9), {8, 9}), ((8, 9, 10), set()), ((8, 9, 10, 11), {0, 1})],
    ids=["as many as are left out", "as many as are left out, ambiguous", "more"],
)
def test_who_is_named_has_lied_unless_more_shares_are_false_than_were_left_out(
    liars: tuple[int, ...], named: set[int]
) -> None:
    """The limit of what a suspect proves: four liars of twelve can have two honest holders named.

    They shift their shares to a polynomial of the same secret that six honest shares lie on too.
    """
    shares = shamir.split(5, range(12), threshold=8)
    told = on_another_polynomial(shares, liars=liars, at_zero=0, agreeing=range(2, 8))
    told = {8: told[8], **told}  # among the first
    recover = Recovery(threshold=8)
    assert recover.secret(OWNER, told, matches=is_secret(5))[0] == 5
    assert {holder for _, holder in recover.suspects} == named


def test_where_several_choices_fit_only_who_is_in_all_of_them_is_named() -> None:
    """Changes by one cancel at small points: without 0, 3 and 9 the lies of 4 and 7 give the secret too."""
    shares = dict.fromkeys(range(11), 5) | {0: 6, 4: 4, 7: 4}  # of the polynomial 5
    moments = shamir.moments(shares, threshold=8)
    assert shamir.leave_out(moments, (0, 4, 7)) == shamir.leave_out(moments, (0, 3, 9)) == 5
    recover = Recovery(threshold=8)
    assert recover.secret(OWNER, shares, matches=is_secret(5))[0] == 5
    assert recover.suspects == {(OWNER, 0)}


def test_a_secret_that_fits_no_published_value_names_nobody() -> None:
    """All shares lie on one polynomial: it was the owner that published something else."""
    recover = Recovery(threshold=4)
    for n in (4, 5, 9, 30):
        shares = shamir.split(5, range(n), threshold=4)
        with pytest.raises(RecoveryError, match="it or a holder lied") as caught:
            recover.secret(OWNER, shares, matches=is_secret(6))
        assert caught.value.culprits == ()
    assert recover.suspects == set()


# What it may cost.


@pytest.mark.parametrize(("n", "threshold"), [(600, 599), (32, 30), (15, 12), (12, 8), (11, 6), (100, 67)])
def test_however_false_the_shares_are_the_trials_are_bounded(n: int, threshold: int) -> None:
    checked = 0

    def never(secret: bytes) -> bool:
        nonlocal checked
        checked += 1
        return False

    shares = dict(enumerate(range(1, n + 1)))
    shares[0] = 10**70  # or all lie on a line
    with pytest.raises(RecoveryError):
        Recovery(threshold=threshold).secret(OWNER, shares, matches=never)
    assert checked <= 2 + max(500, n)


@pytest.fixture
def decodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many shares each decoding since was given."""
    decoded: list[int] = []
    whole = shamir.moments

    def counted(shares: dict[int, int], **options: object) -> tuple[int, ...]:
        decoded.append(len(shares))
        return whole(shares, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(shamir, "moments", counted)
    return decoded


def recover_all(recover: Recovery, *, n: int, threshold: int, liars: Iterable[int]) -> None:
    """Each of n owners' secrets from n holders, these of which lie about every one."""
    for owner in range(n):
        shares = shamir.split(owner, range(n), threshold=threshold)
        told = {v: share ^ 1 if v in set(liars) else share for v, share in shares.items()}
        assert recover.secret(owner, told, matches=is_secret(owner))[0] == owner


def test_each_false_share_of_each_owner_is_named_at_one_decoding_an_owner(decodings: list[int]) -> None:
    recover = Recovery(threshold=12)
    recover_all(recover, n=20, threshold=12, liars=(0, 3, 11, 19))
    assert decodings == [20] * 20
    assert recover.suspects == {(owner, liar) for owner in range(20) for liar in (0, 3, 11, 19)}


def test_once_decoding_took_its_time_liars_that_are_known_cost_no_more(
    decodings: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "_THOROUGH", 3 * 20 * 9)  # the third owner's decoding uses it up
    recover = Recovery(threshold=12)
    recover_all(recover, n=20, threshold=12, liars=(0, 3, 11, 19))
    assert decodings == [20] * 3
    assert recover.suspects == {(owner, liar) for owner in range(3) for liar in (0, 3, 11, 19)}


def test_what_trials_cost_is_counted_too(decodings: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "_THOROUGH", 2 * 200 * 13)  # two owners' trials, hundreds of decodings
    recover = Recovery(threshold=12)
    recover_all(recover, n=13, threshold=12, liars=(4,))
    assert len(decodings) == 2


def test_honest_holders_that_lying_owners_made_suspects_do_not_shield_a_lying_one(
    decodings: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten owners deal false shares, so that everybody is suspected; holder 5 lies about all the others."""
    monkeypatch.setattr(recovery, "_THOROUGH", 0)
    n, threshold, recover = 20, 12, Recovery(threshold=12)
    for owner in range(200):
        shares = shamir.split(owner, range(n), threshold=threshold)
        victims = {(owner * 4 + k) % n for k in range(4)} if owner < 10 else {5}
        told = {v: share ^ 1 if v in victims else share for v, share in shares.items()}
        assert recover.secret(owner, told, matches=is_secret(owner))[0] == owner
    assert len(decodings) <= 10 + 3  # it is soon suspected more often than any of them
    assert len(recover._weights) == 2  # all, and those used now; not each set that was tried


# A whole round.


def with_false_shares(a_round: Round, frames: dict[int, bytes], liars: Iterable[int]) -> dict[int, bytes]:
    """The unmask frames of these clients with every share changed, under their own signatures."""
    changed = dict(frames)
    for liar in liars:
        reply = UnmaskShares.decode(payload_of(a_round, frames[liar]))
        lie = UnmaskShares(
            self_mask={v: share * 2 % shamir.PRIME for v, share in reply.self_mask.items()},
            mask_key={v: share * 2 % shamir.PRIME for v, share in reply.mask_key.items()},
        )
        changed[liar] = signed_frame(a_round, liar, frames[liar], lie.encode())
    return changed


@pytest.mark.parametrize("profile", ["semi_honest", "active"])
@pytest.mark.parametrize("gone", [{}, {11: "masked_input"}], ids=["all here", "one gone"])
@pytest.mark.parametrize("liars", [(0, 1), (2, 7), (0, 4, 7)])
def test_a_round_of_twelve_with_several_lying_holders_is_exact_and_each_is_named(
    liars: tuple[int, ...], gone: dict[int, str], profile: str
) -> None:
    """With one client gone the server puts its mask key together as well, of eleven shares."""
    a_round = Round.of(profile, n_clients=12, threshold=8).run_to("unmask", dropouts=gone)
    a_round.close(with_false_shares(a_round, a_round.answers(), liars))
    assert a_round.server.phase == "done"
    assert a_round.is_exact()
    assert set(a_round.server.suspects) == {(owner, liar) for owner in range(12) for liar in liars}


@pytest.mark.parametrize("profile", ["semi_honest", "active"])
def test_one_liar_more_than_can_be_corrected_ends_the_round_with_how_many_shares_disagree(
    profile: str,
) -> None:
    a_round = Round.of(profile, n_clients=12, threshold=8).run_to("unmask")
    frames = with_false_shares(a_round, a_round.answers(), range(4))
    with pytest.raises(
        RecoveryError, match=r"client 0's secret, from 12 holders.*at least 4 disagree"
    ) as caught:
        a_round.close(frames)
    assert caught.value.culprits == ()
    assert a_round.server.suspects == ()
    assert a_round.server.phase == "failed"


def test_an_owner_that_dealt_false_shares_stands_in_each_pair_that_is_named() -> None:
    """As when its sealed shares were false: client 3's alone do not fit, from two holders and itself."""
    a_round = Round.of("active", n_clients=12, threshold=8).run_to("unmask")
    frames = a_round.answers()
    for holder in (1, 3):
        reply = UnmaskShares.decode(payload_of(a_round, frames[holder]))
        given = UnmaskShares(self_mask={**reply.self_mask, 3: reply.self_mask[3] ^ 1}, mask_key={})
        frames[holder] = signed_frame(a_round, holder, frames[holder], given.encode())
    a_round.close(frames)
    assert a_round.is_exact()
    assert a_round.server.suspects == ((3, 1), (3, 3))  # the latter: client 3 lied


def test_a_mask_key_is_found_by_its_public_key_among_false_shares() -> None:
    key = keys.PrivateKey(fixed_entropy()(32))
    shares = shamir.split(int.from_bytes(key.secret, "little"), range(12), threshold=8)
    recover = Recovery(threshold=8)
    told = {**shares, 2: shares[2] ^ 4, 6: 0, 9: 1}
    found = recover.secret(OWNER, told, matches=lambda secret: keys.PrivateKey(secret).public == key.public)
    assert found == key.secret
    assert recover.suspects == {(OWNER, 2), (OWNER, 6), (OWNER, 9)}
