"""`sfd data`: which image sets are known, which are here, and how to get one.

Only `sfd data fetch` ever opens a connection, and only when a person types it.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from secure_fed_diffusion.data.facts import facts
from secure_fed_diffusion.data.settings import DIRECTORY_VARIABLE, DatasetName, require_one_of
from secure_fed_diffusion.data.sources import SOURCES, Source
from secure_fed_diffusion.errors import ConfigError

if TYPE_CHECKING:
    from secure_fed_diffusion.data.fetch import Fetched

# What needs numpy or rich is imported by the command that needs it, so that `sfd --help` answers at once.

app = typer.Typer(
    name="data",
    help="The image sets: what is known, what is here, and how to get one. A run never downloads.",
    no_args_is_help=True,
)

Folder = Annotated[
    Path | None, typer.Option("--dir", help=f"The data folder; default: what {DIRECTORY_VARIABLE} names.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]

_MEGABYTE = 1e6
_PLAIN_LINES = 10  # of progress for a file, in a log


@app.command("list")
def list_sets(directory: Folder = None, as_json: AsJson = False) -> None:
    """Show each known set: images by split, shape, classes, licence, size, and whether it is here."""
    named = directory or os.environ.get(DIRECTORY_VARIABLE)
    wanted = Path(named).expanduser() if named else None
    folder = wanted if wanted is not None and wanted.is_dir() else None
    rows = [_row(source, folder) for source in SOURCES.values()]
    if as_json:
        typer.echo(json.dumps({"directory": None if folder is None else str(folder), "sets": rows}))
        return
    _print_table(rows)
    if wanted is None:
        typer.echo(f"No data folder: set {DIRECTORY_VARIABLE}, or name one by --dir.")
    elif folder is None:
        by = "--dir" if directory else DIRECTORY_VARIABLE
        lacks = "is no folder" if wanted.exists() else "is not there"
        typer.echo(f"No data folder: {wanted}, which {by} names, {lacks}.")


@app.command("fetch")
def fetch_set(
    name: Annotated[str, typer.Argument(help="The set, as `sfd data list` names it.")],
    directory: Folder = None,
    base: Annotated[
        str | None, typer.Option("--from", help="Ask this address (http, https) instead of the publisher's.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Download a set from its publisher, verify it, and put it where runs look; goes on after a break."""
    from secure_fed_diffusion.data.fetch import fetch
    from secure_fed_diffusion.data.published import data_directory

    require_one_of(name, get_args(DatasetName), key="NAME")
    source = SOURCES[name]
    if source.layout == "installed":
        folder = Path()  # nothing will be written: `fetch` says why
    elif directory is None and not os.environ.get(DIRECTORY_VARIABLE):
        raise ConfigError(f"expected the folder to put {name} into, or {DIRECTORY_VARIABLE} set", key="--dir")
    else:
        folder = data_directory(None if directory is None else str(directory), name)
    with _FetchProgress(silent=as_json) as progress:
        fetched = fetch(source, folder, progress, base=base)
    if as_json:
        files = [asdict(file) | {"path": str(file.path)} for file in fetched]
        typer.echo(json.dumps({"name": name, "files": files}))
        return
    for file in fetched:
        typer.echo(_sentence(file))


def _sentence(file: Fetched) -> str:
    state = "was here" if file.was_here else "fetched"
    proof = "MD5 as published" if file.verified else "no MD5 to compare"
    return f"{file.path}: {state}, {file.n_bytes / _MEGABYTE:,.1f} MB, {proof}, SHA-256 {file.sha256}"


def _row(source: Source, directory: Path | None) -> dict[str, Any]:
    from secure_fed_diffusion.data.published import FILES, whole

    known = facts(source.name)
    private, public, test = source.image_counts
    if source.layout == "installed":
        state = "installed"
    elif directory is None:
        state = "no folder"
    elif whole(source, directory):
        state = "here"
    elif any(source.find(directory, file) for file in source.files):
        state = "incomplete"
    else:
        state = "missing"
    if source.layout == "installed" or source.name in FILES:
        checksum = "SHA-256"
    else:
        checksum = "MD5" if all(file.md5 for file in source.files) else "unverified"
    sizes = [
        path.stat().st_size for file in source.files if directory and (path := source.find(directory, file))
    ]
    on_disk = sum(sizes) / _MEGABYTE if len(sizes) == len(source.files) > 0 else None
    return {
        "name": source.name,
        "private": private,
        "public": public,
        "test": test,
        "image_shape": list(known.image_shape),
        "classes": known.n_classes,
        "licence": source.licence,
        "megabytes": on_disk or source.megabytes if source.files else None,
        "state": state,
        "fetchable": bool(source.addresses),
        "checksum": checksum,
    }


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        for row in rows:
            typer.echo("  ".join(_cells(row)))
        return
    table = Table(box=None)
    for title in ("name", "state", "private/public/test", "c×h×w", "classes", "MB", "checksum", "licence"):
        table.add_column(title)
    for row in rows:
        table.add_row(*_cells(row))
    console.print(table)


def _cells(row: dict[str, Any]) -> list[str]:
    size = row["megabytes"]
    return [
        row["name"],
        row["state"],
        f"{row['private']:,}/{row['public']:,}/{row['test']:,}",
        "×".join(str(side) for side in row["image_shape"]),
        f"{row['classes']} classes",
        "? MB" if size is None and row["state"] != "installed" else f"{size or 0:,.0f} MB",
        row["checksum"],
        row["licence"],
    ]


class _FetchProgress:
    """A bar on a terminal, about ten plain lines a file elsewhere, on standard error; or silence."""

    def __init__(self, *, silent: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        self._silent = silent
        self._filename, self._said = "", 0
        self._total: int | None = None
        console = Console(stderr=True)
        self._live: Progress | None = None
        if console.is_terminal and not silent:
            self._live = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                console=console,
            )
        self._task: Any = None

    def __enter__(self) -> _FetchProgress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def begin(self, filename: str, done: int, total: int | None) -> None:
        """Begin a file, or go on with one."""
        self._filename, self._total, self._said = filename, total, done
        if self._live:
            self._task = self._live.add_task(filename, total=total, completed=done)
        elif not self._silent:
            typer.echo(self._line(done), err=True)

    def advance(self, done: int) -> None:
        """Show the bytes on disk."""
        if self._live:
            self._live.update(self._task, completed=done)
        elif not self._silent:
            step = (self._total or 100 * _MEGABYTE) / _PLAIN_LINES
            if done - self._said >= step or done == self._total:
                self._said = done
                typer.echo(self._line(done), err=True)

    def _line(self, done: int) -> str:
        total = self._total
        of = (
            f" of {total / _MEGABYTE:,.1f} MB ({100 * done // max(total, 1)} %)"
            if total is not None
            else " MB"
        )
        return f"{self._filename}: {done / _MEGABYTE:,.1f}{of}"
