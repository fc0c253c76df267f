"""Canaries in real runs: they pass the whole pipeline, the model never feels them, and broken noise shows."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, chi2
from torch import Tensor

from secure_fed_diffusion import cli, config
from secure_fed_diffusion.audit.evidence import Evidence, evidence
from secure_fed_diffusion.audit.journal import Journal, observations
from secure_fed_diffusion.dp.grid import IntegerGrid
from secure_fed_diffusion.entropy import Entropy, system
from secure_fed_diffusion.errors import ConfigError, RunError
from secure_fed_diffusion.federation.folder import read_lines
from secure_fed_diffusion.federation.prepare import prepare
from secure_fed_diffusion.federation.release import NOISE_BLOCK, draw_noise
from secure_fed_diffusion.federation.run import Run
from secure_fed_diffusion.training.vectors import flatten
from tests.federation.runs import Watcher, finish
from tests.federation.small import federation, seeded, settings_for

CANARIES = 40


def make(
    folder: Path, mode: str, *overrides: str, n: int = CANARIES, seed: str = "", resume: bool = False
) -> Run:
    settings = settings_for(mode, f"audit.canaries={n}", *overrides)
    injected = {"entropy": seeded(seed, "noise"), "coins": seeded(seed, "coins")} if seed else {}
    return prepare(settings, folder, config_text=config.dump(settings), resume=resume, **injected)


@pytest.mark.parametrize("length", [1, 1000, NOISE_BLOCK - 1, NOISE_BLOCK, NOISE_BLOCK + 1])
def test_noise_of_the_model_s_coordinates_does_not_depend_on_what_follows_them(length: int) -> None:
    alone = draw_noise(834.0, length, seeded("prefix"))
    followed = draw_noise(834.0, length + 200, seeded("prefix"))
    assert len(alone) == length
    assert np.array_equal(alone, followed[:length])
    assert len(np.unique(followed[length:])) > 100


@pytest.mark.parametrize("mode", ["distributed", "central"])
def test_the_released_model_is_the_same_with_canaries_and_without(mode: str, tmp_path: Path) -> None:
    weights = {}
    for n in (0, CANARIES):
        run = make(tmp_path / str(n), mode, n=n, seed="same")
        finish(run)
        weights[n] = run.server.state_dict()["weights"]
        average = run.server.average.average
        weights[n] = torch.cat([weights[n], average])
    assert torch.equal(weights[0], weights[CANARIES])
    other = make(tmp_path / "other", mode, n=0, seed="other")
    finish(other)
    assert not torch.equal(weights[0][: other.plan.dimension], flatten(other.server.model))


def test_the_plan_accounts_for_the_appended_coordinates_and_keeps_noise_grid_and_ring() -> None:
    without, with_them = (
        federation(settings_for("distributed", f"audit.canaries={n}")).plan for n in (0, CANARIES)
    )
    assert with_them.digest != without.digest
    assert with_them.dimension == without.dimension
    ours, theirs = with_them.releases["training"], without.releases["training"]
    assert ours.length == ours.mechanism.dimension == theirs.length + CANARIES
    assert with_them.secagg_params("training").dimension == ours.length
    assert ours.mechanism.sensitivity == theirs.mechanism.sensitivity == ours.grid.norm_bound
    assert ours.mechanism.share_stddev == theirs.mechanism.share_stddev
    assert (ours.modulus_bits, ours.divisor) == (theirs.modulus_bits, theirs.divisor)
    assert with_them.releases["prototypes"] == without.releases["prototypes"]


@pytest.mark.parametrize("mode", ["none", "local", "client"])
def test_modes_without_a_place_for_canaries_say_so_in_one_sentence(mode: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"for the modes distributed and central: mode {mode}") as caught:
        make(tmp_path / "run", mode)
    assert caught.value.key == "audit.canaries"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("masked", ["true", "false"])
@pytest.mark.parametrize("mode", ["distributed", "central"])
def test_without_noise_the_sum_holds_each_drawn_canary_of_a_survivor_and_nothing_else(
    mode: str, masked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(stddev: float, length: int, entropy: object) -> np.ndarray:
        return np.zeros(length, dtype=np.int64)

    for place in ("contribution", "server"):
        monkeypatch.setattr(f"secure_fed_diffusion.federation.{place}.draw_noise", silent)
    vanish = "federation.vanish=[{round=2, client=%d, phase='masked_input'}]"
    lost = federation(settings_for(mode)).plan.rounds[1].cohort[0]
    run = make(tmp_path / "run", mode, f"federation.masked={masked}", vanish % lost, n=400)
    finish(run)
    journal = Journal(tmp_path / "run")
    terms = journal.read_terms()
    assert terms is not None
    canaries = terms.canaries
    seen = observations(canaries, journal.rounds())
    assert seen is not None
    assert seen.n_rounds == 3
    assert not seen.residuals().any()
    assert seen.counts.sum() > 0
    assert not seen.counts[:, ~canaries.included].any()
    assert not seen.rates[0, canaries.owners == lost].any()
    assert not seen.counts[0, canaries.owners == lost].any()
    rate = run.plan.releases["training"].mechanism.sampling_rate
    assert set(np.unique(seen.rates)) == {0.0, rate}
    in_the_sum = seen.rates[:, canaries.included] > 0
    assert binomtest(int(seen.counts.sum()), int(in_the_sum.sum()), rate).pvalue > 1e-9


@pytest.mark.parametrize("mode", ["distributed", "central"])
def test_what_is_left_of_the_sums_is_noise_of_the_stddev_on_the_line(mode: str, tmp_path: Path) -> None:
    finish(make(tmp_path / "run", mode, n=400))
    journal = Journal(tmp_path / "run")
    terms = journal.read_terms()
    assert terms is not None
    canaries = terms.canaries
    seen = observations(canaries, journal.rounds())
    assert seen is not None
    statistic = float(((seen.residuals() / seen.noise_stddevs[:, None]) ** 2).sum())
    low, high = chi2.ppf([5e-10, 1 - 5e-10], seen.residuals().size)  # a correct run fails once in 1e9
    assert low < statistic < high


def test_rounds_of_class_means_carry_no_canaries(tmp_path: Path) -> None:
    watcher = Watcher()
    finish(make(tmp_path / "run", "distributed"), watcher)
    first, *others = Journal(tmp_path / "run").rounds()
    assert (first.release, first.sums, first.counts) == ("prototypes", None, None)
    assert len(others) == 3
    assert all(line.sums is not None and len(line.sums) == CANARIES for line in others)
    assert watcher.records[0]["epsilon_lower"] is None
    assert all(record["epsilon_lower"]["view"] == "sum_c0" for record in watcher.records[1:])


def test_coins_and_lines_survive_a_kill_and_the_round_that_is_done_again_counts_once(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = make(folder, "distributed")

    class Killed(BaseException):
        pass

    honest = run.server.take_sum

    def die_in_round_three(total: object) -> None:
        if run.finished_round == 2:
            raise Killed
        honest(total)

    run.server.take_sum = die_in_round_three  # type: ignore[method-assign]
    with pytest.raises(Killed):
        finish(run)
    coins = (folder / "canaries.json").read_bytes()
    before = (folder / "audit.jsonl").read_bytes()
    finish(make(folder, "distributed", resume=True))
    assert (folder / "canaries.json").read_bytes() == coins
    assert (folder / "audit.jsonl").read_bytes().startswith(before)
    lines = Journal(folder).rounds()
    assert [(line.number, line.attempt) for line in lines] == [(1, 0), (2, 0), (3, 1), (4, 0)]
    assert all("epsilon_lower" in line for line in read_lines(folder / "metrics.jsonl"))


def test_a_run_whose_coins_are_gone_does_not_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        finish(make(folder, "distributed"), Watcher(stop_after=2))
    coins = (folder / "canaries.json").read_text()
    (folder / "canaries.json").unlink()
    with pytest.raises(RunError, match=r"canaries\.json is gone"):
        make(folder, "distributed", resume=True)
    (folder / "canaries.json").write_text(coins.replace("[", "[0, "))
    with pytest.raises(RunError, match="41 coins, the plan 40 canaries"):
        make(folder, "distributed", resume=True)
    (folder / "canaries.json").write_text(coins)
    assert finish(make(folder, "distributed", resume=True))["finished"]


def test_a_run_without_canaries_writes_neither_file_nor_bound(tmp_path: Path) -> None:
    watcher = Watcher()
    finish(make(tmp_path / "run", "distributed", n=0), watcher)
    assert not (tmp_path / "run" / "canaries.json").exists()
    assert not (tmp_path / "run" / "audit.jsonl").exists()
    assert all("epsilon_lower" not in record for record in watcher.records)


def test_nothing_of_a_real_record_is_in_the_auditor_s_files(tmp_path: Path) -> None:
    finish(make(tmp_path / "run", "distributed"))
    allowed = {
        *("round", "attempt", "release", "survivors", "sampling_rate", "sensitivity", "noise_stddev"),
        *("magnitude", "sums", "counts"),
    }
    lines = read_lines(tmp_path / "run" / "audit.jsonl")
    assert len(lines) == 4
    for line in lines:
        assert set(line) == allowed
        assert line["sums"] is None or len(line["sums"]) == len(line["counts"]) == CANARIES
    coins = json.loads((tmp_path / "run" / "canaries.json").read_text())
    assert set(coins) == {"owners", "included", "confidence", "false_alarm", "planned_rounds"}
    assert coins["planned_rounds"] == 3


HONEST_NOISE = draw_noise


def half_the_noise(stddev: float, length: int, entropy: Entropy) -> np.ndarray:
    return HONEST_NOISE(stddev / 2, length, entropy)


def the_same_noise_each_time(stddev: float, length: int, entropy: Entropy) -> np.ndarray:
    # over √5, so that five equal shares add up to the right variance and correlation alone gives it away
    return HONEST_NOISE(stddev / np.sqrt(5), length, seeded("one for all"))


def everybody(n_records: int, rate: float, entropy: Entropy = system) -> np.ndarray:
    return np.ones(n_records, dtype=bool)


def unclipped(parts: Sequence[Tensor], grid: IntegerGrid, owned: Sequence[slice]) -> list[list[Tensor]]:
    return [[(part[rows] * grid.scale).round().sum(dim=0) for part in parts] for rows in owned]


CONTRIBUTION = "secure_fed_diffusion.federation.contribution"
MUTANTS = {
    "half the noise": (
        f"{CONTRIBUTION}.draw_noise",
        half_the_noise,
        ("A0 noise variance", "A6 too little noise"),
    ),
    "noise used again": (
        f"{CONTRIBUTION}.draw_noise",
        the_same_noise_each_time,
        ("A0 correlation between rounds",),
    ),
    "no sampling": (f"{CONTRIBUTION}.poisson_sample", everybody, ("A0 sampling rate",)),
    "no clip": (
        "secure_fed_diffusion.training.integer_sums.rounded_sums",
        unclipped,
        ("A0 canary magnitude",),
    ),
}


QUICK = "half the noise"


@pytest.mark.parametrize(
    "mutant", [QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in MUTANTS if name != QUICK)]
)
def test_a_broken_pipeline_is_accused_by_name(
    mutant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place, broken, accusers = MUTANTS[mutant]
    with monkeypatch.context() as patch:
        patch.setattr(place, broken)
        summary = finish(make(tmp_path / "run", "distributed", "audit.false_alarm=1e-6", n=200))
    accused = summary["audit"]["accused"]
    for accuser in accusers:
        assert accuser in accused
    if mutant != QUICK:
        return
    monkeypatch.setattr(sys, "argv", ["sfd", "audit", str(tmp_path / "run"), "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    told = json.loads(capsys.readouterr().out)["audit"]
    assert told["verdict"] == "failed"
    assert set(accusers) <= {accusation.partition(" (from")[0] for accusation in told["accused"]}


def test_an_accusation_of_an_early_round_stays_in_the_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def early(seen: Any, terms: Any) -> Evidence:
        found = evidence(seen, terms)
        return replace(found, highest_e_value=math.inf) if seen.n_rounds == 1 else found

    monkeypatch.setattr("secure_fed_diffusion.federation.auditor.evidence", early)
    summary = finish(make(tmp_path / "run", "distributed", "audit.false_alarm=1e-6", n=40))
    assert summary["audit"]["accused"] == ["A6 too little noise"]
    assert summary["audit"]["A6"] == "passed"  # what the last round says by itself


@pytest.mark.parametrize("mode", ["distributed", pytest.param("central", marks=pytest.mark.slow)])
def test_the_correct_pipeline_is_not_accused(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # wrong with probability 1e-6 by A0 and A6; A1 would have to be wrong by several units of ε
    summary = finish(make(tmp_path / "run", mode, "audit.false_alarm=1e-6", n=200))
    assert summary["audit"]["accused"] == []
    monkeypatch.setattr(sys, "argv", ["sfd", "audit", str(tmp_path / "run")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert "audit: passed" in capsys.readouterr().out
    assert (tmp_path / "run" / "audit.svg").stat().st_size > 10_000
    lower = read_lines(tmp_path / "run" / "metrics.jsonl")[-1]["epsilon_lower"]
    assert lower["value"] == summary["audit"]["epsilon_lower"]["value"]
    assert lower["confidence"] == 0.95
    assert lower["after_round"] == 4
