"""Clients that missed rounds: A1 keeps its confidence, whoever was there when, and its power."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from secure_fed_diffusion.audit.lower_bounds import error_rate_bound, likelihood_ratio_bound
from secure_fed_diffusion.audit.observations import CanaryObservations
from secure_fed_diffusion.audit.participation import ASSUMPTION, MOST_CURVES, Participation, envelope
from secure_fed_diffusion.audit.scores import errors, likelihood_ratios
from secure_fed_diffusion.audit.tradeoff import NoiseLadder, total_variation
from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.federation.schedule import make_schedule
from secure_fed_diffusion.federation.settings import FederationSettings
from tests.audit.simulated import MAGNITUDE, run
from tests.audit.test_lower_bounds import too_many

DELTA = 1e-5


def observed(rng: np.random.Generator, rates: np.ndarray, multipliers: np.ndarray) -> CanaryObservations:
    """Return what a run shows that does what these rates (rounds, canaries) and multipliers say."""
    included = rng.random(rates.shape[1]) < 0.5
    counts = ((rng.random(rates.shape) < rates) & included).astype(np.int64)
    stddevs = MAGNITUDE * multipliers
    noise = np.rint(rng.normal(size=rates.shape) * stddevs[:, None]).astype(np.int64)
    return CanaryObservations(
        sums=MAGNITUDE * counts + noise,
        included=included,
        counts=counts,
        rates=rates,
        magnitudes=np.full(len(rates), MAGNITUDE),
        noise_stddevs=stddevs,
        sensitivities=np.full(len(rates), float(MAGNITUDE)),
    )


def attended(lists: list[list[int]], n_canaries: int, n_rounds: int, rate: float = 1.0) -> np.ndarray:
    """Return the rates (rounds, canaries) of canaries that are dealt to these lists of rounds in turn."""
    rates = np.zeros((n_rounds, n_canaries))
    for canary in range(n_canaries):
        rates[lists[canary % len(lists)], canary] = rate
    return rates


def test_a_correct_run_whose_clients_are_in_half_of_the_rounds_is_not_accused() -> None:
    # Rounds whose loss is rare and large, beside rounds that tell much.  Held to the curve of all ten, which
    # nobody was in, such runs were accused every time; the confidence is the verdict's.
    settings = FederationSettings(clients=40, clients_per_round=20, colluders=1, min_survivors=12)
    plan = make_schedule(settings, n_prototypes=0, n_training=10, seed=0, phases=(1, 3))
    first = np.array([each.release == "training" for each in plan])
    owners = np.arange(6000) % 40
    here = np.array([np.isin(owners, each.cohort) for each in plan])
    rates = np.where(here, np.where(first, 1.0, 2.2e-6)[:, None], 0.0)
    assert set(here[first].sum(axis=0)) == {1}
    assert set(here[~first].sum(axis=0)) == {4}
    true = NoiseLadder(rounds=((0.1, 2.2e-6, 4), (1.0, 1.0, 1))).epsilon(1.0, DELTA)
    assert true == pytest.approx(4.85, abs=0.01)
    rng = np.random.default_rng(7)
    for _ in range(3):
        seen = observed(rng, rates, np.where(first, 1.0, 0.1))
        assert 4.0 < likelihood_ratio_bound(seen, delta=DELTA, confidence=0.99).epsilon <= true


def test_a_bound_over_unequal_lists_exceeds_the_epsilon_of_the_longest_no_more_often_than_it_says() -> None:
    rng = np.random.default_rng(31)
    rates = attended([[0], [0, 1], [1, 2], [2]], 80, 3)
    multipliers = np.array([1.0, 1.5, 2.0])
    true = NoiseLadder(rounds=((1.0, 1.0, 1), (1.5, 1.0, 1))).epsilon(1.0, DELTA)
    found = [
        likelihood_ratio_bound(observed(rng, rates, multipliers), delta=DELTA).epsilon for _ in range(200)
    ]
    assert np.count_nonzero(np.array(found) > true) <= too_many(200)
    assert np.median(found) > 0.3 * true


def test_less_noise_than_planned_lifts_the_bound_over_what_the_longest_list_claims() -> None:
    lists = [[0, 1], [1, 2, 3], [0, 3]]
    seen = observed(np.random.default_rng(32), attended(lists, 600, 4), np.ones(4))
    drawn = MAGNITUDE * seen.counts
    broken = dataclasses.replace(seen, sums=drawn + (seen.sums - drawn) // 3)
    claimed = NoiseLadder(rounds=((1.0, 1.0, 3),)).epsilon(1.0, DELTA)
    assert likelihood_ratio_bound(seen, delta=DELTA).epsilon < claimed
    assert likelihood_ratio_bound(broken, delta=DELTA).epsilon > claimed


def test_where_every_canary_is_in_every_round_the_bound_is_that_of_both_error_rates() -> None:
    seen = run(np.random.default_rng(33), n_canaries=150, n_rounds=3, rate=0.5)
    calls = errors(likelihood_ratios(seen), seen.included)
    expected = error_rate_bound(seen=calls, family=NoiseLadder.of(seen), delta=DELTA)
    found = likelihood_ratio_bound(seen, delta=DELTA)
    assert found == dataclasses.replace(expected, auditor=found.auditor)
    assert ASSUMPTION not in found.conditional_on


def test_equal_rounds_at_other_times_are_one_list() -> None:
    seen = observed(np.random.default_rng(34), attended([[0, 1], [2, 3]], 100, 4), np.ones(4))
    assert Participation.of(seen).ladders == ((NoiseLadder(rounds=((1.0, 1.0, 2),)), 100),)
    found = likelihood_ratio_bound(seen, delta=DELTA)
    expected = error_rate_bound(
        errors(likelihood_ratios(seen), seen.included), NoiseLadder(rounds=((1.0, 1.0, 2),)), delta=DELTA
    )
    assert found.epsilon == expected.epsilon > 0.0
    assert ASSUMPTION in found.conditional_on  # when they were there is public, and must be no secret's doing


def test_canaries_that_could_be_in_no_round_change_no_bound() -> None:
    rates = attended([[0], [1, 2], [], []], 400, 3)
    seen = observed(np.random.default_rng(35), rates, np.ones(3))
    there = rates.any(axis=0)
    alone = dataclasses.replace(
        seen,
        sums=seen.sums[:, there],
        included=seen.included[there],
        counts=seen.counts[:, there],
        rates=rates[:, there],
    )
    found = likelihood_ratio_bound(seen, delta=DELTA)
    assert found == likelihood_ratio_bound(alone, delta=DELTA)
    assert found.n_canaries == 200
    assert found.epsilon > 0.0


def test_a_run_that_no_canary_could_be_in_is_refused() -> None:
    nowhere = run(np.random.default_rng(36), n_canaries=4, rate=0.0)
    with pytest.raises(ConfigError, match=r"observations\.rates"):
        Participation.of(nowhere)
    with pytest.raises(ConfigError, match=r"observations\.rates"):
        likelihood_ratio_bound(nowhere, delta=DELTA)


def test_an_envelope_tells_at_least_what_each_of_its_lists_tells() -> None:
    lists = [((0.8, 0.2, 3), (1.5, 0.2, 2)), ((1.0, 0.2, 6),), ((0.9, 0.2, 1), (1.2, 0.4, 2))]
    above = envelope(lists)
    assert above.rounds == ((0.8, 0.2, 3), (1.0, 0.2, 3), (1.2, 0.4, 2))
    for loss in (0.5, 1.0, 2.0):
        assert all(total_variation(each, loss) <= total_variation(above.rounds, loss) for each in lists)
        assert all(NoiseLadder(each).epsilon(loss, DELTA) <= above.epsilon(loss, DELTA) for each in lists)
    assert envelope(lists[:1]).rounds == lists[0]


def test_a_few_curves_stand_for_many_lists_and_allow_no_fewer_errors_than_they_do() -> None:
    rng = np.random.default_rng(37)
    lists = [sorted(rng.choice(30, size=int(rng.integers(4, 20)), replace=False).tolist()) for _ in range(24)]
    seen = observed(rng, attended(lists, 200, 30, rate=0.3), np.sqrt(rng.integers(4, 8, size=30) / 4.0))
    there = Participation.of(seen)
    curves = there.curves()
    assert len(there.ladders) > 20
    assert len(curves) == MOST_CURVES
    assert sum(size for _, size in curves) == there.n_canaries == 200
    distances = [total_variation(ladder.rounds, 1.0) for ladder, _ in curves]
    assert distances == sorted(distances)
    own = sum(size * total_variation(ladder.rounds, 1.0) for ladder, size in there.ladders)
    dominating = sum(size * distance for (_, size), distance in zip(curves, distances, strict=True))
    assert own <= dominating < 1.2 * own
    assert there.epsilon(1.0, DELTA) == max(ladder.epsilon(1.0, DELTA) for ladder, _ in there.ladders)


def test_the_factor_that_is_found_is_the_last_that_the_mean_error_rules_out() -> None:
    # one unsampled round of multiplier 1 errs Φ(−L/2) at least, two of them Φ(−L/√2)
    there = Participation(((NoiseLadder(((1.0, 1.0, 1),)), 30), (NoiseLadder(((1.0, 1.0, 2),)), 10)))
    for loss in (0.7, 1.0, 1.6):
        error = (30 * _tail(loss / 2.0) + 10 * _tail(loss / math.sqrt(2.0))) / 40
        found = there.largest(error)
        assert found is not None
        assert loss / 1.01 < found <= loss * (1 + 1e-9)
    assert there.largest(0.5) is None


def _tail(value: float) -> float:
    return math.erfc(value / math.sqrt(2.0)) / 2.0
