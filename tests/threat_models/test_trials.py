"""The runner can fail: whatever is wrong with a claim, it does not come out as written."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secure_fed_diffusion.errors import ConfigError
from threat_models import results
from threat_models.claim import Arm, Claim, Counts, NotInstalledError, Staged, Tags, Threshold, Verdict
from threat_models.trials import Result, collect, interval, run, trials

from . import made_up


def arms_of(result: Result) -> dict[str, Verdict]:
    return {name: column.verdict for name, column in result.arms.items()}


def test_a_sound_claim_comes_out_as_written() -> None:
    result = run(made_up.claim())
    assert arms_of(result) == {"off": "succeeds", "on": "fails", "dropped": "succeeds"}
    assert result.as_written


def test_a_claim_whose_defence_is_gone_does_not() -> None:
    result = run(made_up.claim(stage=made_up.stage_without_defence))
    assert arms_of(result)["on"] is Verdict.SUCCEEDS
    assert not result.as_written


def test_a_claim_whose_attack_does_not_bite_does_not() -> None:
    result = run(made_up.claim(attack=made_up.attack_that_does_not_bite))
    assert arms_of(result) == {"off": "fails", "on": "fails", "dropped": "fails"}
    assert not result.as_written


def test_a_claim_whose_dropped_assumption_carries_nothing_does_not() -> None:
    def stage(arm: Arm, seed: int) -> Staged[Any]:
        return made_up.stage(Arm.OFF if arm is Arm.OFF else Arm.ON, seed)

    result = run(made_up.claim(stage=stage))
    assert arms_of(result)["dropped"] is Verdict.FAILS
    assert not result.as_written


def test_a_non_claim_whose_attack_fails_does_not() -> None:
    assert not run(made_up.claim(promised=False, dropped_assumption=None)).as_written
    promised_by_nobody = made_up.claim(
        promised=False, dropped_assumption=None, stage=made_up.stage_without_defence
    )
    result = run(promised_by_nobody)
    assert set(result.arms) == {"off", "on"}
    assert result.as_written


def test_a_view_with_a_handle_in_it_fails_the_claim_and_says_where() -> None:
    result = run(made_up.claim(stage=made_up.stage_with_a_handle))
    assert not result.as_written
    assert "Sealed.extra: expected plain data, got Generator" in str(result.arms["on"].error)


def test_a_view_of_another_type_fails_the_claim_even_if_it_is_a_subclass() -> None:
    result = run(made_up.claim(stage=made_up.stage_of_another_view))
    assert "expected a view of exactly Sealed, got Wider" in str(result.arms["on"].error)
    assert not result.as_written


def test_a_view_in_the_memory_of_the_truth_fails_the_claim() -> None:
    def stage(arm: Arm, seed: int) -> Staged[Any]:
        truth = np.arange(4)
        return Staged(made_up.Sealed(0, extra=truth[:2]), truth)

    result = run(made_up.claim(stage=stage))
    assert "lies in the memory of the truth" in str(result.arms["off"].error)


def test_an_attack_gets_a_view_and_no_truth() -> None:
    got = []

    def stage(arm: Arm, seed: int) -> Staged[Any]:
        return Staged(made_up.Sealed(7), "the truth")

    claim = made_up.claim(stage=stage)
    object.__setattr__(claim, "attack", lambda *args: got.append(args) or 0)
    trials(claim, 0)
    assert {len(args) for args in got} == {1}
    assert {type(args[0]) for args in got} == {made_up.Sealed}


def test_an_exception_in_one_trial_fails_the_claim_and_is_shown() -> None:
    result = run(made_up.claim(stage=made_up.stage_that_breaks))
    error = str(result.arms["on"].error)
    assert "seed 3: ZeroDivisionError: the system fell over (made_up.py:" in error
    assert result.arms["on"].verdict is Verdict.UNCLEAR
    assert result.arms["off"].as_written
    assert not result.as_written


def test_a_missing_trial_fails_the_claim() -> None:
    claim = made_up.claim()
    some = [trial for seed in claim.seeds[:-1] for trial in trials(claim, seed)]
    result = collect(claim, some)
    assert not result.as_written
    assert result.arms["on"].error == "seed 4: no trial"


@pytest.mark.parametrize("metric", [math.nan, math.inf, Counts(3, 2), Counts(0, 0)])
def test_a_metric_that_is_none_fails_the_claim(metric: Any) -> None:
    assert not run(made_up.claim(judge=lambda guess, truth: metric)).as_written


def test_an_interval_across_a_threshold_is_unclear_and_not_as_written() -> None:
    values = iter([0.0, 0.2, 0.0, 0.2, 0.0] * 3)
    result = run(made_up.claim(judge=lambda guess, truth: next(values)))
    assert result.arms["on"].verdict is Verdict.UNCLEAR
    assert not result.as_written


def test_few_trials_prove_little() -> None:
    assert interval([Counts(1, 1)] * 5)[1] == pytest.approx(0.478, abs=1e-3)  # Clopper and Pearson 1934
    wide = run(made_up.claim(judge=made_up.counting(1, 1)))
    assert wide.arms["off"].verdict is Verdict.UNCLEAR


def test_proportions_are_pooled_and_other_figures_get_student_s_interval() -> None:
    mean, low, high = interval([Counts(9, 10), Counts(10, 10)])
    assert (mean, round(low, 4), round(high, 4)) == (0.95, 0.7513, 0.9987)
    mean, low, high = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (mean, round(high - mean, 3)) == (3.0, 1.963)  # 2.776 · 1.581 / √5
    with pytest.raises(ConfigError):
        interval([0.5, Counts(1, 2)])


def test_student_s_interval_covers_as_often_as_it_says() -> None:
    """20,000 samples of five: the share within has a standard error of 0.0015; 0.008 is five of them."""
    drawn = np.random.default_rng(1).normal(size=(20_000, 5))
    inside = [low <= 0.0 <= high for _, low, high in (interval(list(row)) for row in drawn)]
    assert abs(np.mean(inside) - 0.95) < 0.008


def test_a_peer_that_is_not_installed_has_an_empty_column_and_one_that_breaks_an_error() -> None:
    def missing(arm: Arm, seed: int) -> Staged[Any]:
        raise NotInstalledError("no such library")

    absent = run(made_up.claim(peers={"other": missing}))
    assert absent.as_written
    assert not absent.peers["other"].installed
    broken = run(made_up.claim(peers={"other": made_up.stage_that_breaks}))
    assert not broken.as_written


def test_a_claim_that_needs_a_missing_library_is_not_run_but_one_arm_alone_cannot_be_missing() -> None:
    def missing(arm: Arm, seed: int) -> Staged[Any]:
        raise NotInstalledError("no such library")

    def missing_when_on(arm: Arm, seed: int) -> Staged[Any]:
        return missing(arm, seed) if arm is Arm.ON else made_up.stage(arm, seed)

    claim = made_up.claim()
    ours = run(made_up.claim(stage=missing))
    assert ours.as_written
    assert not ours.installed
    assert not run(made_up.claim(stage=missing_when_on)).as_written
    old = run(claim)
    assert results.merged({"T99": ours}, {"T99": old}, {"T99": claim})["T99"] == old


def test_a_peer_is_tried_and_nothing_is_expected_of_it() -> None:
    result = run(made_up.claim(peers={"other": made_up.stage_without_defence}))
    assert result.peers["other"].verdict is Verdict.SUCCEEDS
    assert result.as_written


@pytest.mark.parametrize(
    "changes",
    [
        {"seeds": (0, 1, 2, 3)},
        {"seeds": (0, 1, 2, 3, 3)},
        {"dropped_assumption": None},
        {"view": dict},
        {"attack": lambda view: 0},
        {"attack": made_up.judge},
        {"attack": print},
    ],
    ids=lambda changes: "-".join(changes),
)
def test_a_claim_that_could_not_prove_anything_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises((ConfigError, TypeError)):
        made_up.claim(**changes)


def test_an_attack_that_carries_something_in_its_closure_is_refused() -> None:
    secret = 3

    def attack(view: made_up.Sealed) -> int:
        return secret

    with pytest.raises(ConfigError, match="closure"):
        made_up.claim(attack=attack)


def test_a_threshold_leaves_a_gap() -> None:
    with pytest.raises(ConfigError):
        Threshold(succeeds=0.5, fails=0.5)


@pytest.mark.parametrize(
    "tags", [{"stride": ("Sabotage",)}, {"linddun": ("Leaking",)}, {"atlas": ("AML.T9",)}]
)
def test_a_tag_that_its_taxonomy_does_not_have_is_refused(tags: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected one of"):
        Tags(**tags)


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    done = {"T99": run(made_up.claim(peers={"other": made_up.stage}, judge=made_up.counting(3, 4)))}
    results.write(done, tmp_path / "results.json")
    assert results.read(tmp_path / "results.json") == done
    assert str(tmp_path) not in (tmp_path / "results.json").read_text()


def changed(**changes: Any) -> Claim[Any, Any]:
    return made_up.claim(**changes)


@pytest.mark.parametrize(
    ("claim", "why"),
    [
        (changed(threshold=Threshold(succeeds=0.8, fails=0.1)), "was run for"),
        (changed(seeds=(0, 1, 2, 3, 4, 5)), "over the seeds"),
        (changed(promised=False), "something else was expected"),
        (changed(promised=False, dropped_assumption=None), "in the arms"),
        (changed(peers={"other": made_up.stage}), "against no peer"),
        (changed(id="T98"), "has no result"),
    ],
)
def test_results_of_another_claim_are_stale(claim: Claim[Any, Any], why: str) -> None:
    done = {"T99": run(made_up.claim())}
    assert results.stale({"T99": made_up.claim()}, done) == {}
    assert why in results.stale({claim.id: claim}, done)[claim.id]


def test_a_peer_that_is_not_installed_here_keeps_the_column_that_it_had() -> None:
    def missing(arm: Arm, seed: int) -> Staged[Any]:
        raise NotInstalledError("no such library")

    claim = made_up.claim(peers={"other": made_up.stage})
    old = run(claim)
    new = run(made_up.claim(peers={"other": missing}))
    kept = results.merged({"T99": new}, {"T99": old, "T98": old}, {"T99": claim})
    assert list(kept) == ["T99"]
    assert kept["T99"].peers == old.peers
    assert json.dumps(kept["T99"].to_dict())
