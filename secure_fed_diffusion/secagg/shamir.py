"""Shamir's secret sharing over a prime field: any t shares give the secret, t - 1 say nothing.

The field is 2^256 + 297, the least prime above 2^256, so a 32-byte secret is one element and every
share is 33 bytes.  A holder's share is the polynomial at its client id plus one.

Of m shares, floor((m - t) / 2) may be false: `locate` finds them by their `moments`, and `leave_out`
gives the secret of the others.  Any choice of up to m - t can be left out, for a caller that tries some.

Not protected against: of t shares a false one gives a false secret without a sign of it, and of more
shares too many false ones may hit another polynomial; the caller checks the result against a public
key or a commitment.  Python's integers do not run in constant time.

Sources: Shamir, CACM 1979; 2^256 + 297 as in `secure_aggregation`, section 3.  Shares as a Reed-Solomon
word: McEliece and Sarwate, CACM 24(9), 1981.  Decoding: the key equation N(x_i) = y_i W(x_i) of Welch and
Berlekamp, US patent 4,633,470, 1986, from which N, of degree below t + deg W, is eliminated; what is
left is a linear recurrence, solved as in Massey, IEEE Trans. Inf. Theory 15(1), 1969.  (Gao, "A new
algorithm for decoding Reed-Solomon codes", in Communications, Information and Network Security, 2003,
corrects as many from the polynomial through all shares: some m^2 multiplications, where the moments
take m (m - t) and serve for other choices too.)

>>> combine(dict(list(split(42, (0, 1, 2), threshold=2).items())[:2]), threshold=2)
42
>>> shares = split(42, range(6), threshold=2) | {1: 0, 4: 0}
>>> found = moments(shares, threshold=2)
>>> locate(found, range(6)), leave_out(found, (1, 4))
((1, 4), 42)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest

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


def moments(
    shares: Mapping[int, int],
    *,
    threshold: int,
    weights: Sequence[int] | None = None,
    prime: int = PRIME,
) -> tuple[int, ...]:
    """Return M_j = Σ λ_i y_i x_i^j over all m shares, for j = 0 to m - threshold.

    M_0 is the secret that all shares together would give; the others are zero if and only if all lie on
    one polynomial of degree below `threshold`.  `weights` are those of `lagrange(tuple(shares))`.

    Raises:
        RecoveryError: fewer shares than `threshold`.
    """
    if len(shares) < threshold:
        raise RecoveryError(f"expected at least threshold={threshold} shares, got {len(shares)}")
    if weights is None:
        weights = lagrange(tuple(shares), prime=prime)
    points = [holder + 1 for holder in shares]
    terms = [weight * share % prime for weight, share in zip(weights, shares.values(), strict=True)]
    found = [sum(terms) % prime]
    for _ in range(len(shares) - threshold):
        terms = [term * point % prime for term, point in zip(terms, points, strict=True)]
        found.append(sum(terms) % prime)
    return tuple(found)


def locate(moments: Sequence[int], holders: Iterable[int], *, prime: int = PRIME) -> tuple[int, ...] | None:
    """Return those of `holders`, of all shares in `moments`, whose shares lie off the polynomial.

    The polynomial is the one that all but floor((m - t) / 2) of the m shares lie on, if there is one; there
    are no two.  None: there is none, so more shares than that are false.
    """
    syndromes = moments[1:]
    length, locator = _shortest_recurrence(syndromes, prime)
    if 2 * length > len(syndromes):
        return None
    found = []
    for holder in holders:
        point, value = holder + 1, 0
        for coefficient in locator:
            value = (value * point + coefficient) % prime
        if value == 0:
            found.append(holder)
    return tuple(found) if len(found) == length else None


def leave_out(moments: Sequence[int], holders: Sequence[int], *, prime: int = PRIME) -> int | None:
    """Return the secret by the shares of all but these `holders`, or None if those do not agree.

    With W = Π (x_s - X) over those left out it is Σ W_j M_j / W_0; the others agree if Σ W_j M_{j+k} is
    zero for each k from 1 on.  Where exactly the threshold of shares is left, they always agree.

    Raises:
        RecoveryError: fewer shares than the threshold would be left.
    """
    if len(holders) >= len(moments):
        raise RecoveryError(f"expected at most {len(moments) - 1} shares to leave out, got {len(holders)}")
    locator = [1]
    for holder in holders:
        point = holder + 1
        locator = [
            (point * here - below) % prime for here, below in zip([*locator, 0], [0, *locator], strict=True)
        ]

    def weighed(start: int) -> int:
        return sum(w * moment for w, moment in zip(locator, moments[start:], strict=False)) % prime

    if any(weighed(start) for start in range(1, len(moments) - len(holders))):
        return None
    return weighed(0) * pow(locator[0], -1, prime) % prime


def _shortest_recurrence(sequence: Sequence[int], prime: int) -> tuple[int, list[int]]:
    """Return the length L and coefficients c of the shortest Σ c_i s_{n-i} = 0, n ≥ L.

    Massey's algorithm without its divisions: c_0 is any non-zero element.
    """
    length, current = 0, [1]
    previous, last_gap = [1], 1
    for n in range(len(sequence)):
        previous = [0, *previous]
        gap = sum(c * sequence[n - i] for i, c in enumerate(current)) % prime
        if gap == 0:
            continue
        corrected = [(last_gap * c - gap * p) % prime for c, p in zip_longest(current, previous, fillvalue=0)]
        if 2 * length <= n:
            length, previous, last_gap = n + 1 - length, current, gap
        current = corrected
    return length, current
