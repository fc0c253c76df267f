from __future__ import annotations

import json
import math
from itertools import combinations

import pytest

from secure_fed_diffusion.dp import View, epsilon
from secure_fed_diffusion.dp.survivors import (
    DROPOUT_ASSUMPTION,
    RealisedEpsilon,
    honest_shares_without_consistency,
    realised_epsilon,
)
from secure_fed_diffusion.errors import ConfigError, PrivacyError, UnderNoisedError
from tests.dp.plans import gaussian, shares

SUM, RAW = View(name="sum"), View(name="raw_update")
STEP = shares(8192.0)  # at least 5 survivors


def realised(counts: dict[tuple[object, int], int], view: View = SUM) -> RealisedEpsilon:
    return realised_epsilon(counts, delta=1e-5, view=view)  # type: ignore[arg-type]


def test_at_the_plans_minimum_it_is_the_guarantee() -> None:
    assert realised({(STEP, 5): 40}).value == epsilon({STEP: 40}, delta=1e-5, view=SUM)


def test_every_further_survivor_lowers_it_and_mixed_rounds_lie_between() -> None:
    least, mixed, most = (
        realised({(STEP, 5): 40}).value,
        realised({(STEP, 5): 20, (STEP, 9): 20}).value,
        realised({(STEP, 9): 40}).value,
    )
    assert most < mixed < least


def test_further_survivors_do_not_help_against_who_reads_the_raw_update() -> None:
    assert realised({(STEP, 9): 40}, RAW).value == realised({(STEP, 5): 40}, RAW).value


@pytest.mark.parametrize("spec", ["{}", "{:.3f}", "{!s}"])
def test_it_cannot_be_printed_without_its_assumption(spec: str) -> None:
    found = realised({(STEP, 9): 40})
    written = spec.format(found)
    assert DROPOUT_ASSUMPTION in written
    assert "if dropouts do not depend on outputs" in written
    assert "realised" in written


def test_it_cannot_be_taken_for_a_number() -> None:
    with pytest.raises(TypeError):
        float(realised({(STEP, 9): 1}))  # type: ignore[arg-type]


def test_json_carries_the_assumption_too_and_infinity_is_null() -> None:
    found = json.loads(json.dumps(realised({(shares(0.0), 5): 1}).to_dict()))
    assert found["realised_epsilon"] is None
    assert found["assumption"] == DROPOUT_ASSUMPTION
    assert (found["unit"], found["relation"], found["view"]) == ("example", "add_remove", "sum_c0")


def test_a_sum_below_the_plans_minimum_is_no_epsilon_at_all() -> None:
    with pytest.raises(UnderNoisedError, match="4 contributions"):
        realised({(STEP, 9): 10, (STEP, 4): 1})


def test_what_has_no_common_epsilon_or_never_happened_is_refused() -> None:
    client = gaussian(1.0, unit="client", relation="zero_out")
    with pytest.raises(PrivacyError, match="units"):
        realised({(STEP, 9): 1, (client, 1): 1})
    for empty in ({}, {(STEP, 9): 0}):
        with pytest.raises(ConfigError, match="release"):
            realised(empty)  # type: ignore[arg-type]


def fewest_by_trying_everything(n: int, t: int, c: int, m: int) -> int:
    """Try every set of clients that a lying server could name as gone to each honest client.

    Clients 0 … c−1 collude: they give both kinds of share. A client answers nobody who calls it gone
    itself. The state is, for each client, how many honest holders gave its mask key; the rest of them gave
    its self mask. A sum exists if every client has t shares of one kind, and never needs both.
    """
    states = {(0,) * n}
    for holder in range(c, n):
        others = [client for client in range(n) if client != holder]
        lies = [gone for size in range(n - m + 1) for gone in combinations(others, size)]
        states = {
            tuple(count + (client in gone) for client, count in enumerate(state))
            for state in states
            for gone in lies
        }
    fewest = n - c
    for state in states:
        gone = [count + c >= t for count in state]
        present = [n - c - count + c >= t for count in state]
        if all(left or right for left, right in zip(gone, present, strict=True)):
            in_sum = [not left for left in gone]
            fewest = min(fewest, sum(in_sum[c:]))
    return fewest


CASES = [
    (n, t, c, m)
    for n in range(2, 6)
    for c in range(n)
    for t in range(c + 1, n + 1)
    for m in range(max(1, n - 2), n + 1)
    if 2 * t > n + c
]


def test_no_lie_cuts_out_more_than_the_formula_says() -> None:
    exact = 0
    for case in CASES:
        bound, found = honest_shares_without_consistency(*case), fewest_by_trying_everything(*case)
        assert bound <= found, case
        exact += bound == found
    assert len(CASES) > 40
    assert exact > len(CASES) / 2  # the bound is not idle: some lie reaches it in most of these


def test_the_reference_case_falls_from_seven_to_five() -> None:
    assert honest_shares_without_consistency(10, 6, 0, 7) == 5
    assert honest_shares_without_consistency(10, 6, 0, 10) == 10
    assert honest_shares_without_consistency(10, 7, 3, 8) == 10 - 3 - math.floor(2 * 7 / 4)


@pytest.mark.parametrize(
    ("n", "t", "c", "m"), [(10, 5, 0, 7), (10, 6, 2, 7), (10, 3, 3, 7), (10, 11, 0, 7), (10, 6, 0, 11)]
)
def test_thresholds_without_input_privacy_have_no_count(n: int, t: int, c: int, m: int) -> None:
    with pytest.raises(ConfigError):
        honest_shares_without_consistency(n, t, c, m)
