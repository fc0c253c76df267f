"""Clients computed together, here or by worker processes: the same weights, the same ledger."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

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
from secure_fed_diffusion.federation.workbench import Workbench
from secure_fed_diffusion.federation.workroom import (
    Asked,
    group_sizes,
    in_this_process,
    in_workers,
    side_by_side,
    worker_count,
)
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
def test_the_weights_are_the_same_to_the_bit_whoever_computes(
    also: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noiseless(monkeypatch)
    settings = settings_for("distributed", *EXACT, *also)
    runs = {
        "each": prepare(settings, tmp_path / "each", config_text=config.dump(settings), coins=os.urandom),
        "here": run_with(tmp_path / "here", 1, *EXACT, *also),
        "workers": run_with(tmp_path / "workers", 2, *EXACT, *also),
    }
    initial = runs["each"].server.state_dict()["weights"].clone()
    assert runs["each"].engine.beside is None
    assert [runs[way].engine.beside.n for way in ("here", "workers")] == [1, 2]
    alone, *others = (finish(run).server.state_dict()["weights"] for run in runs.values())
    assert all(torch.equal(alone, other) for other in others)
    assert not torch.equal(alone, initial)
    assert charges(tmp_path / "each") == charges(tmp_path / "here") == charges(tmp_path / "workers")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_charge_is_on_disk_before_its_work_is_handed_on(workers: int, tmp_path: Path) -> None:
    run = run_with(tmp_path / "run", workers, "modes.distributed.rounds=1", "warmup.draws=1")
    beside = run.engine.beside
    honest, seen, groups = beside._submit, [], []

    def watched(asked: Any) -> Any:
        groups.append(len(asked))
        on_disk = charges(tmp_path / "run")
        seen.extend((each.number, each.attempt, each.client_id) for each in asked)
        assert set(seen) <= set(on_disk)
        return honest(asked)

    beside._submit = watched
    finish(run)
    assert seen == charges(tmp_path / "run")
    assert groups == {1: [5, 5], 2: [3, 2, 3, 2]}[workers]  # of the class means, and of the step


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_was_stopped_at_work_goes_on(workers: int, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run = run_with(folder, workers, "modes.distributed.rounds=3", "warmup.draws=0")
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
    finish(run_with(folder, workers, "modes.distributed.rounds=3", "warmup.draws=0", resume=True))
    assert charges(folder)[: len(paid)] == paid
    assert {(number, attempt) for number, attempt, _ in charges(folder)[len(paid) :]} == {(2, 1), (3, 0)}
    verify(folder / "ledger.jsonl")


@pytest.mark.parametrize("workers", [1, 2])
def test_whoever_computes_draws_fresh_coins_and_noise(workers: int, tmp_path: Path) -> None:
    overrides = ("warmup.draws=0", "modes.distributed.rounds=1")
    runs = [finish(run_with(tmp_path / name, workers, *overrides)) for name in "ab"]
    one, other = (run.server.state_dict()["weights"] for run in runs)
    assert np.mean(np.asarray(one) == np.asarray(other)) < 0.5


def test_what_this_process_refuses_is_the_clients_refusal_and_an_accident_ends_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings, plan = settings_for("distributed"), plan_of()
    bench = Workbench.make(settings, image_shape=(1, 8, 8), n_classes=10, device="cpu")
    monkeypatch.setattr(workroom.Workroom, "_contributor", lambda room, client_id: client_id)
    beside = in_this_process(plan, {}, bench, {})
    weights = np.zeros(plan.dimension, dtype=np.float32)

    def asking(client_id: int) -> bytes:
        return bytes(beside.ask(Asked(client_id, plan.releases["training"], weights, 1, 0)))

    calls = {client_id: partial(asking, client_id) for client_id in range(3)}
    refusal, accident = ConfigError("no room", key="run"), ValueError("a mistake")
    monkeypatch.setattr(workroom, "vectors", Mock(side_effect=refusal))
    assert beside.run({**calls, 3: lambda: b"asks for nothing"}) == {
        **dict.fromkeys(calls, refusal),
        3: b"asks for nothing",
    }
    monkeypatch.setattr(workroom, "vectors", Mock(side_effect=accident))
    with pytest.raises(ValueError, match="a mistake"):
        beside.run(calls)


def plan_of(*overrides: str, mode: str = "distributed") -> Plan:
    return federation(settings_for(mode, *overrides)).plan


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [(["run.workers=3"], 3), (["run.workers=99"], 5), (["run.workers=1"], 1), ([], 1)],
)
def test_how_many_compute(overrides: list[str], expected: int) -> None:
    settings = settings_for("distributed", *overrides)
    assert worker_count(settings, plan_of(*overrides)) == expected


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize(
    ("injected", "overrides", "device"),
    [
        ({}, ["privacy.mode=local"], "cpu"),
        ({}, [], "cuda"),
        ({"coins": seeded(1)}, [], "cpu"),
        ({"entropy": seeded(1)}, [], "cpu"),
    ],
)
def test_where_the_order_counts_or_nothing_is_shared_each_client_computes_its_own(
    injected: dict[str, Any], overrides: list[str], device: str, workers: int
) -> None:
    settings = settings_for("distributed", f"run.workers={workers}", *overrides)
    bench = Workbench.make(settings, image_shape=(1, 8, 8), n_classes=10, device="cpu")
    usual = {"entropy": system, "coins": system, "planted": {}}
    plan = plan_of(*overrides)
    alone = bool(overrides) and workers == 1  # local steps: side by side in workers, but never together
    assert (side_by_side(settings, plan, {}, bench, **usual) is None) == alone
    if injected or device != "cpu":
        elsewhere = replace(bench, device=torch.device(device))
        assert side_by_side(settings, plan, {}, elsewhere, **usual | injected) is None


@pytest.mark.parametrize("workers", [1, 3])
def test_with_canaries_this_process_computes_for_whatever_workers(workers: int, tmp_path: Path) -> None:
    """That they are added and noted as drawn is `test_canaries`'s, whose runs are computed this way too."""
    many = ("audit.canaries=40", "modes.distributed.rounds=2", "warmup.draws=0")
    run = run_with(tmp_path / "run", workers, *many)
    assert run.engine.beside.n == 1
    groups: list[int] = []
    honest = run.engine.beside._submit
    run.engine.beside._submit = lambda asked: groups.append(len(asked)) or honest(asked)
    finish(run)
    assert groups == [5, 5]


