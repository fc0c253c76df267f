"""A run whose clients' work is done by worker processes: the same weights, the same ledger."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from secure_fed_diffusion import config
from secure_fed_diffusion.dp.ledger import verify
from secure_fed_diffusion.entropy import system
from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.federation import server as server_module
from secure_fed_diffusion.federation import workroom
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.prepare import prepare
from secure_fed_diffusion.federation.run import Run
from secure_fed_diffusion.federation.workroom import group_size, worker_count
from tests.federation.small import federation, seeded, settings_for

EXACT = (
    "privacy.mode=central",
    "modes.central.sampling_rate=1.0",
    "modes.central.divisor=300",
    "warmup.draws=0",
)


class Unseen:
    """Told of nothing."""

    def round(self, record: dict[str, Any]) -> None:
        """Say nothing."""

    def note(self, text: str) -> None:
        """Say nothing."""


def noiseless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the trusted server of mode `central` add nothing: with a rate of 1 nothing random is left."""
    monkeypatch.setattr(
        server_module, "draw_noise", lambda stddev, length, entropy: np.zeros(length, dtype=np.int64)
    )


def run_with(folder: Path, workers: int, *overrides: str, resume: bool = False) -> Run:
    settings = settings_for("distributed", f"run.workers={workers}", *overrides)
    return prepare(settings, folder, config_text=config.dump(settings), resume=resume)


def finish(run: Run) -> Run:
    try:
        run.execute(Unseen())
    finally:
        run.ledger.close()
    return run


def charges(folder: Path) -> list[tuple[int, int, int]]:
    lines = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    return [(line["round"], line["attempt"], line["client_id"]) for line in lines if line["kind"] == "charge"]


WARMED = ("warmup.draws=1", "warmup.sampling_rate=1.0", "warmup.covariances.draws=1")


@pytest.mark.parametrize("also", [(), (*WARMED, "secagg.rounds_per_setup=3")])
def test_the_weights_are_the_same_to_the_bit_for_every_number_of_workers(
    also: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noiseless(monkeypatch)
    runs = {n: run_with(tmp_path / str(n), n, *EXACT, *also) for n in (1, 2)}
    initial = runs[1].server.state_dict()["weights"].clone()
    assert runs[1].engine.beside is None
    assert runs[2].engine.beside is not None
    alone, beside = (finish(runs[n]).server.state_dict()["weights"] for n in (1, 2))
    assert torch.equal(alone, beside)
    assert not torch.equal(alone, initial)
    assert charges(tmp_path / "1") == charges(tmp_path / "2")


def test_a_charge_is_on_disk_before_its_work_is_handed_on(tmp_path: Path) -> None:
    run = run_with(tmp_path / "run", 2, "modes.distributed.rounds=1", "warmup.draws=1")
    beside = run.engine.beside
    honest, seen = beside._submit, []

    def watched(asked: Any) -> Any:
        on_disk = charges(tmp_path / "run")
        seen.extend((each.number, each.attempt, each.client_id) for each in asked)
        assert set(seen) <= set(on_disk)
        return honest(asked)

    beside._submit = watched
    finish(run)
    assert seen == charges(tmp_path / "run")
    assert len(seen) == 10


def test_a_run_that_was_stopped_at_work_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = run_with(folder, 2, "modes.distributed.rounds=3", "warmup.draws=0")
    beside = run.engine.beside
    honest = beside._submit

    def interrupted(asked: Any) -> Any:
        if asked[0].number == 2:
            raise KeyboardInterrupt
        return honest(asked)

    beside._submit = interrupted
    with pytest.raises(KeyboardInterrupt):
        finish(run)
    paid = charges(folder)
    assert {(number, attempt) for number, attempt, _ in paid} == {(1, 0), (2, 0)}
    finish(run_with(folder, 2, "modes.distributed.rounds=3", "warmup.draws=0", resume=True))
    assert charges(folder)[: len(paid)] == paid
    assert {(number, attempt) for number, attempt, _ in charges(folder)[len(paid) :]} == {(2, 1), (3, 0)}
    verify(folder / "ledger.jsonl")


def test_workers_draw_fresh_coins_and_noise(tmp_path: Path) -> None:
    overrides = ("warmup.draws=0", "modes.distributed.rounds=1")
    runs = [finish(run_with(tmp_path / name, 2, *overrides)) for name in "ab"]
    one, other = (run.server.state_dict()["weights"] for run in runs)
    assert np.mean(np.asarray(one) == np.asarray(other)) < 0.5


def plan_of(*overrides: str, mode: str = "distributed") -> Plan:
    return federation(settings_for(mode, *overrides)).plan


@pytest.mark.parametrize(
    ("injected", "overrides", "device", "expected"),
    [
        ({}, ["run.workers=3"], "cpu", 3),
        ({}, ["run.workers=1"], "cpu", 1),
        ({}, ["run.workers=99"], "cpu", 5),
        ({}, [], "cpu", 1),
        ({}, ["run.workers=3"], "cuda", 1),
        ({}, ["run.workers=3", "audit.canaries=4"], "cpu", 1),
        ({"coins": seeded(1)}, ["run.workers=3"], "cpu", 1),
        ({"entropy": seeded(1)}, ["run.workers=3"], "cpu", 1),
    ],
)
def test_how_many_compute(injected: dict[str, Any], overrides: list[str], device: str, expected: int) -> None:
    settings = settings_for("distributed", *overrides)
    randomness = {"entropy": system, "coins": system} | injected
    assert worker_count(settings, plan_of(*overrides), device=device, **randomness) == expected


def test_a_long_run_takes_the_cores_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    settings, plan = settings_for("distributed"), plan_of("modes.distributed.rounds=3000")
    monkeypatch.setattr(workroom, "_cores", lambda: 4)
    assert worker_count(settings, plan, device="cpu", entropy=system, coins=system) == 4
    monkeypatch.setattr(workroom, "_cores", lambda: 1)
    assert worker_count(settings, plan, device="cpu", entropy=system, coins=system) == 1


@pytest.mark.parametrize("workers", ["0", "-1", '"many"', "1.5"])
def test_a_number_of_workers_that_is_none_is_refused(workers: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.workers"):
        settings_for("distributed", f"run.workers={workers}")


@pytest.mark.parametrize(
    ("cohort", "records", "workers", "size"),
    [
        (10, 2048, 2, 5),  # groups of three would leave four to one worker and six to the other
        (10, 4125, 2, 5),
        (10, 4125, 5, 1),
        (100, 4125, 2, 13),  # 52 and 48: near enough, and masks are made meanwhile
        (12, 9000, 2, 1),
    ],
)
def test_no_worker_waits_long_for_another(cohort: int, records: int, workers: int, size: int) -> None:
    plan = plan_of()
    federation = replace(
        plan.federation, clients=cohort, clients_per_round=cohort, declared_records=10 * records
    )
    recipe = replace(plan.recipe, sampling_rate=0.1)
    assert group_size(replace(plan, federation=federation, recipe=recipe), workers) == size


def test_groups_are_made_of_public_figures_and_hold_bounded_memory() -> None:
    plan = plan_of()
    assert group_size(plan, 2) == 3
    for name in ("training", "prototypes"):  # the longest vector counts, whichever release it is of
        long = {name: replace(plan.releases[name], length=1 << 30)}
        assert group_size(replace(plan, releases={**plan.releases, **long}), 2) == 1
    assert group_size(plan_of(mode="local"), 2) == 1
    many = replace(plan.recipe, sampling_rate=1.0)
    federated = replace(plan.federation, declared_records=60_000)
    assert group_size(replace(plan, recipe=many, federation=federated), 2) == 1
