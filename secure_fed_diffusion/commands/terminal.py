"""What the commands share: how a run's folder is named, one line for an error, no other library's noise."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, NoReturn

import typer

RunFolder = Annotated[Path, typer.Argument(help="The folder of a run.")]
RunFolders = Annotated[
    list[Path], typer.Argument(metavar="DIR...", help="Folders of runs, or folders that hold them.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


def fail(message: str, status: int) -> NoReturn:
    """Print one line to standard error and leave."""
    typer.echo(f"sfd: {' '.join(message.split())}", err=True)
    raise SystemExit(status)


def not_possible(error: OSError, nameless: str) -> str:
    """Say what the system refused, and on what: `nameless` where the error names no file."""
    return f"{nameless if error.filename is None else error.filename}: {error.strerror or error}"


def quiet() -> None:
    """Keep other libraries' log lines and warnings away from the user."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # above the highest of PyTorch's profiler
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