def test_requests_of_another_attempt_release_or_model_are_not_computed_together() -> None:
    plan = plan_of()
    weights = np.zeros(plan.dimension, dtype=np.float32)
    asked = Asked(0, plan.releases["training"], weights, 2, 0)
    assert asked.goes_with(replace(asked, client_id=1, weights=weights.copy()))
    assert not asked.goes_with(replace(asked, number=3))
    assert not asked.goes_with(replace(asked, attempt=1))
    assert not asked.goes_with(replace(asked, release=plan.releases["prototypes"]))
    assert not asked.goes_with(replace(asked, weights=weights + 1))


def test_a_long_run_takes_the_cores_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    settings, plan = settings_for("distributed"), plan_of("modes.distributed.rounds=3000")
    monkeypatch.setattr(workroom, "usable_cores", lambda: 4)
    assert worker_count(settings, plan) == 4
    monkeypatch.setattr(workroom, "usable_cores", lambda: 1)
    assert worker_count(settings, plan) == 1


@pytest.mark.parametrize("workers", ["0", "-1", '"many"', "1.5"])
def test_a_number_of_workers_that_is_none_is_refused(workers: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.workers"):
        settings_for("distributed", f"run.workers={workers}")


@pytest.mark.parametrize(
    ("cohort", "records", "workers", "sizes"),
    [
        (2, 4125, 2, (1, 1)),
        (3, 4125, 2, (2, 1)),
        (10, 4125, 2, (4, 4, 1, 1)),  # the last for whoever is free first
        (10, 4125, 5, (2,) * 5),
        (10, 4125, 1, (10,)),  # one process waits for nobody
        (100, 4125, 1, (50,)),  # two groups of at most 64
        (100, 4125, 2, (38, 38, 12, 12)),
        (100, 100, 2, (50, 50)),
        (1000, 4125, 2, (*(64,) * 14, 52, 52)),
    ],
)
def test_no_worker_waits_long_for_another_and_little_is_padded(
    cohort: int, records: int, workers: int, sizes: tuple[int, ...]
) -> None:
    plan = plan_of()
    federation = replace(
        plan.federation,
        clients=cohort,
        clients_per_round=cohort,
        min_survivors=min(2, cohort),
        declared_records=10 * records,
    )
    recipe = replace(plan.recipe, sampling_rate=0.1)
    found = group_sizes(replace(plan, federation=federation, recipe=recipe), workers)
    assert found == sizes
    assert workers == 1 or sum(found) == cohort


@pytest.mark.parametrize("workers", [1, 2, 8, 16])
@pytest.mark.parametrize("length", [1000, 200_000, 35_000_000])
def test_few_clients_are_held_at_once_however_many_workers_there_are(workers: int, length: int) -> None:
    plan = plan_of()
    federation = replace(plan.federation, clients=1000, clients_per_round=1000, min_survivors=2)
    releases = {name: replace(release, length=length) for name, release in plan.releases.items()}
    sizes = group_sizes(replace(plan, federation=federation, releases=releases), workers)
    under_way = sum(sorted(sizes)[-2 * workers :])
    assert under_way <= max(256, 2 * workers)
    assert under_way * 20 * length <= max(1 << 30, 2 * workers * 20 * length)  # one client a group at least


def test_two_groups_a_worker_are_under_way() -> None:
    settings = settings_for("distributed")
    beside = in_workers(settings, plan_of(), {}, 3)
    assert beside._ahead + 1 == 2 * 3  # none starts: they do with the first exchange


def test_groups_are_made_of_public_figures_and_hold_bounded_memory() -> None:
    plan = plan_of()
    assert [group_sizes(plan, n) for n in (1, 2)] == [(5,), (3, 2)]
    for name in ("training", "prototypes"):  # the longest vector counts, whichever release it is of
        long = {name: replace(plan.releases[name], length=1 << 30)}
        held = replace(plan, releases={**plan.releases, **long})
        assert [group_sizes(held, n) for n in (1, 2)] == [(1,), (1,) * 5]
    assert group_sizes(plan_of(mode="local"), 2) == (1,)
    many = replace(plan.recipe, sampling_rate=1.0)
    federated = replace(plan.federation, declared_records=60_000)
    assert group_sizes(replace(plan, recipe=many, federation=federated), 2) == (2, 2, 1)
