"""A run's state between two rounds, written whole or not at all.

It holds the server's released state and the number of the last round whose sum is in it; nothing of a client,
no noise, no sample.  What was charged is in the ledger alone, so a run that resumes from an older checkpoint
repeats a round under a new attempt, and pays for it.

What follows a sum may take minutes: the training of the warm-up, an evaluation.  So the checkpoint is written
before it too, with the line of `metrics.jsonl` that is not measured yet; a run that resumes there does that
part again, which costs nothing, and not the round.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import torch

from secure_fed_diffusion.errors import RunError

FILE = "state.pt"


class Saved(NamedTuple):
    """What a checkpoint holds; `unmeasured` is the last round's line, where that round is not over yet."""

    finished_round: int
    state: dict[str, Any]
    unmeasured: dict[str, Any] | None


def save(
    directory: Path, *, finished_round: int, state: dict[str, Any], unmeasured: dict[str, Any] | None = None
) -> None:
    """Replace the checkpoint; a process killed here leaves the old one."""
    directory.mkdir(parents=True, exist_ok=True)
    fresh = directory / (FILE + ".new")
    with fresh.open("wb") as file:
        torch.save({"finished_round": finished_round, "state": state, "unmeasured": unmeasured}, file)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(directory / FILE)


def load(directory: Path) -> Saved | None:
    """Return what was saved last, or None where no round has finished.

    Raises:
        RunError: the file is there and cannot be read.
    """
    path = directory / FILE
    if not path.exists():
        return None
    try:
        saved = torch.load(path, weights_only=True, map_location="cpu")
        return Saved(int(saved["finished_round"]), saved["state"], saved["unmeasured"])
    except Exception as error:
        raise RunError(f"{path} cannot be read ({type(error).__name__}): restore it or start anew") from error
