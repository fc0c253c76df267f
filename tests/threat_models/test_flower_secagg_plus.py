"""What is said of flwr's SecAgg+ is what its code does, and its honest rounds come out right."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from threat_models import trials
from threat_models.claim import Arm, Claim, NotInstalledError
from threat_models.claims import (
    t07_both_kinds_of_share,
    t10_weak_generator,
    t14_substituted_keys,
    t14c_weak_terms,
    t14d_ring_of_two,
    t17_metadata,
    t35_dropout_at_set_up,
)
from threat_models.peers import flower_secagg_plus as flower
from threat_models.peers import folded_seeds
from threat_models.staging.recorded_round import coordinates_read

pytest.importorskip("flwr")

TRIED = [
    module.CLAIM
    for module in (
        t07_both_kinds_of_share,
        t10_weak_generator,
        t14_substituted_keys,
        t14c_weak_terms,
        t14d_ring_of_two,
        t17_metadata,
        t35_dropout_at_set_up,
    )
]


@pytest.fixture(autouse=True)
def _the_version_that_was_read() -> None:
    try:
        flower.library()
    except NotInstalledError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("claim", TRIED, ids=[claim.id for claim in TRIED])
def test_the_attack_succeeds_against_the_library_as_shipped(claim: Claim[Any, Any]) -> None:
    trial = trials.try_once(claim, flower.NAME, 77)
    assert trial.error is None
    assert trial.metric == 1.0


def honest_round(*, dead: tuple[int, ...] = ()) -> flower.PeerRound:
    """Three clients and lists that are disjoint."""
    a_round = flower.PeerRound(5, n_clients=3, threshold=2)
    inbox = a_round.share(a_round.set_up())
    alive = [v for v in a_round.node_ids if v not in dead]
    for v in alive:
        a_round.collect(v, *inbox[v])
    for v in alive:
        a_round.ask(v, "unmask", {"active_nids": alive, "dead_nids": list(dead)})
    return a_round


@pytest.mark.parametrize("dead", [(), (3,)])
def test_control_with_disjoint_lists_the_same_attack_reads_nothing(dead: tuple[int, ...]) -> None:
    staged = honest_round(dead=dead).staged()
    assert coordinates_read(flower.read_input(staged.view), staged.truth) == 0.0


def test_control_with_the_peers_own_keys_the_server_in_the_middle_reads_nothing() -> None:
    a_round = flower.PeerRound(5, n_clients=3, threshold=2)
    inbox = a_round.share(a_round.set_up())
    a_round.collect(flower.VICTIM, *inbox[flower.VICTIM])
    staged = a_round.staged()
    assert coordinates_read(flower.read_input(staged.view), staged.truth) == 0.0


@pytest.mark.parametrize("silent", [{}, {2: "collect_masked_vectors"}, {2: "unmask"}])
def test_control_the_workflow_outlives_a_dropout_in_its_last_two_stages(silent: dict[int, str]) -> None:
    a_round = flower.PeerRound(5, n_clients=5, threshold=3)
    aggregate = a_round.flwr.run_workflow(a_round.clients, 3, silent)
    in_the_sum = [v for v in a_round.node_ids if silent.get(v) != "collect_masked_vectors"]
    expected = np.mean([a_round.clients[v].update for v in in_the_sum], axis=0)
    assert aggregate == pytest.approx(expected, abs=1e-4)


def test_the_seed_of_a_pairwise_mask_has_28_bits_that_vary() -> None:
    seen = 0
    for seed in range(12):
        a_round = flower.PeerRound(seed, n_clients=2, threshold=2)
        publics = a_round.set_up()
        mask_seed = a_round.flwr.folded(a_round.clients[1], publics[2][0])
        assert mask_seed & 0x80808080 == 0
        assert (
            int(folded_seeds.seed_of(np.array([folded_seeds.candidate_of(mask_seed)], np.uint32))[0])
            == mask_seed
        )
        seen |= mask_seed
    assert bin(seen).count("1") > 20  # of 28, after 12 draws: each is missing with probability 2^-12


def test_the_first_draws_are_those_of_numpys_generator() -> None:
    seeds = np.random.default_rng(1).integers(0, 2**32, 50, dtype=np.uint32)
    drawn = [np.random.RandomState(int(seed)).randint(0, 2**32 - 1) for seed in seeds]
    assert folded_seeds.first_draws(seeds).tolist() == drawn


@pytest.mark.slow
def test_the_whole_search_finds_the_seed_of_a_mask() -> None:
    """All 2^28 candidates: two to four minutes of one core."""
    staged = flower.folded_seed(Arm.ON, 3)
    view = staged.view
    drawn = (view.first_value - int(view.vector[0])) % 2**32  # the lower id subtracts the mask
    found = folded_seeds.seeds_that_draw(drawn)
    first = view.search_from or 0
    assert any(first <= folded_seeds.candidate_of(seed) < first + folded_seeds.SLICE for seed in found)


def test_without_the_library_its_column_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flwr", None)
    with pytest.raises(NotInstalledError, match="flwr is not installed"):
        flower.both_kinds_of_share(Arm.ON, 0)


def test_findings_about_one_version_are_not_run_against_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flwr.__version__", "9.9.9")
    with pytest.raises(NotInstalledError, match=r"flwr is 9\.9\.9"):
        flower.both_kinds_of_share(Arm.ON, 0)
