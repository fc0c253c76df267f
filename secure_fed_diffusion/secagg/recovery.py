"""Secrets from the shares of those who answered, each checked against what its owner published.

The first t of the m shares are combined.  If they do not give the published secret, all m are decoded:
floor((m - t) / 2) false ones are corrected, whatever they are.  If that does not give it either, more
holders are left out by trial, as many as all choices of so many, and of fewer, come to 500 (or to one for
each holder).  With t = 8 of 12 holders two false shares are decoded and three found by trial.  A false
share that is not needed goes unnoticed, and changes nothing.

Who is left out is noted as a pair (owner, holder); where several choices of as many give the secret, only
who is in all of them.  The holder changed the share, or the owner dealt a false one, or, where frames bear
no signature, somebody changed it on its way.  Which of these, nobody can prove: what is sealed between two
clients has no witness.  So the pair is suspected and neither is accused; where both are one client and
frames are signed, it is that client.  A pair is wrong only if more shares of the secret were false than
were left out, and made to fit: the sum is right all the same, but an honest holder may be named.

Cost: a decoding takes some m (m - t) multiplications in the field; 100 holders of 100 owners' secrets,
16 shares of each false, take 0.2 s in all.  A trial takes 0.1 ms at most.  Whoever lies about every
owner's share has each of them decoded, until that took some ten seconds in one set-up; from then on
those who were left out least often are used first: a liar that is known costs no more decoding, and its
further pairs are not noted.  What is left is at most one decoding a round for each owner, some 0.2 s where it
has 1,000 holders: owners who deal false shares cost theirs, and may make holders look so much like liars
that others' shares are decoded too.

Not protected against: more false shares than these; the round ends with an error, never a wrong sum.

>>> recover = Recovery(threshold=2)
>>> shares = shamir.split(7, range(6), threshold=2) | {1: 0, 4: 0}
>>> recover.secret(0, shares, matches=lambda secret: secret[0] == 7 and not any(secret[1:]))[0]
7
>>> sorted(recover.suspects)
[(0, 1), (0, 4)]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from math import comb

from ..errors import RecoveryError
from . import shamir
from .keys import KEY_BYTES

_MAX_CHOICES = 500
_TRIAL = 200  # what the check of a secret takes, in multiplications
_THOROUGH = 20_000_000  # multiplications, in one set-up, for naming every false share


class Recovery:
    """Recover secrets; the Lagrange weights of each set of holders are computed once."""

    def __init__(self, *, threshold: int) -> None:
        self._threshold = threshold
        self._weights: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._times_left_out: Counter[int] = Counter()
        self._spent = 0
        self.suspects: set[tuple[int, int]] = set()

    def secret(self, owner: int, shares: Mapping[int, int], *, matches: Callable[[bytes], bool]) -> bytes:
        """Return the 32-byte secret of `owner` that `matches` accepts, from `shares` by holder.

        Guarantees: nothing that `matches` refuses is returned; floor((m - t) / 2) false shares of m are
        survived.

        Raises:
            RecoveryError: too many are false; it says how many at least.
        """
        holders, t = tuple(shares), self._threshold
        used = self._in_order_of_use(holders)[:t]
        value = shamir.combine({v: shares[v] for v in used}, threshold=t, weights=self._lagrange(used))
        found = _checked(value, matches)
        if found is not None:
            return found
        if self._spent >= _THOROUGH:
            del self._weights[used]  # the order changes: as many sets may come as owners
        max_left_out = self._max_left_out(len(holders))
        moments = shamir.moments(shares, threshold=t, weights=self._lagrange(holders))
        self._spent += len(holders) * len(moments)
        for choices in self._choices(moments, holders, max_left_out):
            fitting: dict[tuple[int, ...], bytes] = {}
            for left_out in choices:
                found = _checked(shamir.leave_out(moments, left_out), matches)
                if found is not None:
                    fitting[left_out] = found
            if fitting:
                named = frozenset.intersection(*map(frozenset, fitting))
                self.suspects.update((owner, holder) for holder in named)
                first, found = next(iter(fitting.items()))
                self._times_left_out.update(first)
                return found
        raise RecoveryError(
            f"the shares of client {owner}'s secret, from {len(holders)} holders, do not give what it "
            f"published: at least {max_left_out + 1} disagree with it, where {max_left_out} can be left out "
            f"with threshold={t}; it or a holder lied"
        )

    def _in_order_of_use(self, holders: tuple[int, ...]) -> tuple[int, ...]:
        if self._spent < _THOROUGH:
            return holders
        return tuple(sorted(holders, key=self._times_left_out.__getitem__))

    def _choices(
        self, moments: Sequence[int], holders: tuple[int, ...], max_left_out: int
    ) -> Iterator[Iterable[tuple[int, ...]]]:
        """Yield whom to leave out: who is located, then all choices of as many, for each number tried."""
        located = shamir.locate(moments, holders)
        if located is not None:
            yield (located,)
        for size in range((len(moments) - 1) // 2 + 1, max_left_out + 1):
            self._spent += _TRIAL * comb(len(holders), size)
            yield combinations(holders, size)

    def _max_left_out(self, n_shares: int) -> int:
        """Return how many false shares are survived: half of those to spare, more where choices are few."""
        spare = n_shares - self._threshold
        size, choices = spare // 2, 0
        while size < spare:
            choices += comb(n_shares, size + 1)
            if choices > max(_MAX_CHOICES, n_shares):
                break
            size += 1
        return size

    def _lagrange(self, holders: tuple[int, ...]) -> tuple[int, ...]:
        if holders not in self._weights:
            self._weights[holders] = shamir.lagrange(holders)
        return self._weights[holders]


def _checked(value: int | None, matches: Callable[[bytes], bool]) -> bytes | None:
    if value is None or value >> (8 * KEY_BYTES):
        return None
    secret = value.to_bytes(KEY_BYTES, "little")
    return secret if matches(secret) else None
