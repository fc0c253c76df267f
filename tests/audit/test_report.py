"""The audit of a folder: correct runs pass, broken ones are accused by name, and nothing is claimed unseen.

Coins and noise are seeded.  How often a bound or a test is wrong is counted elsewhere (`test_lower_bounds`,
`test_conformance`).
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from secure_fed_diffusion.audit.evidence import looks, sum_views
from secure_fed_diffusion.audit.journal import Journal
from secure_fed_diffusion.audit.lower_bounds import LowerBound
from secure_fed_diffusion.audit.realised import realised_epsilons
from secure_fed_diffusion.audit.report import NO_CANARIES, FolderAudit, audit_folder
from secure_fed_diffusion.dp import View, epsilon, verify
from secure_fed_diffusion.errors import RunError
from tests.audit.audited_folder import CANARIES, FALSE_ALARM, ROUNDS, SURVIVORS, training, write_folder


def audit(folder: Path) -> FolderAudit:
    return audit_folder(folder, verify(folder / "ledger.jsonl"))


@pytest.fixture(scope="module")
def correct(tmp_path_factory: pytest.TempPathFactory) -> FolderAudit:
    return audit(write_folder(tmp_path_factory.mktemp("folders") / "correct"))


def test_a_correct_run_passes_and_its_lower_bound_is_under_both_upper_ones(correct: FolderAudit) -> None:
    assert correct.verdict == "passed"
    assert correct.passed
    assert correct.accused == ()
    last = correct.last
    assert last is not None
    assert last.lower is not None
    assert last.realised is not None
    assert last.number == ROUNDS + 1
    assert 0.0 <= last.lower.epsilon < last.realised < last.upper["sum_c0"]["pld"]
    assert last.lower.confidence == 0.95
    assert last.lower.n_canaries == CANARIES


def test_every_round_has_its_upper_bounds_and_those_with_canaries_the_rest(correct: FolderAudit) -> None:
    warm_up, *others = correct.rounds
    assert warm_up.lower is warm_up.evidence is warm_up.realised is None
    assert warm_up.upper["sum_c0"]["pld"] > 0
    assert [each.number for each in others] == list(range(2, ROUNDS + 2))
    for each in others:
        assert each.lower is not None
        assert each.evidence is not None
        assert each.evidence.conformance.verdict == "passed"
        assert each.evidence.e_value < each.evidence.alarm
    shortfalls = [each.evidence.conformance.smallest_violation.noise_shortfall for each in others]
    assert shortfalls == sorted(shortfalls, reverse=True)  # more rounds, smaller violations are seen


def test_the_false_alarm_budget_is_shared_by_the_tests_and_by_all_planned_rounds(tmp_path: Path) -> None:
    found = audit(write_folder(tmp_path / "run", rounds=2, planned=10)).last
    assert found is not None
    assert found.evidence is not None
    assert found.evidence.conformance.false_alarm == pytest.approx(FALSE_ALARM / 2 / 10)
    assert found.evidence.alarm == pytest.approx(2 / FALSE_ALARM)


def test_too_little_noise_is_accused_by_a0_and_a6_from_the_first_round_on(tmp_path: Path) -> None:
    found = audit(write_folder(tmp_path / "run", noise=0.5))
    assert found.verdict == "failed"
    assert not found.passed
    assert {"A0 noise variance (from round 2)", "A6 too little noise (from round 2)"} <= set(found.accused)
    assert found.finding.startswith("This run does NOT do what its plan says: A0")


def test_too_much_noise_is_accused_by_a0_alone(tmp_path: Path) -> None:
    found = audit(write_folder(tmp_path / "run", noise=2.0))
    assert any(name.startswith("A0 noise variance") for name in found.accused)
    assert not any(name.startswith("A6") for name in found.accused)


def test_a_lower_bound_over_the_upper_one_is_an_accusation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    high = LowerBound(
        epsilon=9.0, confidence=0.95, delta=1e-5, auditor="A1", conditional_on="nothing", n_canaries=200
    )
    monkeypatch.setattr("secure_fed_diffusion.audit.report.lower_bound", lambda *_, **__: high)
    found = audit(write_folder(tmp_path / "run", rounds=2))
    assert found.accused == ("A1: the lower bound exceeds the upper one",)
    assert not found.passed


def test_a_bound_above_the_guarantee_that_accuses_nobody_is_said_to_be_one(correct: FolderAudit) -> None:
    last, accusing = correct.last, correct.accusing
    assert last is not None
    assert last.lower is not None
    assert accusing is not None
    most = last.upper["sum_c0"]["pld"]
    assert "With 95 % confidence the sums gave away at least ε = " in correct.finding
    assert "lies above" not in " ".join((correct.finding, *correct.sentences))
    high = replace(last, lower=replace(last.lower, epsilon=most + 2.0))
    found = replace(correct, rounds=(*correct.rounds[:-1], high))
    assert found.verdict == "passed"
    for said in (found.finding, found.sentences[2]):
        assert re.match(r"The 95 % lower bound \([\d.]+\) lies above the ledger's \([\d.]+\), as it", said)
        assert "may in up to 5 % of correct runs; at 99.9999 % it does not" in said
    assert "at most" not in found.finding
    # where it does at the verdict's confidence too, that is an accusation, and the only thing said
    found = replace(found, accusing=replace(accusing, epsilon=most + 1.0))
    assert found.finding.startswith("This run does NOT do what its plan says: A1")
    assert "as it may in" not in " ".join((found.finding, *found.sentences))


@pytest.mark.slow
def test_next_to_no_noise_lifts_the_lower_bound_over_the_upper_one(tmp_path: Path) -> None:
    found = audit(write_folder(tmp_path / "run", noise=0.02))
    assert "A1 likelihood ratio: the lower bound exceeds the upper one" in found.accused


def test_an_alarm_of_an_early_round_stays(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "run", noise=1.0)
    journal = Journal(folder)
    lines = list(journal.rounds())
    second = lines[1]
    assert second.sums is not None
    assert second.counts is not None
    drawn = second.magnitude * second.counts
    lines[1] = replace(second, sums=drawn + (second.sums - drawn) // 2)
    for index in range(2, len(lines)):  # then far more noise than planned: the e-value falls again
        each = lines[index]
        drawn = each.magnitude * each.counts
        lines[index] = replace(each, sums=drawn + (each.sums - drawn) * 3)
    journal.lines_path.write_text("".join(line.to_json() for line in lines))
    found = audit(folder)
    last = found.last
    assert last is not None
    assert last.evidence is not None
    assert last.evidence.e_value < 1.0 < last.evidence.alarm < last.evidence.highest_e_value
    assert "A6 too little noise (from round 2)" in found.accused


def test_without_canaries_nothing_is_claimed_to_be_checked(tmp_path: Path) -> None:
    found = audit(write_folder(tmp_path / "run", canaries=0))
    assert found.verdict == "not checked"
    assert found.sentences == (NO_CANARIES,)
    assert found.passed  # nothing speaks against it; the sentence says what that is worth
    assert len(found.rounds) == ROUNDS + 1
    assert all(each.lower is None and each.evidence is None for each in found.rounds)


def test_before_the_first_round_with_canaries_nothing_is_claimed_either(tmp_path: Path) -> None:
    found = audit(write_folder(tmp_path / "run", rounds=0))
    assert found.verdict == "not checked"
    assert found.sentences[0] == "No round with canaries is over yet."


def test_notes_without_their_coins_are_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "run")
    (folder / "canaries.json").unlink()
    with pytest.raises(RunError, match=r"canaries\.json is gone"):
        audit(folder)


def test_the_realised_epsilon_is_that_of_the_survivors_noise(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "run", rounds=3)
    rounds = Journal(folder).rounds()
    view = View(name="sum")
    found = realised_epsilons(folder / "ledger.jsonl", rounds, view=view, wanted=[1, 4])
    ledger = verify(folder / "ledger.jsonl")
    by_name = ledger.terms.mechanisms
    most = max(sum(c in each.survivors for each in rounds) for c in range(6))
    assert (
        most == 4
    )  # five of six survive each of four rounds: somebody was in all of them, or seed 0 changed
    counts = {
        replace(by_name["prototypes"], min_survivors=SURVIVORS): 1,
        replace(by_name["training"], min_survivors=SURVIVORS): 3,
    }
    assert found[4] == pytest.approx(epsilon(counts, delta=1e-5, view=view))
    assert found[1] < found[4] < ledger.rounds[4]["sum_c0"]["pld"]


def test_an_attempt_without_notes_is_priced_at_the_plan_s_fewest_survivors(tmp_path: Path) -> None:
    view = View(name="sum")
    found = {}
    for failed in (False, True):
        folder = write_folder(tmp_path / str(failed), rounds=3, failed_attempt=failed)
        found[failed] = realised_epsilons(
            folder / "ledger.jsonl", Journal(folder).rounds(), view=view, wanted=[4]
        )[4]
    assert found[True] > found[False]


def test_in_mode_central_the_bound_is_held_against_what_the_trusted_server_releases(tmp_path: Path) -> None:
    assert sum_views(training("central")) == ("noised_sum", View(name="released_model"))
    assert sum_views(training()) == ("sum_c0", View(name="sum"))
    found = audit(write_folder(tmp_path / "run", kind="central"))
    assert found.verdict == "passed"
    assert found.upper_view == "released_model"
    assert math.isinf(found.rounds[-1].upper["sum_c0"]["pld"])
    assert any("not one of the model alone" in sentence for sentence in found.sentences)


def test_bounds_are_computed_at_looks_fixed_beforehand_and_hold_in_between(tmp_path: Path) -> None:
    assert looks(60) == {1, 8, 16, 24, 32, 40, 48, 56, 60}
    assert looks(800) == {1, *range(100, 801, 100)}
    found = audit(write_folder(tmp_path / "run", rounds=10, planned=16)).rounds
    bounds = {each.number: each.lower for each in found}
    assert bounds[1] is None
    assert bounds[8] is bounds[2] is not bounds[9]  # the first and the eighth round with canaries
    assert bounds[10] is bounds[9] is not bounds[11]  # and the last one that there is
    computed = [each.number for each in found if each.realised is not None]
    assert computed == [2, 9, 11]


def test_a_program_gets_plain_json_that_says_what_was_held_against_what(correct: FolderAudit) -> None:
    told = json.loads(json.dumps(correct.to_dict(), allow_nan=False))
    assert told["verdict"] == "passed"
    assert told["upper_view"] == "sum_c0"
    assert told["canaries"] == CANARIES
    assert told["rounds"]["1"] == {"realised": None, "lower": None, "evidence": None}
    last = told["rounds"][str(ROUNDS + 1)]
    assert last["lower"]["auditor"] == "A1 likelihood ratio"
    assert last["evidence"]["A0"] == last["evidence"]["A6"] == "passed"
    assert 0 < last["evidence"]["smallest_violation"]["noise_shortfall"] < 0.5
    assert told["lower_unconditional"]["auditor"] == "A3 one run"


def test_what_the_bounds_mean_is_said_in_sentences(correct: FolderAudit) -> None:
    said = " ".join(correct.sentences)
    for words in (
        "with confidence 0.95 (A1 likelihood ratio; conditional on:",
        "With no such condition: ε >= ",
        "Upper bound in the view sum_c0 (PLD), class means included:",
        "for what was spent, at the plan's fewest survivors (the guarantee is the plan's ε)",
        "if dropouts do not depend on outputs, records or coins",
        "Smallest violation that this audit would have seen with probability 0.95",
        "Not checked: the gradients",
    ):
        assert words in said
