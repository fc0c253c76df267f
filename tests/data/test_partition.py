from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_fed_diffusion.data.partition import MIN_RECORDS, partition
from secure_fed_diffusion.errors import ConfigError

BALANCED = np.repeat(np.arange(10), 100)


def deal(labels, n_clients, scheme="dirichlet", *, beta=0.5, classes_per_client=2, seed=0):
    return partition(
        labels, n_clients, scheme=scheme, beta=beta, classes_per_client=classes_per_client, seed=seed
    )


def shares_of_most_common_class(labels, parts):
    return np.mean([np.bincount(labels[part]).max() / len(part) for part in parts])


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 5), min_size=40, max_size=200).map(np.array),
    n_clients=st.integers(1, 10),
    scheme=st.sampled_from(["dirichlet", "iid"]),
    beta=st.floats(1e-3, 1e4),
    seed=st.integers(0, 2**32),
)
def test_the_parts_are_disjoint_cover_everything_and_leave_no_client_poor(
    labels, n_clients, scheme, beta, seed
):
    parts = deal(labels, n_clients, scheme, beta=beta, seed=seed)
    assert len(parts) == n_clients
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    assert min(map(len, parts)) >= MIN_RECORDS
    assert all(np.all(np.diff(part) > 0) for part in parts)


@settings(max_examples=60, deadline=None)
@given(n_clients=st.integers(1, 12), classes_per_client=st.integers(1, 10), seed=st.integers(0, 2**32))
def test_classes_per_client_gives_each_client_exactly_that_many_and_leaves_nothing(
    n_clients, classes_per_client, seed
):
    if n_clients * classes_per_client < 10:
        with pytest.raises(ConfigError, match="to nobody"):
            deal(BALANCED, n_clients, "classes_per_client", classes_per_client=classes_per_client, seed=seed)
        return
    parts = deal(BALANCED, n_clients, "classes_per_client", classes_per_client=classes_per_client, seed=seed)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(BALANCED)))
    assert {len(np.unique(BALANCED[part])) for part in parts} == {classes_per_client}


@pytest.mark.parametrize("scheme", ["dirichlet", "iid", "classes_per_client"])
def test_the_same_seed_deals_the_same_hands_and_another_seed_deals_others(scheme):
    first, again, other = (deal(BALANCED, 5, scheme, seed=seed) for seed in (3, 3, 4))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_a_smaller_beta_skews_the_labels_more_and_a_huge_one_hardly_at_all():
    skew = [
        np.mean(
            [shares_of_most_common_class(BALANCED, deal(BALANCED, 5, beta=beta, seed=s)) for s in range(5)]
        )
        for beta in (0.05, 0.5, 5.0, 1e4)
    ]
    assert skew == sorted(skew, reverse=True)
    assert skew[0] > 0.4
    assert skew[-1] < 0.12


@pytest.mark.parametrize("seed", range(5))
def test_a_skew_that_leaves_clients_with_nothing_tops_them_up(seed):
    parts = deal(BALANCED, 40, beta=1e-3, seed=seed)
    assert min(map(len, parts)) == MIN_RECORDS
    assert sum(map(len, parts)) == len(BALANCED)


def test_dirichlet_shares_have_the_variance_of_the_dirichlet_distribution():
    # one class, two clients, beta = 1: the first share is uniform, variance 1/12; over 2,000 seeds the
    # sample variance has a standard deviation of about 0.0017, so 5 of them is a false alarm in 10^6
    labels = np.zeros(1000, dtype=np.int64)
    shares = [len(deal(labels, 2, beta=1.0, seed=seed)[0]) / 1000 for seed in range(2000)]
    assert abs(np.var(shares) - 1 / 12) < 0.0085


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scheme": "dirichlet", "beta": 0.0}, "data.beta: expected a finite number"),
        ({"scheme": "dirichlet", "beta": float("nan")}, "data.beta: expected a finite number"),
        ({"scheme": "dirichlett"}, "did you mean 'dirichlet'"),
        ({"scheme": "iid", "n_clients": 0}, "at least one client"),
        ({"scheme": "iid", "n_clients": 251}, "251 clients, got 1000 in all"),
        ({"scheme": "classes_per_client", "classes_per_client": 11}, "between 1 and 10"),
        ({"scheme": "classes_per_client", "classes_per_client": 0}, "between 1 and 10"),
        ({"scheme": "classes_per_client", "classes_per_client": 1, "n_clients": 9}, "to nobody"),
    ],
)
def test_an_impossible_partition_is_refused_and_the_message_names_the_bound(arguments, message):
    arguments = {"n_clients": 5, **arguments}
    with pytest.raises(ConfigError, match=message):
        deal(BALANCED, **arguments)


def test_a_client_that_would_hold_too_few_records_of_its_classes_is_refused():
    labels = np.array([0] * 100 + [1] * 5)
    with pytest.raises(ConfigError, match="would hold 2 records"):
        deal(labels, 4, "classes_per_client", classes_per_client=1)
