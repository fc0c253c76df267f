"""One warm-up for all cells that agree on it: what differs between them afterwards is the private phase.

A stem is a run that is stopped where its warm-up ends; a cell begins there, with the stem's sums and weights
and with the stem's charges in a ledger of its own, and `sfd sweep` goes on with it as with any stopped run.
The lines of the warm-up in the cell's `metrics.jsonl` are the stem's.

Each cell's epsilon is that of the warm-up and its own steps, as if it had been run alone.  It says nothing of
several cells of one stem together: whoever releases two models pays for the warm-up once, for both trainings.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from experiments.sweeping import Record, each_once
from secure_fed_diffusion import config
from secure_fed_diffusion.dp.ledger import Ledger
from secure_fed_diffusion.errors import RunError
from secure_fed_diffusion.federation import checkpoint
from secure_fed_diffusion.federation.folder import Folder, read_lines
from secure_fed_diffusion.federation.prepare import prepare
from secure_fed_diffusion.federation.settings import RunSettings
from secure_fed_diffusion.sweep.process import Place
from secure_fed_diffusion.training.vectors import flatten, load_flat


@dataclass(frozen=True, slots=True, kw_only=True)
class Stem:
    """A warm-up by its settings; the rest of them is some cell's and does not matter."""

    settings: RunSettings
    root: Path

    @property
    def name(self) -> str:
        """What decides the warm-up: all settings but those of the private steps and of what measures them."""
        settings = self.settings
        decisive = {
            field.name: getattr(settings, field.name)
            for field in fields(settings)
            if field.name not in ("run", "modes", "sampler", "evaluation")
        } | {
            "seed": settings.run.seed,
            "data": replace(settings.data, directory=None),
            # but for how often a private step noises a record: a plain step does it once
            "diffusion": replace(settings.diffusion, noise_multiplicity=1, stratified=False),
        }
        if settings.evaluation.after_warmup:  # then the stem is measured, for all of its cells
            decisive |= {"sampler": settings.sampler, "evaluation": settings.evaluation}
        digest = sha256(repr(decisive).encode()).hexdigest()[:12]
        return f"seed-{settings.run.seed}_epsilon-{settings.privacy.epsilon:g}_{digest}"

    @property
    def folder(self) -> Folder:
        """The folder of the run that is stopped."""
        return Folder(self.root / self.name)


class _WarmedUp(Exception):  # no error: the run is stopped on purpose
    pass


class _UntilWarmedUp:
    def __init__(self, rounds: int) -> None:
        self._rounds = rounds

    def round(self, record: dict[str, Any]) -> None:
        if record["round"] == self._rounds:
            raise _WarmedUp

    def note(self, text: str) -> None:
        pass


def begin(places: Sequence[Place], root: Path, workers: int) -> None:
    """Run the warm-ups of those cells that have one and are not begun, once each; begin the cells there."""
    waiting = [place for place in places if place.settings.warmup.rounds and not place.begun]
    stems = {stem.name: stem for stem in (_stem(place, root) for place in waiting)}
    each_once(list(stems.values()), warm_up, root, workers)
    for place in waiting:
        begin_at(_stem(place, root), place)


def _stem(place: Place, root: Path) -> Stem:
    return Stem(settings=place.settings, root=root)


def warm_up(stem: Stem) -> Record:
    """Run a stem, on one core; one that was stopped before is begun anew."""
    torch.set_num_threads(1)
    shutil.rmtree(stem.folder.root, ignore_errors=True)
    began = time.perf_counter()
    run = prepare(stem.settings, stem.folder.root, config_text=config.dump(stem.settings))
    try:
        run.execute(_UntilWarmedUp(stem.settings.warmup.rounds))
    except _WarmedUp:
        pass
    finally:
        run.ledger.close()
    return {"stem": stem.name, "seconds": round(time.perf_counter() - began, 1)}


def begin_at(stem: Stem, place: Place) -> None:
    """Begin a cell where its stem's warm-up ended.

    Raises:
        RunError: the cell would have released something else than the stem did.
    """
    saved = checkpoint.load(stem.folder.checkpoint)
    if saved is None:
        raise RunError(
            f"{stem.folder.root} has no checkpoint: remove it and the .json beside it, and begin anew"
        )
    place.write_config()
    fresh = place.folder.with_name(f"{place.folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.parent.mkdir(parents=True, exist_ok=True)
    run = prepare(place.settings, fresh, config_text=config.dump(place.settings))
    try:
        _charge_as(stem, run.ledger, place.cell.name)
        load_flat(run.server.model, saved.state["weights"])
        run.server.classes.load_state_dict(saved.state["classes"])
        run.server.average.restart(flatten(run.server.model))
        state = run.server.state_dict()
        checkpoint.save(run.folder.checkpoint, finished_round=saved.finished_round, state=state)
        shutil.copyfile(stem.folder.metrics, run.folder.metrics)
    finally:
        run.ledger.close()
    fresh.rename(place.folder)


def _charge_as(stem: Stem, ledger: Ledger, cell: str) -> None:
    """Write into a cell's ledger what the stem's holds, charge by charge."""
    with Ledger.open(stem.folder.ledger) as paid:
        released = paid.terms.mechanisms
    for line in read_lines(stem.folder.ledger)[1:]:
        name = line["mechanism"]
        own = ledger.terms.mechanisms.get(name)
        if own != released[name]:
            raise RunError(f"{cell} would release {name} by {own}, {stem.name} did by {released[name]}")
        ledger.charge(
            line["client_id"],
            round=line["round"],
            attempt=line["attempt"],
            mechanism=name,
            steps=line["steps"],
        )
