from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from secure_fed_diffusion.audit.anytime import alarm_round, e_values
from secure_fed_diffusion.audit.conformance import conformance
from secure_fed_diffusion.dp import discrete_gaussian
from secure_fed_diffusion.errors import ConfigError
from tests.audit.simulated import run


def alarms(trials: int, *, false_alarm: float, seed: int, noise_factor: float = 1.0) -> list[int | None]:
    rng = np.random.default_rng(seed)
    plan = {"n_canaries": 200, "n_rounds": 20, "rate": 0.1, "noise_factor": noise_factor}
    return [alarm_round(e_values(run(rng, **plan)), false_alarm=false_alarm) for _ in range(trials)]  # type: ignore[arg-type]


def test_a_correct_run_of_twenty_rounds_raises_no_more_alarms_than_were_allowed() -> None:
    # Fails by chance about once in a million changes of the seed.
    raised = sum(each is not None for each in alarms(1000, false_alarm=0.01, seed=41))
    assert raised <= stats.binom.ppf(1.0 - 1e-6, 1000, 0.01)


def test_the_budget_holds_far_below_what_uncorrected_tests_of_each_round_raise() -> None:
    # The reference: 19.5 % against 1 % at p < 0.05.
    rng = np.random.default_rng(42)
    seen = [run(rng, n_canaries=200, n_rounds=20, rate=0.1) for _ in range(600)]
    raised = np.mean([alarm_round(e_values(each), false_alarm=0.05) is not None for each in seen])
    energies = [
        np.cumsum(((each.residuals() / each.noise_stddevs[:, None]) ** 2).sum(axis=1)) for each in seen
    ]
    p_values = stats.chi2.cdf(np.array(energies), 200 * np.arange(1, 21))
    uncorrected = np.mean(np.any(p_values < 0.05, axis=1))
    assert raised <= 0.03
    assert uncorrected > 0.1


def test_five_percent_too_little_noise_is_caught_at_the_references_rate() -> None:
    # The reference: 96 % of runs, in the median at round 8. Fails by chance about once in 10^4 seeds.
    found = alarms(400, false_alarm=0.05, seed=43, noise_factor=0.95)
    assert np.mean([each is not None for each in found]) > 0.91
    assert np.median([each or 99 for each in found]) <= 9


@pytest.mark.parametrize("noise_factor", [0.0, 0.2, 0.5, 0.8])
def test_far_too_little_noise_is_caught_in_the_first_round_or_two(noise_factor: float) -> None:
    assert all(each in (1, 2) for each in alarms(20, false_alarm=0.01, seed=44, noise_factor=noise_factor))


def test_too_much_noise_raises_no_alarm_here_and_does_in_conformance() -> None:
    assert alarms(20, false_alarm=0.01, seed=45, noise_factor=1.3) == [None] * 20
    seen = run(np.random.default_rng(45), n_canaries=200, n_rounds=20, rate=0.1, noise_factor=1.3)
    assert conformance(seen).verdict == "failed"


def test_what_was_read_after_a_round_is_not_changed_by_later_ones() -> None:
    seen = run(np.random.default_rng(46), n_canaries=50, n_rounds=9, rate=0.3, noise_factor=0.9)
    assert e_values(seen)[:4] == pytest.approx(e_values(seen.upto(4)))


def test_the_mean_e_value_of_discrete_noise_is_one() -> None:
    # A martingale on the integers too, at ten grid units; the standard error of this mean is about 0.05.
    rng = np.random.default_rng(47)
    shape = (1500, 5)
    noise = discrete_gaussian(10.0, 7_500, entropy=rng.bytes).reshape(shape) / 10.24
    values = [
        float(e_values(run(rng, n_canaries=5, multiplier=0.01, rate=0.0, noise=row[None, :]))[-1])
        for row in noise
    ]
    assert np.mean(values) == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("false_alarm", [0.0, 1.0, -1.0])
def test_an_alarm_rate_that_means_nothing_is_refused(false_alarm: float) -> None:
    with pytest.raises(ConfigError):
        alarm_round(np.ones(3), false_alarm=false_alarm)
