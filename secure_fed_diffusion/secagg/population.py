"""How many neighbours, and which threshold, a population of n clients needs.

`neighbours_and_threshold` finds the least even k, and for it the least t, such that with at most
c = ⌈corrupt · n⌉ colluding and D = ⌈dropout · n⌉ dropping clients, placed before the random graph is,

1. secrecy: no honest client's secrets can be put together without its neighbours' consent.  Of its
   k neighbours X are corrupt, hypergeometric H(n - 1, c, k).  `curious`: X < t.  `active`: a server
   may tell some holders that the client survived and others that it dropped; honest holders answer
   once, corrupt ones twice, and the client itself holds one share: X < 2t - k - 1.
2. connection: corrupt and dropped clients do not cut the ring of the k-regular graph.  A cut takes two
   runs of k/2 such clients; at most n(n-1)/2 pairs of runs, each with the probability that k chosen
   places are all among the c + D.
3. correctness: every client has t holders left after the dropouts.

1 and 2 fail with probability at most 2^-(security_bits + 1) each, 3 with 2^-correctness_bits, all by
the union bound over the clients and exact integers.  With k holders in place of k + 1 in 1 and 3 these
are the conditions of Bell et al., and all eight of their published pairs come out; k is theirs, so
the own share costs t at most one.

`SecAggParams` takes no t below k/2, nor below 2, which theirs leave open where few are corrupt.  So t is
at least that here: secrecy only gains by it, and k grows until 3 holds for it too.

A pair is not yet one that every client accepts: `Policy()` refuses results with k < 12, and under `active`
those with 2t <= k + 2, which leave one colluder no room.  That is what comes out where few are corrupt or
drop out: state larger fractions, or have the clients' owners lower `min_neighbours` or `colluders`.

Not protected against: corruption chosen after the graph is known; more colluders or dropouts than
were stated; set-ups without number (the bound is for one; a client that lets a server repeat a set-up s
times has s times the probability).  Under `active`, 2 holds for dropouts that do not depend on the graph:
how small a piece of it a server can cut off that drops clients after it saw the choices is not bounded here.

Source: Bell et al., CCS 2020, sections 3.1 and 4 and the published table of (k, t).

>>> neighbours_and_threshold(1000, corrupt=0.05, dropout=0.05, adversary="curious")
(30, 17)
>>> neighbours_and_threshold(1000, corrupt=0.05, dropout=0.05, adversary="active")
(52, 37)
>>> neighbours_and_threshold(1000, corrupt=0, dropout=0, adversary="curious")
(2, 2)
"""

from __future__ import annotations

import math

from ..errors import ConfigError

ADVERSARIES = ("curious", "active")
_MIN_CLIENTS = 2
_MIN_THRESHOLD = 2  # one share would open a secret
_MAX_BITS = 256


