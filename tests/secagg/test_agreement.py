"""Parameters, sessions and graphs: what both ends must agree on."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_fed_diffusion import secagg
from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.secagg.graph import Graph

from .rounds import make_params, make_session


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
    "changes", [{"min_cohort": 1}, {"min_survivors": 0}, {"min_modulus_bits": 65}, {"min_threshold": 1}]
)
def test_a_policy_that_permits_anything_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="policy"):
        secagg.Policy(**changes)  # type: ignore[arg-type]


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
