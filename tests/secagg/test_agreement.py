"""Parameters, sessions and graphs: what both ends must agree on."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_fed_diffusion import secagg
from secure_fed_diffusion.errors import ConfigError, PolicyError
from secure_fed_diffusion.secagg.graph import Graph

from .rounds import CASES, make_params, make_roster, make_session


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"threshold": 6}, "threshold"),
        ({"threshold": 2}, "threshold"),
        ({"threshold": 1}, "threshold"),
        ({"n_clients": 8, "threshold": 4}, "threshold"),
        ({"n_clients": 1, "threshold": 1}, "n_clients"),
        ({"n_clients": 0}, "n_clients"),
        ({"n_clients": True}, "n_clients"),
        ({"n_clients": 5.0}, "n_clients"),
        ({"dimension": 0}, "dimension"),
        ({"modulus_bits": 7}, "modulus_bits"),
        ({"modulus_bits": 1}, "modulus_bits"),
        ({"modulus_bits": 65}, "modulus_bits"),
        ({"n_neighbours": 3}, "n_neighbours"),
        ({"n_neighbours": 6}, "n_neighbours"),
        ({"n_neighbours": 0}, "n_neighbours"),
        ({"n_neighbours": 2, "threshold": 4}, "threshold"),
        ({"n_clients": 50, "n_neighbours": 20, "threshold": 9}, "threshold"),
        ({"profile": "none"}, "profile"),
        ({"profile": "active_sparse"}, "profile"),
        ({"n_rounds": 0}, "n_rounds"),
        ({"n_rounds": 2**16 + 1}, "n_rounds"),
        ({"n_rounds": True}, "n_rounds"),
        ({"n_rounds": 2, "profile": "unsafe_unmasked"}, "n_rounds"),
        ({"n_clients": 9, "threshold": 3, "n_neighbours": 6, "profile": "active"}, "threshold"),
        ({"verifiable": True}, "verifiable"),
        ({"verifiable": True, "profile": "unsafe_unmasked"}, "verifiable"),
        ({"verifiable": True, "profile": "active", "modulus_bits": 61}, "verifiable"),
        ({"verifiable": True, "profile": "active", "n_neighbours": 4}, "verifiable"),
        (
            {"verifiable": True, "profile": "active", "modulus_bits": 8, "n_clients": 128, "threshold": 65},
            "verifiable",
        ),
    ],
)
def test_impossible_parameters_are_refused_with_their_key(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_params(**changes)
    assert caught.value.key == key


def test_the_published_sparse_parameters_are_accepted() -> None:
    for n, k, t in [(100, 12, 6), (100, 16, 11), (100, 32, 21), (1000, 30, 17), (1000, 140, 104)]:
        assert make_params(n, t, n_neighbours=k).n_holders == k + 1


@pytest.mark.parametrize(
    "changes",
    [
        {"min_cohort": 1},
        {"min_survivors": 0},
        {"min_modulus_bits": 65},
        {"min_threshold": 1},
        {"min_neighbours": 0},
        {"colluders": -1},
        {"max_rounds": 0},
        {"max_dimension": 0},
        {"max_modulus_bits": 7},
        {"max_modulus_bits": 16, "min_modulus_bits": 17},
        {"profiles": "active"},
        {"profiles": ("activ",)},
    ],
)
def test_a_policy_that_permits_anything_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="policy"):
        secagg.Policy(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("case", CASES)
def test_the_policy_that_accepts_just_these_parameters_accepts_them_and_no_stronger_demand(case: str) -> None:
    params = make_params(**CASES[case])
    secagg.Policy.accepting(params).check(params)
    for change in ({"dimension": 17}, {"modulus_bits": 33}, {"modulus_bits": 31}):
        other = make_params(**(CASES[case] | change))
        with pytest.raises(PolicyError):
            secagg.Policy.accepting(params).check(other)


@pytest.mark.parametrize("case", CASES)
def test_parameters_say_how_many_colluders_they_leave_room_for(case: str) -> None:
    params = make_params(**CASES[case])
    expected = {"semi_honest": 3, "semi_honest_sparse": 3, "active": 2, "active_sparse": 2, "verifiable": 2}
    assert params.colluders == expected.get(case, 0)
    assert secagg.Policy.accepting(params).colluders == params.colluders
    if params.profile != "unsafe_unmasked":
        more = dataclasses.replace(secagg.Policy.accepting(params), colluders=params.colluders + 1)
        with pytest.raises(PolicyError, match="threshold"):
            more.check(params)


def test_the_safe_policy_refuses_the_unsafe_profile_and_more_rounds_than_it_was_told() -> None:
    with pytest.raises(PolicyError, match="unsafe_unmasked"):
        secagg.Policy().check(make_params(profile="unsafe_unmasked"))
    with pytest.raises(PolicyError, match="n_rounds=3; this client accepts at most 2"):
        secagg.Policy(max_rounds=2).check(make_params(n_rounds=3))
    for profile in ("semi_honest", "active"):
        secagg.Policy().check(make_params(profile=profile))
    with pytest.raises(PolicyError, match="profile=semi_honest"):
        secagg.Policy(profiles=("active",)).check(make_params())


@pytest.mark.parametrize("colluders", [1, 2, 3])
def test_the_margin_for_colluders_counts_the_holders(colluders: int) -> None:
    """2t > n + c on the complete graph, 2t > k + 1 + c on a sparse one, where it may lie; else t > c."""
    policy = secagg.Policy(colluders=colluders)
    for n in range(5, 12):
        for t in range(n // 2 + 1, n + 1):
            if t > colluders:
                policy.check(make_params(n, t))  # semi_honest: the server asks for one list
            else:
                with pytest.raises(PolicyError, match=r"proposed threshold"):
                    policy.check(make_params(n, t))
            params = make_params(n, t, profile="active")
            if 2 * t > n + colluders:
                policy.check(params)
            else:
                with pytest.raises(PolicyError, match="threshold="):
                    policy.check(params)
    for t in range(7, 14):
        params = make_params(40, t, n_neighbours=12, profile="active")
        if 2 * t > 13 + colluders:
            policy.check(params)
        else:
            with pytest.raises(PolicyError, match=r"2 \* threshold"):
                policy.check(params)


def test_every_field_of_a_session_changes_its_id() -> None:
    base = make_params(5, 4)
    sessions = [
        make_session(base),
        make_session(base, round=4),
        make_session(base, attempt=1),
        make_session(base, run_id=b"rum"),
        make_session(base, run_id=b""),
        make_session(base, model_digest=b"\1" * 32),
        make_session(base, [0, 1, 2, 3, 5]),
        make_session(make_params(5, 3)),
        make_session(make_params(5, 4, dimension=17)),
        make_session(make_params(5, 4, modulus_bits=31)),
        make_session(make_params(5, 4, n_neighbours=4)),
        make_session(make_params(5, 4, n_rounds=2)),
        make_session(make_params(5, 4, profile="unsafe_unmasked")),
        make_session(make_params(5, 4, profile="active")),
        make_session(make_params(5, 4, profile="active"), roster=make_roster(range(6))),
        make_session(make_params(5, 4, profile="active", verifiable=True)),
    ]
    assert len({session.id for session in sessions}) == len(sessions)
    assert make_session(base).id == make_session(base).id


def test_the_order_of_the_cohort_is_no_part_of_a_session() -> None:
    assert make_session(cohort=[4, 0, 3, 1, 2]).id == make_session().id
    assert make_session(cohort=[4, 0, 3, 1, 2]).cohort == (0, 1, 2, 3, 4)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"cohort": (0, 1, 2, 3)}, "cohort"),
        ({"cohort": (0, 1, 2, 3, 3)}, "cohort"),
        ({"cohort": (0, 1, 2, 3, -1)}, "cohort"),
        ({"cohort": (0, 1, 2, 3, 2**32)}, "cohort"),
        ({"round": -1}, "round"),
        ({"attempt": 2**32}, "attempt"),
        ({"model_digest": bytes(31)}, "model_digest"),
        ({"run_id": "text"}, "run_id"),
    ],
)
def test_an_impossible_session_is_refused_with_its_key(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_session(**changes)
    assert caught.value.key == key


@settings(max_examples=50, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_sparse_graph_is_regular_symmetric_and_without_loops(data: st.DataObject) -> None:
    n = data.draw(st.integers(3, 40))
    k = 2 * data.draw(st.integers(1, (n - 1) // 2))
    cohort = tuple(range(0, 3 * n, 3))
    graph = Graph(seed=data.draw(st.binary(min_size=32, max_size=32)), cohort=cohort, n_neighbours=k)
    for v in cohort:
        neighbours = graph.neighbours(v)
        assert len(set(neighbours)) == k
        assert list(neighbours) == sorted(neighbours)
        assert v not in neighbours
        assert all(v in graph.neighbours(u) for u in neighbours)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data())
def test_connectedness_agrees_with_a_search(data: st.DataObject) -> None:
    n = data.draw(st.integers(5, 20))
    k = 2 * data.draw(st.integers(1, min(3, (n - 1) // 2)))
    graph = Graph(seed=bytes(32), cohort=tuple(range(n)), n_neighbours=k)
    present = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    alive = set(np.flatnonzero(present).tolist())
    reached: set[int] = set()
    frontier = {min(alive)} if alive else set()
    while frontier:
        reached |= frontier
        frontier = {u for v in frontier for u in graph.neighbours(v)} & alive - reached
    assert graph.is_connected(present) == (reached == alive)


def test_the_graph_depends_on_the_session_and_every_pair_is_about_as_likely() -> None:
    """Each of 2,000 draws joins a pair with probability 4/10; eight standard deviations."""
    counts: Counter[int] = Counter()
    for seed in range(2000):
        graph = Graph(seed=seed.to_bytes(32, "big"), cohort=tuple(range(11)), n_neighbours=4)
        counts.update(graph.neighbours(0))
    assert set(counts) == set(range(1, 11))
    assert all(abs(count - 800) < 8 * (2000 * 0.4 * 0.6) ** 0.5 for count in counts.values())
