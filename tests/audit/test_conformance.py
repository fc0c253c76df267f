"""A0: it keeps its false-alarm budget, and each way of breaking a run is caught by the test that it names."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from scipy import stats

from secure_fed_diffusion.audit.conformance import NoiseShares, conformance, standardised
from secure_fed_diffusion.audit.observations import CanaryObservations
from secure_fed_diffusion.audit.sampling_law import CountLaw
from secure_fed_diffusion.dp import discrete_gaussian
from secure_fed_diffusion.errors import ConfigError
from tests.audit.simulated import MAGNITUDE, run

PLAN: dict[str, Any] = {"n_canaries": 200, "n_rounds": 20, "rate": 0.1}


def p_values(seen: CanaryObservations, **settings: Any) -> dict[str, float]:
    return {test.name: test.p_value for test in conformance(seen, **settings).tests}


@pytest.mark.parametrize(
    "plan",
    [
        {"n_canaries": 200, "n_rounds": 20, "rate": 0.1},
        {"n_canaries": 64, "n_rounds": 40, "rate": 0.02},
        {"n_canaries": 100, "n_rounds": 1, "rate": 1.0},
        {"n_canaries": 40, "n_rounds": 12, "rate": 0.15, "multiplier": 0.01},  # ten grid units of noise
    ],
)
def test_a_run_that_conforms_is_accused_no_more_often_than_the_budget(plan: dict[str, Any]) -> None:
    # Fails by chance about once in a million changes of the seed.
    rng = np.random.default_rng(21)
    failed = sum(conformance(run(rng, **plan), false_alarm=0.1).verdict == "failed" for _ in range(60))
    assert failed <= stats.binom.ppf(1.0 - 1e-6, 60, 0.1)


@pytest.mark.slow
def test_a_thousand_runs_that_conform_keep_the_budget() -> None:
    # Fails by chance about once in a million changes of the seed.
    rng = np.random.default_rng(32)
    reports = [conformance(run(rng, n_canaries=100, n_rounds=30, rate=0.1)) for _ in range(1000)]
    failed = sum(report.verdict == "failed" for report in reports)
    assert failed <= stats.binom.ppf(1.0 - 1e-6, 1000, 0.01)


def test_p_values_of_a_run_that_conforms_are_no_smaller_than_uniform() -> None:
    rng = np.random.default_rng(22)
    found: dict[str, list[float]] = {}
    for _ in range(80):
        for name, value in p_values(run(rng, n_canaries=100, n_rounds=12, rate=0.2)).items():
            found.setdefault(name, []).append(value)
    assert len(found) == 9
    for name, values in found.items():
        small = np.count_nonzero(np.array(values) <= 0.1)
        assert small <= stats.binom.ppf(1.0 - 1e-7, 80, 0.1), name


def test_looks_share_one_budget() -> None:
    rng = np.random.default_rng(23)
    accused = 0
    for _ in range(40):
        seen = run(rng, n_canaries=60, n_rounds=6, rate=0.2)
        looks = (conformance(seen.upto(r), false_alarm=0.1, looks=6) for r in range(1, 7))
        accused += any(look.verdict == "failed" for look in looks)
    assert accused <= stats.binom.ppf(1.0 - 1e-6, 40, 0.1)
    assert conformance(seen, false_alarm=0.1, looks=10).false_alarm == pytest.approx(0.01)


def test_noise_of_few_grid_units_is_not_taken_for_another_law() -> None:
    # Against the continuous Gaussian the steps of the integers would show at once.
    for seed in range(10):
        noise = discrete_gaussian(8.0, 20_000, entropy=np.random.default_rng(seed).bytes).reshape(4, 5000)
        nothing = np.zeros((4, 5000), dtype=np.int64)
        seen = CanaryObservations(
            sums=noise,
            included=np.zeros(5000, dtype=bool),
            counts=nothing,
            rates=np.full((4, 5000), 0.1),
            magnitudes=np.full(4, 8),
            noise_stddevs=np.full(4, 8.0),
            sensitivities=np.full(4, 8.0),
        )
        assert p_values(seen)["noise distribution"] > 1e-3
    shifted = dataclasses.replace(seen, sums=noise + 1)
    assert p_values(shifted)["noise distribution"] < 1e-3


def reused_noise(rng: np.random.Generator) -> CanaryObservations:
    noise = rng.normal(size=(20, 200))
    noise[13] = noise[4]
    return run(rng, **PLAN, noise=noise)


def negated_noise(rng: np.random.Generator) -> CanaryObservations:
    noise = rng.normal(size=(20, 200))
    noise[7] = -noise[6]
    return run(rng, **PLAN, noise=noise)


def one_noise_for_two_canaries(rng: np.random.Generator) -> CanaryObservations:
    noise = rng.normal(size=(20, 200))
    noise[:, 100:] = noise[:, :100]
    return run(rng, **PLAN, noise=noise)


def shuffled(rng: np.random.Generator) -> CanaryObservations:
    epochs = [rng.permutation(np.arange(200) % 10) for _ in range(2)]
    counts = np.array([epoch == step for epoch in epochs for step in range(10)])
    return run(rng, **PLAN, counts=counts)


def uniform_noise(rng: np.random.Generator) -> CanaryObservations:
    return run(rng, **PLAN, noise=rng.uniform(-np.sqrt(3), np.sqrt(3), size=(20, 200)))


def a_round_for_all_canaries(rng: np.random.Generator) -> CanaryObservations:
    return run(rng, **PLAN, counts=np.repeat(rng.random((20, 1)) < 0.1, 200, axis=1))


BROKEN: dict[str, tuple[Any, str]] = {
    "noise halved": (lambda rng: run(rng, **PLAN, noise_factor=0.5), "noise variance"),
    "no noise": (lambda rng: run(rng, **PLAN, noise_factor=0.0), "noise variance"),
    "a tenth too little noise": (lambda rng: run(rng, **PLAN, noise_factor=0.9), "noise variance"),
    "a tenth too much noise": (lambda rng: run(rng, **PLAN, noise_factor=1.1), "noise variance"),
    "noise of another law": (uniform_noise, "noise distribution"),
    "biased noise": (lambda rng: run(rng, **PLAN, noise=rng.normal(size=(20, 200)) + 0.1), "noise mean"),
    "no clip": (lambda rng: run(rng, **PLAN, real_magnitude=4 * MAGNITUDE), "canary magnitude"),
    "half of the canary lost": (
        lambda rng: run(rng, **PLAN, real_magnitude=MAGNITUDE // 2),
        "canary magnitude",
    ),
    "noise reused in a later round": (reused_noise, "correlation between rounds"),
    "noise that cancels the round before": (negated_noise, "correlation between rounds"),
    "one noise for two coordinates": (one_noise_for_two_canaries, "correlation between canaries"),
    "shuffled, not sampled": (shuffled, "sampling pattern of a canary"),
    "all or none of the records in a round": (a_round_for_all_canaries, "sampling pattern of a round"),
    "twice the rate": (lambda rng: run(rng, **PLAN, real_rate=0.2), "sampling rate"),
    "full batches": (lambda rng: run(rng, **PLAN, real_rate=1.0), "sampling rate"),
}


@pytest.mark.parametrize("mutant", list(BROKEN))
def test_a_broken_run_is_caught_by_the_test_of_what_is_broken(mutant: str) -> None:
    broken, name = BROKEN[mutant]
    for seed in range(3):
        report = conformance(broken(np.random.default_rng(seed)))
        assert report.verdict == "failed"
        assert name in report.failures


def test_a_canary_whose_client_is_gone_must_not_be_in_the_sum() -> None:
    seen = run(np.random.default_rng(24), n_canaries=10, included=np.ones(10, dtype=bool), rate=1.0)
    absent = dataclasses.replace(seen, rates=np.zeros_like(seen.rates))
    assert "sampling rate" in conformance(absent).failures


def test_a_canary_sampled_twice_in_a_round_is_a_violation() -> None:
    seen = run(np.random.default_rng(25), n_canaries=10, included=np.ones(10, dtype=bool), rate=0.9)
    twice = dataclasses.replace(seen, counts=2 * seen.counts, sums=seen.sums + MAGNITUDE * seen.counts)
    assert "sampling rate" in conformance(twice).failures


def test_the_smallest_violations_are_caught_as_often_as_the_report_says() -> None:
    # Binomial with 100 trials: below these bounds about once in 10^4 changes of the seed.
    rng = np.random.default_rng(26)
    plan: dict[str, Any] = {"n_canaries": 100, "n_rounds": 10, "rate": 0.2}
    everyone = np.ones(100, dtype=bool)
    smallest = conformance(run(rng, **plan, included=everyone)).smallest_violation
    assert smallest.noise_shortfall is not None
    assert smallest.oversampling is not None
    assert 0.05 < smallest.noise_shortfall < 0.15
    caught = {"noise variance": 0, "sampling rate": 0}
    for _ in range(100):
        broken = run(
            rng,
            **plan,
            included=everyone,
            noise_factor=1.0 - smallest.noise_shortfall,
            real_rate=0.2 * (1.0 + smallest.oversampling),
        )
        for name in conformance(broken).failures:
            caught[name] = caught.get(name, 0) + 1
    assert 0.86 <= caught["noise variance"] / 100 <= 1.0
    assert 0.86 <= caught["sampling rate"] / 100 <= 1.0


def test_more_canaries_see_smaller_violations() -> None:
    rng = np.random.default_rng(27)
    found = [conformance(run(rng, n_canaries=m, n_rounds=5, rate=0.2)).smallest_violation for m in (30, 300)]
    assert (found[1].noise_shortfall or 1.0) < (found[0].noise_shortfall or 0.0) / 2
    assert (found[1].oversampling or 9.0) < (found[0].oversampling or 0.0)
    assert "%" in str(found[0])


def test_without_sampling_no_oversampling_can_be_seen_and_the_report_says_so() -> None:
    report = conformance(run(np.random.default_rng(28), n_canaries=20, rate=1.0))
    assert report.smallest_violation.oversampling is None
    assert "sampling rate: none" in str(report.smallest_violation)


def test_clients_that_share_a_stream_are_caught() -> None:
    rng = np.random.default_rng(29)
    draws = np.rint(500.0 * rng.normal(size=(3, 5, 1000))).astype(np.int64)
    seen, stddevs = run(rng, **PLAN), np.full(3, 500.0)
    honest = conformance(seen, shares=NoiseShares(draws=draws, stddevs=stddevs))
    assert "correlation between clients" not in honest.failures
    assert len(honest.tests) == len(conformance(seen).tests) + 2
    draws[2, 4] = draws[1, 0]
    assert (
        "correlation between clients"
        in conformance(seen, shares=NoiseShares(draws=draws, stddevs=stddevs)).failures
    )
    draws[:, 0] = 0
    assert (
        "noise variance of the shares"
        in conformance(seen, shares=NoiseShares(draws=draws, stddevs=stddevs)).failures
    )


def test_residuals_are_measured_in_the_noise_of_their_own_round() -> None:
    seen = run(np.random.default_rng(30), n_canaries=400, n_rounds=2)
    louder = dataclasses.replace(
        seen,
        sums=seen.magnitudes[:, None] * seen.counts + seen.residuals() * np.array([[1], [3]]),
        noise_stddevs=seen.noise_stddevs * np.array([1.0, 3.0]),
    )
    assert standardised(louder) == pytest.approx(standardised(seen))
    assert conformance(louder).verdict == "passed"


@pytest.mark.parametrize("rates", [[0.3] * 7, [0.1, 0.5, 0.9, 0.25]])
def test_the_law_of_a_count_is_exact(rates: list[float]) -> None:
    masses = np.array([1.0])
    for rate in rates:
        masses = np.convolve(masses, [1.0 - rate, rate])
    law = CountLaw.of(np.array(rates))
    assert law.masses() == pytest.approx(masses, abs=1e-12)
    assert law.two_sided(len(rates)) == pytest.approx(2 * masses[-1])


def test_the_detectable_excess_is_the_least_one() -> None:
    law = CountLaw.of(np.full(500, 0.1))
    excess = law.detectable_excess(0.01, 0.95)
    assert excess is not None
    critical = int(stats.binom.isf(0.005, 500, 0.1)) + 1
    assert stats.binom.sf(critical - 1, 500, 0.1 * (1 + excess)) >= 0.95
    assert stats.binom.sf(critical - 1, 500, 0.1 * (1 + excess - 0.03)) < 0.95
    assert CountLaw.of(np.array([0.5, 0.5])).detectable_excess(0.01, 0.95) is None


@pytest.mark.parametrize(("false_alarm", "looks"), [(0.0, 1), (1.0, 1), (0.01, 0)])
def test_a_budget_that_means_nothing_is_refused(false_alarm: float, looks: int) -> None:
    with pytest.raises(ConfigError):
        conformance(run(np.random.default_rng(31), n_canaries=5), false_alarm=false_alarm, looks=looks)
