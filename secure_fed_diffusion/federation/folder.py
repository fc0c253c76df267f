"""A run's folder on disk: where its files lie, and how it is begun, continued and cut back.

A ledger is only ever continued under the terms that it was begun with; metrics of rounds that the
checkpoint does not hold are dropped, because those rounds are done, and charged, again.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secure_fed_diffusion.dp.ledger import Ledger
from secure_fed_diffusion.entropy import system
from secure_fed_diffusion.errors import RunError
from secure_fed_diffusion.federation.plan import Plan


@dataclass(frozen=True, slots=True)
class Folder:
    """The paths of a run's folder."""

    root: Path

    @property
    def config(self) -> Path:
        """The complete configuration."""
        return self.root / "config.toml"

    @property
    def ledger(self) -> Path:
        """What was spent."""
        return self.root / "ledger.jsonl"

    @property
    def metrics(self) -> Path:
        """One line a round."""
        return self.root / "metrics.jsonl"

    @property
    def checkpoint(self) -> Path:
        """The server's state after the last finished round."""
        return self.root / "checkpoint"

    @property
    def model(self) -> Path:
        """The released model, as diffusers loads it."""
        return self.root / "model"

    def grid(self, number: int) -> Path:
        """The sample grid after a round."""
        return self.root / "samples" / f"round_{number:04d}.png"

    def write_json(self, name: str, value: Any) -> None:
        """Replace a JSON file whole."""
        fresh = self.root / (name + ".new")
        fresh.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
        fresh.replace(self.root / name)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a JSON-lines file; a last line that was torn by a kill is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def open_ledger(folder: Folder, plan: Plan, config_text: str, *, resume: bool) -> tuple[Ledger, str]:
    """Begin the folder, or go on with it; return the ledger and the run's id.

    Raises:
        RunError: the folder is taken, holds no run, or was begun under other settings.
    """
    digest = hashlib.sha256(config_text.encode()).hexdigest()
    if resume:
        if not folder.ledger.exists():
            raise RunError(f"{folder.root} holds no run to resume: there is no {folder.ledger.name}")
        ledger = Ledger.open(folder.ledger)
        if ledger.terms != plan.terms(ledger.terms.run_id, digest):
            ledger.close()
            raise RunError(f"{folder.root} was begun under other settings; resume with its own config.toml")
        folder.config.write_text(config_text, encoding="utf-8")  # a kill may have come before it was there
        return ledger, ledger.terms.run_id
    if folder.root.exists() and any(folder.root.iterdir()):
        raise RunError(f"{folder.root} is not empty: choose another folder, or --resume the run in it")
    folder.root.mkdir(parents=True, exist_ok=True)
    run_id = system(16).hex()
    ledger = Ledger.create(folder.ledger, plan.terms(run_id, digest))
    folder.config.write_text(config_text, encoding="utf-8")
    return ledger, run_id


def cut_metrics(folder: Folder, finished: int) -> None:
    """Drop the lines of rounds that the checkpoint does not hold: they are done again."""
    kept = [line for line in read_lines(folder.metrics) if line["round"] <= finished]
    if folder.metrics.exists():
        fresh = folder.metrics.with_suffix(".new")
        fresh.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        fresh.replace(folder.metrics)
