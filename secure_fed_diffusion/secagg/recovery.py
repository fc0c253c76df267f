"""Secrets from the shares of those who answered, each checked against what its owner published.

Exactly t shares are used.  If they do not give the published secret and there is a share to spare,
one holder at a time is left out: one false share is survived, and the pair (owner, holder) is noted.
Whether the holder changed the share or the owner dealt a false one, nobody can prove: what is sealed
between two clients has no witness.  So the pair is suspected and neither is accused.

Not protected against: more false shares than one; the round ends with an error, never a wrong sum.

>>> recover = Recovery(threshold=2)
>>> shares = shamir.split(7, (0, 1, 2), threshold=2) | {1: 0}
>>> recover.secret(0, shares, matches=lambda secret: secret[0] == 7 and not any(secret[1:]))[0]
7
>>> recover.suspects
{(0, 1)}
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from ..errors import RecoveryError
from . import shamir
from .keys import KEY_BYTES


class Recovery:
    """Recover secrets; the Lagrange weights of each set of holders are computed once."""

    def __init__(self, *, threshold: int) -> None:
        self._threshold = threshold
        self._weights: dict[tuple[int, ...], tuple[int, ...]] = {}
        self.suspects: set[tuple[int, int]] = set()

    def secret(self, owner: int, shares: Mapping[int, int], *, matches: Callable[[bytes], bool]) -> bytes:
        """Return the 32-byte secret of `owner` that `matches` accepts, from `shares` by holder.

        Raises:
            RecoveryError: no choice of shares gives it.
        """
        for holders, left_out in self._choices(tuple(shares)):
            if holders not in self._weights:
                self._weights[holders] = shamir.lagrange(holders)
            value = shamir.combine(
                {v: shares[v] for v in holders}, threshold=self._threshold, weights=self._weights[holders]
            )
            if value >> (8 * KEY_BYTES) == 0 and matches(secret := value.to_bytes(KEY_BYTES, "little")):
                if left_out is not None:
                    self.suspects.add((owner, left_out))
                return secret
        raise RecoveryError(
            f"the shares of client {owner}'s secret, from {len(shares)} holders, do not give what it "
            "published: it or a holder lied"
        )

    def _choices(self, holders: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], int | None]]:
        t = self._threshold
        yield holders[:t], None
        if len(holders) > t:
            for place in range(t):
                yield holders[:place] + holders[place + 1 : t + 1], holders[place]
