"""The neighbours and the threshold that a population needs, against the published table and by counting."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest

from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.secagg import population
from secure_fed_diffusion.secagg.population import neighbours_and_threshold

PUBLISHED = [  # n, corrupt, dropout: curious, semi-malicious (Bell et al. 2020)
    (100, 0.05, 0.05, (12, 6), (16, 11)),
    (1000, 0.05, 0.05, (30, 17), (52, 37)),
    (100, 0.20, 0.10, (32, 21), (42, 32)),
    (1000, 0.20, 0.10, (68, 44), (140, 104)),
]


@pytest.mark.parametrize(("n", "corrupt", "dropout", "curious", "active"), PUBLISHED)
def test_the_published_pairs_come_out(
    n: int, corrupt: float, dropout: float, curious: tuple[int, int], active: tuple[int, int]
) -> None:
    assert neighbours_and_threshold(n, corrupt=corrupt, dropout=dropout, adversary="curious") == curious
    k, t = neighbours_and_threshold(n, corrupt=corrupt, dropout=dropout, adversary="active")
    assert k == active[0]
    assert active[1] <= t <= active[1] + 1


def test_a_split_neighbourhood_cannot_give_both_secrets_though_the_client_holds_a_share_itself() -> None:
    """With the published t = 11, 5 corrupt, 11 honest neighbours and the own share give 11 of each."""
    k, t = neighbours_and_threshold(100, corrupt=0.05, dropout=0.05, adversary="active")
    n_corrupt = 5
    assert (k + 1 - n_corrupt) + 2 * n_corrupt < 2 * t


@pytest.mark.parametrize("adversary", population.ADVERSARIES)
def test_the_pair_meets_its_conditions_and_the_next_smaller_k_meets_none(adversary: str) -> None:
    n, n_corrupt, n_dropped = 200, 10, 10
    k, t = neighbours_and_threshold(n, corrupt=0.05, dropout=0.05, adversary=adversary)

    def tail(marked: int, k: int, at_least: int) -> Fraction:
        ways = sum(math.comb(marked, x) * math.comb(n - 1 - marked, k - x) for x in range(at_least, k + 1))
        return Fraction(ways, math.comb(n - 1, k))

    def reached(k: int, t: int, holders: int) -> Fraction:
        return n * tail(n_corrupt, k, t if adversary == "curious" else max(2 * t - holders, 0))

    assert reached(k, t, k + 1) <= Fraction(1, 2**41)
    assert n * tail(n_dropped, k, k + 2 - t) <= Fraction(1, 2**20)
    for smaller in range(1, k - 1):
        secret = reached(k - 2, smaller, k - 2) <= Fraction(1, 2**41)
        assert not (secret and n * tail(n_dropped, k - 2, k - 2 - smaller + 1) <= Fraction(1, 2**20))


def test_a_dropped_client_is_no_holder_of_its_own_secrets() -> None:
    """Where the published k would do for the survivors, but not for the masks of those that dropped."""
    n, n_dropped = 100, 15

    def lost(k: int, t: int) -> Fraction:
        def keeps_fewer(than: int, dropped: int) -> Fraction:
            ways = sum(
                math.comb(n - 1 - dropped, kept) * math.comb(dropped, k - kept) for kept in range(than)
            )
            return Fraction(ways, math.comb(n - 1, k))

        survivors = (n - n_dropped) * keeps_fewer(t - 1, n_dropped)
        return survivors + n_dropped * keeps_fewer(t, n_dropped - 1)

    assert neighbours_and_threshold(n, corrupt=0.05, dropout=0.15, adversary="active") == (36, 22)
    assert lost(36, 22) <= Fraction(1, 2**20) < lost(34, 21)


def test_what_a_neighbourhood_keeps_is_counted_right() -> None:
    n, k, t, n_dropped = 9, 4, 3, 3
    others = range(n - 1)
    counted = sum(sum(v >= n_dropped for v in chosen) < t for chosen in combinations(others, k))
    assert population._too_few(n, k, t, n_dropped) == counted


def test_the_bound_on_a_cut_ring_is_never_below_the_truth() -> None:
    n, k = 12, 4
    for n_gone in range(k, 8):
        cut = 0
        for gone in combinations(range(n), n_gone):
            present = np.setdiff1d(np.arange(n), gone)
            gaps = np.diff(present, append=present[0] + n)
            cut += int(np.count_nonzero(gaps > k // 2) > 1)
        probability = Fraction(cut, math.comb(n, n_gone))
        bits = next(b for b in range(64) if Fraction(1, 2**b) < probability) if cut else 64
        assert cut
        assert not population._stays_connected(n, k, n_gone, bits)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 10, "corrupt": 0.4, "dropout": 0.4}, "complete graph"),
        ({"n": 10, "corrupt": 0.5, "dropout": 0.5}, "leave none"),
        ({"n": 1}, "n >= 2"),
        ({"corrupt": 1.0}, "0 <= corrupt < 1"),
        ({"dropout": -0.1}, "0 <= dropout < 1"),
        ({"dropout": float("nan")}, "0 <= dropout < 1"),
        ({"adversary": "kind"}, "curious, active"),
    ],
)
def test_what_no_graph_can_serve_is_refused(changes: dict[str, object], message: str) -> None:
    settings = {"n": 100, "corrupt": 0.05, "dropout": 0.05, "adversary": "active", **changes}
    with pytest.raises(ConfigError, match=message):
        neighbours_and_threshold(settings.pop("n"), **settings)
