"""Whole small runs in a folder, as a person would start, stop and resume them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from secure_fed_diffusion import config
from secure_fed_diffusion.federation.prepare import prepare
from secure_fed_diffusion.federation.run import Run
from tests.federation.small import settings_for


class Watcher:
    """Remembers what it is told; `stop_after` plays Ctrl-C once that round is over."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.records: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.stop_after = stop_after

    def round(self, record: dict[str, Any]) -> None:
        self.records.append(record)
        if record["round"] == self.stop_after:
            raise KeyboardInterrupt

    def note(self, text: str) -> None:
        self.notes.append(text)


def make(folder: Path, mode: str = "distributed", *overrides: str, resume: bool = False) -> Run:
    settings = settings_for(mode, *overrides)
    return prepare(settings, folder, config_text=config.dump(settings), resume=resume)


def finish(run: Run, watcher: Watcher | None = None) -> dict[str, Any]:
    try:
        return run.execute(watcher or Watcher())
    finally:
        run.ledger.close()
