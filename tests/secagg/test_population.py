"""The neighbours and the threshold that a population needs, against the published table and by counting."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest

from secure_fed_diffusion.errors import ConfigError, PolicyError
from secure_fed_diffusion.secagg import Policy, SecAggParams, population
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


FRACTIONS = (0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.45, 0.6)


@pytest.mark.parametrize("adversary", population.ADVERSARIES)
@pytest.mark.parametrize("n", [2, 3, 5, 8, 20, 100, 300])
def test_parameters_take_every_pair_that_comes_out_and_a_refusal_blames_the_graph(
    n: int, adversary: str
) -> None:
    """`for_population` passes the pair on: one that the parameters refuse blames what nobody gave."""
    blamed, taken = set(), 0
    for corrupt, dropout in product(FRACTIONS, FRACTIONS):
        if math.ceil(corrupt * n - 1e-9) + math.ceil(dropout * n - 1e-9) >= n:
            continue
        try:
            params = SecAggParams.for_population(
                n, corrupt=corrupt, dropout=dropout, adversary=adversary, dimension=1, modulus_bits=32
            )
        except ConfigError as error:
            blamed.add(error.key)
        else:
            taken += params.n_clients == n
    assert blamed == {"n_neighbours"}
    assert taken or n == 2  # a ring needs three


@pytest.mark.parametrize(
    ("n", "corrupt", "dropout", "pair"),
    [
        (1000, 0.05, 0.2, (72, 36)),
        (1000, 0.01, 0.1, (32, 16)),
        (100, 0.05, 0.1, (18, 9)),
        (500, 0.05, 0.2, (64, 32)),
        (100, 0, 0.05, (10, 5)),
        (1000, 0, 0, (2, 2)),
    ],
)
def test_where_few_are_corrupt_the_threshold_is_half_the_neighbours_and_k_the_least_that_recovers_it(
    n: int, corrupt: float, dropout: float, pair: tuple[int, int]
) -> None:
    """Secrecy alone would do with fewer shares, and with such a t a smaller k would be recoverable."""
    n_corrupt, n_dropped = round(corrupt * n), round(dropout * n)

    def tail(marked: int, k: int, at_least: int) -> Fraction:
        ways = sum(math.comb(marked, x) * math.comb(n - 1 - marked, k - x) for x in range(at_least, k + 1))
        return Fraction(n * ways, math.comb(n - 1, k))

    def recovers(k: int, t: int) -> bool:
        return tail(n_dropped, k, k + 1 - t) <= Fraction(1, 2**20)

    assert neighbours_and_threshold(n, corrupt=corrupt, dropout=dropout, adversary="curious") == pair
    k, t = pair
    assert t == max(k // 2, 2)
    assert tail(n_corrupt, k, t) <= Fraction(1, 2**41)
    assert recovers(k, t)
    assert not any(recovers(k - 2, smaller) for smaller in range(max(k // 2 - 1, 2), k - 1))


def test_the_default_policy_refuses_the_pairs_that_the_module_names() -> None:
    def proposed(corrupt: float, adversary: str) -> SecAggParams:
        return SecAggParams.for_population(
            100, corrupt=corrupt, dropout=0.05, adversary=adversary, dimension=1, modulus_bits=32
        )

    with pytest.raises(PolicyError, match="n_neighbours=10"):
        Policy().check(proposed(0, "curious"))
    with pytest.raises(PolicyError, match="2 \\* threshold=14"):
        Policy().check(proposed(0, "active"))
    Policy(min_neighbours=10).check(proposed(0, "curious"))
    Policy(colluders=0).check(proposed(0, "active"))
    for adversary in population.ADVERSARIES:
        Policy().check(proposed(0.05, adversary))


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
        ({"n": 4, "corrupt": 0, "dropout": 0.25}, "use the complete graph, n_neighbours=None, .* >= 3"),
        (
            {"n": 4, "dropout": 0.25, "adversary": "curious"},
            "use the complete graph, n_neighbours=None, .* >= 3",
        ),
        ({"n": 10, "corrupt": 0.4, "dropout": 0.4}, "nor does the complete graph"),
        ({"dropout": 0.5, "adversary": "curious"}, "nor does the complete graph"),
        ({"n": 10, "corrupt": 0.5, "dropout": 0.5}, "leave none"),
        ({"n": 1}, "n >= 2"),
        ({"corrupt": 1.0}, "0 <= corrupt < 1"),
        ({"dropout": -0.1}, "0 <= dropout < 1"),
        ({"dropout": float("nan")}, "0 <= dropout < 1"),
        ({"adversary": "kind"}, "curious, active"),
        ({"security_bits": -1}, "1 <= security_bits <= 256, got -1"),
        ({"security_bits": 0}, "1 <= security_bits"),
        ({"security_bits": 257}, "1 <= security_bits"),
        ({"correctness_bits": -1}, "1 <= correctness_bits <= 256, got -1"),
        ({"correctness_bits": 20.5}, "correctness_bits: expected an integer, got float"),
        ({"security_bits": True}, "security_bits: expected an integer, got bool"),
    ],
)
def test_what_no_graph_can_serve_is_refused(changes: dict[str, object], message: str) -> None:
    settings = {"n": 100, "corrupt": 0.05, "dropout": 0.05, "adversary": "active", **changes}
    with pytest.raises(ConfigError, match=message):
        neighbours_and_threshold(settings.pop("n"), **settings)
