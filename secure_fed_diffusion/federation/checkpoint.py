"""A run's state between two rounds, written whole or not at all.

It holds the server's released state and the number of the last finished round; nothing of a client, no
noise, no sample.  What was charged is in the ledger alone, so a run that resumes from an older
checkpoint repeats a round under a new attempt, and pays for it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from secure_fed_diffusion.errors import RunError

FILE = "state.pt"


def save(directory: Path, *, finished_round: int, state: dict[str, Any]) -> None:
    """Replace the checkpoint; a process killed here leaves the old one."""
    directory.mkdir(parents=True, exist_ok=True)
    fresh = directory / (FILE + ".new")
    with fresh.open("wb") as file:
        torch.save({"finished_round": finished_round, "state": state}, file)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(directory / FILE)


def load(directory: Path) -> tuple[int, dict[str, Any]] | None:
    """Return (last finished round, server state), or None where no round has finished.

    Raises:
        RunError: the file is there and cannot be read.
    """
    path = directory / FILE
    if not path.exists():
        return None
    try:
        saved = torch.load(path, weights_only=True, map_location="cpu")
        return int(saved["finished_round"]), saved["state"]
    except Exception as error:
        raise RunError(f"{path} cannot be read ({type(error).__name__}): restore it or start anew") from error
