"""Runs that were stopped or killed: what goes on, what is paid for again, and from which reserve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from secure_fed_diffusion.dp.ledger import verify
from secure_fed_diffusion.errors import (
    BudgetExceededError,
    LedgerError,
    RunError,
    SecureAggregationError,
    SecureFedDiffusionError,
)
from secure_fed_diffusion.federation.folder import read_lines
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.institution.budget import own_charges
from tests.federation.runs import Watcher, finish, make


def test_an_interrupted_run_goes_on_with_the_same_ledger(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        finish(make(folder), Watcher(stop_after=2))
    before = (folder / "ledger.jsonl").read_bytes()
    resumed = make(folder, resume=True)
    assert resumed.finished_round == 2
    summary = finish(resumed)
    assert summary["finished"]
    assert (folder / "ledger.jsonl").read_bytes().startswith(before)
    lines = read_lines(folder / "metrics.jsonl")
    assert [line["round"] for line in lines] == [1, 2, 3, 4]
    measured = {line["round"]: line["class_means_accuracy"] for line in lines if "prototype_accuracy" in line}
    assert min(measured) == 1  # before the stop
    assert max(measured) == 4
    assert len(set(measured.values())) == 1  # what the warm-up released is the same after it


def test_a_round_that_left_before_the_kill_is_paid_for_twice(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = make(folder)

    class Killed(BaseException):
        pass

    honest = run.server.take_sum

    def die_in_round_two(total: object) -> None:
        if run.finished_round == 1:
            raise Killed
        honest(total)

    run.server.take_sum = die_in_round_two  # type: ignore[method-assign]
    with pytest.raises(Killed):
        finish(run)
    watcher = Watcher()
    summary = finish(make(folder, resume=True), watcher)
    assert summary["finished"]
    assert watcher.records[0]["round"] == 2
    assert watcher.records[0]["attempt"] == 1
    lines = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()[1:]]
    attempts = {line["attempt"] for line in lines if line["round"] == 2}
    assert attempts == {0, 1}
    verify(folder / "ledger.jsonl", head=summary["ledger_head"])


def test_a_kill_in_the_warm_up_is_paid_for_from_the_reserve_too(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = make(folder, "distributed", "federation.clients_per_round=6", "federation.min_survivors=5")

    class Killed(BaseException):
        pass

    def die(total: object) -> None:
        raise Killed

    run.server.take_sum = die  # type: ignore[method-assign]
    with pytest.raises(Killed):
        finish(run)
    overrides = ("federation.clients_per_round=6", "federation.min_survivors=5")
    summary = finish(make(folder, "distributed", *overrides, resume=True))
    assert summary["finished"]


def test_a_run_that_cannot_pay_for_its_last_round_keeps_what_it_has(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    overrides = (
        "federation.clients_per_round=6",
        "federation.min_survivors=5",
        "federation.reserved_attempts=0",
    )
    with pytest.raises(KeyboardInterrupt):
        finish(make(folder, "distributed", *overrides), Watcher(stop_after=2))
    run = make(folder, "distributed", *overrides, resume=True)
    for client_id in run.plan.rounds[2].cohort:  # as if a kill had come after these frames left
        run.ledger.charge(client_id, round=3, attempt=0, mechanism="training")
    with pytest.raises(RunError, match=r"round 4 failed.*reserved_attempts=0.*the plan reserves 3"):
        finish(run)
    with pytest.raises(BudgetExceededError, match="the budget is spent"):
        make(folder, "distributed", *overrides, resume=True)
    summary = json.loads((folder / "summary.json").read_text())
    assert not summary["finished"]
    assert summary["rounds"] == 3
    assert (folder / "model" / "pipeline.py").exists()


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    head = finish(make(folder))["ledger_head"]
    watcher = Watcher()
    assert finish(make(folder, resume=True), watcher)["ledger_head"] == head
    assert watcher.records == []


def test_a_run_is_not_resumed_under_other_settings(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        finish(make(folder), Watcher(stop_after=1))
    with pytest.raises(
        RunError,
        match=r"begun under other settings: privacy\.epsilon was 10\.0, is 20\.0; resume with its own config",
    ):
        make(folder, "distributed", "privacy.epsilon=20.0", resume=True)
    many = ("run.seed=7", "privacy.delta=1e-6", "warmup.steps=3", "privacy.noise_multiplier=30.0")
    named = "run.seed was 0, is 7, privacy.delta was 1e-05, is 1e-06, warmup.steps was 2, is 3, and 1 more;"
    with pytest.raises(RunError, match=named):
        make(folder, "distributed", *many, resume=True)
    with pytest.raises(RunError, match=r"privacy\.noise_multiplier was not set, is 30\.0;"):
        make(folder, "distributed", many[-1], resume=True)
    (folder / "config.toml").write_text("secret = 'of another file'")
    with pytest.raises(
        RunError, match=r"config\.toml is no longer the one that it was begun with"
    ) as altered:
        make(folder, "distributed", "privacy.epsilon=20.0", resume=True)
    assert "secret" not in str(altered.value)
    with pytest.raises(RunError, match="no run to resume"):
        make(tmp_path / "nowhere", resume=True)


@pytest.mark.parametrize("where", ["warm_up", "measure"])
def test_a_kill_while_the_warm_up_trains_or_a_model_is_measured_costs_no_round(
    where: str, tmp_path: Path
) -> None:
    reserves = ("federation.reserved_attempts=0", "warmup.reserved_attempts=0")
    whole = make(tmp_path / "whole", "central", *reserves)
    finish(whole)
    run = make(tmp_path / "run", "central", *reserves)
    owner = run.server if where == "warm_up" else run.assessment

    class Killed(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise Killed

    setattr(owner, where, die)
    with pytest.raises(Killed):
        finish(run)
    resumed = make(tmp_path / "run", "central", *reserves, resume=True)
    assert resumed.unmeasured is not None
    assert finish(resumed)["finished"]
    for kept in ("metrics.jsonl", "ledger.jsonl"):
        lines = [(line.get("round"), line.get("attempt")) for line in read_lines(tmp_path / "run" / kept)]
        assert lines == [
            (line.get("round"), line.get("attempt")) for line in read_lines(tmp_path / "whole" / kept)
        ]
    assert resumed.unmeasured is None


@pytest.mark.parametrize("damaged", ["checkpoint/state.pt", "clients/0003/peers.jsonl"])
def test_a_folder_that_is_refused_is_let_go(damaged: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        finish(make(folder), Watcher(stop_after=1))
    kept = (folder / damaged).read_bytes()
    (folder / damaged).write_bytes(b"no such thing\n")
    with pytest.raises(SecureFedDiffusionError):
        make(folder, resume=True)
    (folder / damaged).write_bytes(kept)
    make(folder, resume=True).ledger.close()  # the same process may try again


def test_a_kill_while_a_run_is_taken_up_leaves_its_configuration_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    make(folder).ledger.close()
    before = (folder / "config.toml").read_bytes()

    class Killed(BaseException):
        pass

    def half(path: Path, text: str, **_: object) -> None:
        path.write_bytes(text.encode()[:100])
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", half)
        with pytest.raises(Killed):
            make(folder, resume=True)
    assert (folder / "config.toml").read_bytes() == before
    make(folder, resume=True).ledger.close()


def plan_of(folder: Path, *overrides: str) -> Plan:
    run = make(folder, "distributed", "federation.reserved_attempts=2", *overrides)
    run.ledger.close()
    return run.plan


def test_the_warm_up_may_have_a_reserve_of_its_own(tmp_path: Path) -> None:
    shared = plan_of(tmp_path / "shared")
    apart = plan_of(tmp_path / "apart", "warmup.reserved_attempts=0")
    most, less = shared.max_charges(), apart.max_charges()
    assert less["prototypes"] == most["prototypes"] - 2
    assert less["training"] == most["training"]
    alone, client = plan_of(tmp_path / "alone", "warmup.reserved_attempts=5"), 0
    planned = {n: sum(client in r.cohort for r in alone.rounds if r.release == n) for n in alone.releases}
    charges = own_charges(alone, client)
    assert charges == {"prototypes": planned["prototypes"] + 5, "training": planned["training"] + 2}
    several = plan_of(
        tmp_path / "several",
        "secagg.rounds_per_setup=9",
        "federation.min_survivors=5",
        "warmup.reserved_attempts=5",
    )
    assert (several.slots("prototypes"), several.slots("training")) == (1 + 5, 3 + 2)
    assert apart.noise_multiplier < shared.noise_multiplier  # what is not reserved buys less noise


@pytest.mark.parametrize(("training", "warm_up", "number"), [(1, 0, 1), (1, 0, 3), (0, 1, 1), (0, 1, 3)])
def test_repeats_of_the_warm_up_and_of_the_training_do_not_use_up_each_other_s_reserve(
    training: int, warm_up: int, number: int, tmp_path: Path
) -> None:
    run = make(
        tmp_path / "run",
        "distributed",
        f"federation.reserved_attempts={training}",
        f"warmup.reserved_attempts={warm_up}",
    )
    survives = bool(warm_up if number == 1 else training)
    total, failures = run.server.total, []

    def fail_once() -> Any:
        if run.finished_round + 1 == number and not failures:
            failures.append(number)
            raise SecureAggregationError("as if too many had gone")
        return total()

    run.server.total = fail_once  # type: ignore[method-assign]
    if survives:
        assert finish(run)["finished"]
    else:
        key = "warmup" if number == 1 else "federation"
        with pytest.raises(
            RunError, match=rf"round {number} failed.*\({key}\.reserved_attempts=0\) are used"
        ):
            finish(run)
    assert failures == [number]


@pytest.mark.parametrize("stop_after", [2, None], ids=["stopped", "over"])
def test_a_ledger_that_was_cut_is_not_gone_on_with(stop_after: int | None, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    if stop_after is None:
        finish(make(folder))
    else:
        with pytest.raises(KeyboardInterrupt):
            finish(make(folder), Watcher(stop_after=stop_after))
    ledger, shown = folder / "ledger.jsonl", (folder / "metrics.jsonl").read_bytes()
    terms = ledger.read_bytes().splitlines(keepends=True)[0]
    ledger.write_bytes(terms)
    with pytest.raises(LedgerError, match="was rolled back or altered"):
        make(folder, resume=True)
    ledger.write_bytes(b"")
    with pytest.raises(RunError, match="has lost every line"):
        make(folder, resume=True)
    assert ledger.read_bytes() == b""
    assert (folder / "metrics.jsonl").read_bytes() == shown