def neighbours_and_threshold(
    n: int,
    *,
    corrupt: float,
    dropout: float,
    adversary: str,
    security_bits: int = 40,
    correctness_bits: int = 20,
) -> tuple[int, int]:
    """Return the least even k and its least t; see the module for the three conditions.

    `corrupt` and `dropout` are fractions of the `n` clients; a part of a client counts as one.

    Guarantees: the failure probabilities are exact up to the union bound; no floating point.  `SecAggParams`
    takes the pair, with the profile `active` if that is the adversary.

    Raises:
        ConfigError: no k below n does: mask with everyone (`n_neighbours=None`) if the message says that
            this would do, or change the fractions.
    """
    if adversary not in ADVERSARIES:
        raise ConfigError(f"expected one of {', '.join(ADVERSARIES)}, got {adversary!r}", key="adversary")
    _require_bits("security_bits", security_bits)
    _require_bits("correctness_bits", correctness_bits)
    n_corrupt, n_dropped = _count(n, corrupt, "corrupt"), _count(n, dropout, "dropout")
    if n_corrupt + n_dropped >= n:
        raise ConfigError(
            f"corrupt={n_corrupt} and dropped={n_dropped} clients leave none of n={n}", key="corrupt"
        )
    active = adversary == "active"
    for k in range(2, n, 2):
        if not _stays_connected(n, k, n_corrupt + n_dropped, security_bits + 1):
            continue
        worst = _largest_count(n, n_corrupt, k, security_bits + 1)  # X is larger: 2^-41
        # As published, with k holders; then with the client's own share, the (k + 1)-th.
        published = max((k + worst) // 2 + 1 if active else worst + 1, k // 2, _MIN_THRESHOLD)
        threshold = (k + 1 + worst) // 2 + 1 if active else published
        if published <= k and _is_recoverable(n, k, published, threshold, n_dropped, correctness_bits):
            return k, threshold
    # The least threshold of the complete graph: a majority, with room for the corrupt ones.
    complete = (n + n_corrupt) // 2 + 1 if active else max(n // 2, n_corrupt) + 1
    way_out = (
        f"use the complete graph, n_neighbours=None, with threshold >= {complete}"
        if complete <= n - n_dropped
        else "nor does the complete graph; fewer may be corrupt or drop out"
    )
    raise ConfigError(
        f"no k < n={n} gives 2^-{security_bits} with {n_corrupt} corrupt and {n_dropped} dropped clients "
        f"({adversary}): {way_out}",
        key="n_neighbours",
    )


def _require_bits(key: str, bits: int) -> None:
    """Refuse, under the name `key`, an exponent that bounds no probability."""
    if isinstance(bits, bool) or not isinstance(bits, int):
        raise ConfigError(f"expected an integer, got {type(bits).__name__}", key=key)
    if not 1 <= bits <= _MAX_BITS:
        raise ConfigError(f"expected 1 <= {key} <= {_MAX_BITS}, got {bits}", key=key)


def _count(n: int, fraction: float, key: str) -> int:
    """Return the fraction of n, rounded up past what is the float's own error."""
    if isinstance(n, bool) or not isinstance(n, int) or n < _MIN_CLIENTS:
        raise ConfigError(f"expected an integer n >= {_MIN_CLIENTS}, got {n}", key="n_clients")
    if not 0 <= fraction < 1:
        raise ConfigError(f"expected 0 <= {key} < 1, got {fraction}", key=key)
    return math.ceil(fraction * n - 1e-9)


def _largest_count(n: int, marked: int, k: int, bits: int) -> int:
    """Return the least x with n · P[H(n - 1, marked, k) > x] <= 2^-bits."""
    marked = min(marked, n - 1)
    allowed = math.comb(n - 1, k)
    tail = 0
    for x in range(min(k, marked), -1, -1):
        tail += math.comb(marked, x) * math.comb(n - 1 - marked, k - x)
        if (n * tail) << bits > allowed:
            return x
    return 0


def _stays_connected(n: int, k: int, n_gone: int, bits: int) -> bool:
    """Bound the chance of two runs of k/2 absent clients, `n_gone` of n being absent at random."""
    pairs = n * (n - 1) // 2
    return (pairs * math.perm(n_gone, k)) << bits <= math.perm(n, k)


def _is_recoverable(n: int, k: int, published: int, threshold: int, n_dropped: int, bits: int) -> bool:
    """Tell whether every client keeps enough holders: as published, and with the own share counted.

    A survivor is a holder of its own secrets; one that dropped is not, and is one of the dropped.
    """
    as_published = n * _too_few(n, k, published, n_dropped)
    survivors = (n - n_dropped) * _too_few(n, k, threshold - 1, n_dropped)
    dropped = n_dropped * _too_few(n, k, threshold, max(n_dropped - 1, 0))
    return max(as_published, survivors + dropped) << bits <= math.comb(n - 1, k)


def _too_few(n: int, k: int, t: int, n_dropped: int) -> int:
    """Count the choices of k among n - 1 clients, of which `n_dropped` dropped, that keep fewer than t."""
    lower = max(k - t + 1, 0)
    return sum(
        math.comb(n_dropped, x) * math.comb(n - 1 - n_dropped, k - x)
        for x in range(lower, min(k, n_dropped) + 1)
    )
