"""Small runs for both engines, every draw keyed by (client, round, attempt): two can agree to the bit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context

from secure_fed_diffusion import config
from secure_fed_diffusion.federation import checkpoint, workroom
from secure_fed_diffusion.federation.contribution import Contributor
from secure_fed_diffusion.federation.prepare import prepare
from secure_fed_diffusion.federation.run import Run
from secure_fed_diffusion.federation.settings import RunSettings
from secure_fed_diffusion.federation.together import vectors
from secure_fed_diffusion.flower_app.client_app import Party
from secure_fed_diffusion.flower_app.rehearsed_client import Rehearsal
from secure_fed_diffusion.flower_app.simulation import SimulatedRun, prepare_simulation
from tests.federation.runs import Watcher
from tests.federation.small import seeded, settings_for
from tests.flower_app.memory_grid import MemoryGrid, task

TINY = (
    "data.train_limit=60",
    "federation.clients=5",
    "federation.clients_per_round=4",
    "federation.min_survivors=3",
    "federation.colluders=0",
    "federation.declared_records=60",
    "federation.reserved_attempts=2",
    "secagg.threshold=3",
    "warmup.draws=1",
    "model.channels=[4,4]",
    'model.down_blocks=["DownBlock2D","DownBlock2D"]',
    'model.up_blocks=["UpBlock2D","UpBlock2D"]',
    "model.middle_block=false",
    *(f"modes.{mode}.rounds=2" for mode in ("none", "central", "local", "distributed", "client")),
    "modes.distributed.divisor=12",
    "modes.central.divisor=12",
)


_honest = Contributor.vector


def _frozen(contributor: Contributor, *place: int) -> Contributor:
    key = contributor.client_id, *place
    return replace(contributor, entropy=seeded("noise", *key), coins=seeded("coins", *key))


def _keyed(self: Contributor, release: Any, weights: Any, *, number: int, attempt: int) -> Any:
    return _honest(_frozen(self, number, attempt), release, weights, number=number, attempt=attempt)


def _keyed_together(them: Any, release: Any, weights: Any, *, number: int, attempt: int) -> Any:
    frozen = [_frozen(each, number, attempt) for each in them]
    return vectors(frozen, release, weights, number=number, attempt=attempt)


def freeze() -> None:
    """Key every client's draws; in tests of this process through the fixture below, which takes it back."""
    Contributor.vector = _keyed  # type: ignore[method-assign]
    workroom.vectors = _keyed_together


class FrozenRehearsal(Rehearsal):
    """What a process of Ray's opens: the same party, its draws keyed as here."""

    __slots__ = ()

    def __call__(self, context: Context) -> AbstractContextManager[Party]:
        freeze()
        return super().__call__(context)


def leave_out_measurements(patch: pytest.MonkeyPatch) -> None:
    """Leave out what costs time and touches no frame."""
    patch.setattr("secure_fed_diffusion.training.exactness.is_position_independent", lambda *_, **__: True)
    patch.setattr("secure_fed_diffusion.federation.assessment.Assessment.measure", lambda *_, **__: {})
    patch.setattr("secure_fed_diffusion.federation.assessment.HOLDOUT_RECORDS", 16)
    patch.setattr(Contributor, "vector", _keyed)
    patch.setattr(workroom, "vectors", _keyed_together)


def tiny(mode: str, *overrides: str) -> RunSettings:
    return settings_for(mode, *TINY, *overrides)


def in_process(folder: Path, settings: RunSettings, watcher: Watcher | None = None) -> Run:
    run = prepare(settings, folder, config_text=config.dump(settings))
    run.server._entropy = seeded("server's noise")
    try:
        run.execute(watcher or Watcher())
    finally:
        run.ledger.close()
    return run


def simulated(folder: Path, settings: RunSettings, *, resume: bool = False) -> SimulatedRun:
    run = prepare_simulation(settings, folder, config_text=config.dump(settings), resume=resume)
    run.part.server._entropy = seeded("server's noise")
    return run


def over_memory(
    run: SimulatedRun,
    watcher: Watcher | None = None,
    *,
    with_grid: Callable[[MemoryGrid], None] = lambda grid: None,
    **more: Any,
) -> MemoryGrid:
    """Play a simulated run to its end over a grid in this process; return the grid."""
    grid = MemoryGrid(run.client_app(), run.plan.federation.clients, **more)
    with_grid(grid)
    try:
        with task():
            run.conduct(grid, watcher or Watcher())
    finally:
        run.ledger.close()
    return grid


def weights(folder: Path) -> tuple[np.ndarray[Any, Any], bytes]:
    """Return the server's weights after the last round, and the released model's file."""
    saved = checkpoint.load(folder / "checkpoint")
    assert saved is not None
    model = folder / "model" / "unet" / "diffusion_pytorch_model.safetensors"
    return saved.state["weights"].numpy(), model.read_bytes()


def charges(path: Path) -> list[tuple[int, int, int, str]]:
    """Return (client, round, attempt, mechanism) of each line of a ledger."""
    import json

    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return sorted(
        (line["client_id"], line["round"], line["attempt"], line["mechanism"])
        for line in lines
        if line.get("kind") == "charge"
    )
