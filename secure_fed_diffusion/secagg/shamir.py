"""Shamir's secret sharing over a prime field: any t shares give the secret, t - 1 say nothing.

The field is 2^256 + 297, the least prime above 2^256, so a 32-byte secret is one element and every
share is 33 bytes.  A holder's share is the polynomial at its client id plus one.

Not protected against: a false share gives a false secret without a sign of it; the caller checks
the result against a public key or a commitment.  Python's integers do not run in constant time.

Source: Shamir, CACM 1979; 2^256 + 297 as in `secure_aggregation`, section 3.

>>> combine(dict(list(split(42, (0, 1, 2), threshold=2).items())[:2]), threshold=2)
42
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..entropy import Entropy, system
from ..errors import RecoveryError

PRIME = (1 << 256) + 297
SHARE_BYTES = 33
_EXCESS_BYTES = 16  # drawn beyond the field's size: a coefficient is within 2^-128 of uniform


def split(
    secret: int, holders: Sequence[int], *, threshold: int, entropy: Entropy = system, prime: int = PRIME
) -> dict[int, int]:
    """Share `secret` among the client ids in `holders`.

    Guarantees: the shares of any `threshold - 1` holders are within 2^-120 of independent of it.
    """
    width = (prime.bit_length() + 7) // 8 + _EXCESS_BYTES
    drawn = entropy(width * (threshold - 1))
    random = [int.from_bytes(drawn[i : i + width], "little") % prime for i in range(0, len(drawn), width)]
    return evaluate([secret, *random], holders, prime=prime)


def evaluate(coefficients: Sequence[int], holders: Sequence[int], *, prime: int = PRIME) -> dict[int, int]:
    """Evaluate the polynomial (constant term first) at each holder's point, by Horner's rule."""
    if not all(0 <= coefficient < prime for coefficient in coefficients):
        raise RecoveryError("a coefficient lies outside the field")
    shares = {}
    leading_first = coefficients[::-1]
    for holder in holders:
        point = holder + 1
        value = 0
        for coefficient in leading_first:
            value = (value * point + coefficient) % prime
        shares[holder] = value
    return shares


def lagrange(holders: Sequence[int], *, prime: int = PRIME) -> tuple[int, ...]:
    """Return the weights with which these holders' shares add up to the secret.

    λ_i = Π_{j≠i} x_j / (x_j - x_i), all inverses from one modular inversion.
    """
    points = [holder + 1 for holder in holders]
    numerator = 1
    for point in points:
        numerator = numerator * point % prime
    denominators = []
    for i, here in enumerate(points):
        product = here
        for j, there in enumerate(points):
            if j != i:
                product = product * (there - here) % prime
        denominators.append(product)
    prefix = [1]
    for denominator in denominators:
        prefix.append(prefix[-1] * denominator % prime)
    if prefix[-1] == 0:
        raise RecoveryError("the holders' points are not distinct and non-zero in this field")
    inverse = pow(prefix[-1], -1, prime)
    weights = [0] * len(points)
    for index in reversed(range(len(points))):
        weights[index] = numerator * inverse * prefix[index] % prime
        inverse = inverse * denominators[index] % prime
    return tuple(weights)


def combine(
    shares: Mapping[int, int],
    *,
    threshold: int,
    weights: Sequence[int] | None = None,
    prime: int = PRIME,
) -> int:
    """Recover the secret from exactly `threshold` shares by holder.

    `weights` are those of `lagrange(tuple(shares))`, where the caller has them already.

    Raises:
        RecoveryError: any other number of shares.
    """
    if len(shares) != threshold:
        raise RecoveryError(f"expected exactly threshold={threshold} shares, got {len(shares)}")
    if weights is None:
        weights = lagrange(tuple(shares), prime=prime)
    return sum(w * s for w, s in zip(weights, shares.values(), strict=True)) % prime
