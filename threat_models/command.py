"""`sfd threats`: run the claims, show what came out, and say by the exit status whether all held.

On a terminal it shows a bar and a table; elsewhere plain lines.  Claims marked long need `--long` or
`--only`. The package finds this command by the entry point `secure_fed_diffusion.commands`.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Annotated, Any, Self

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from secure_fed_diffusion.errors import ConfigError

# The claims, and torch with some of them, are imported by what needs them: `sfd --help` answers at once.

_MARK_COLOURS = {"holds": "green", "not promised": "yellow"}


def threats(
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="ID", help="Run this claim; may be repeated.")
    ] = None,
    long: Annotated[bool, typer.Option("--long", help="Run the long ones too.")] = False,
    listing: Annotated[bool, typer.Option("--list", help="Say what there is, and run nothing.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Worker processes.")] = os.cpu_count() or 1,
    package: Annotated[
        str, typer.Option("--claims", metavar="PACKAGE", help="Where the claims are.")
    ] = "threat_models.claims",
    write: Annotated[bool, typer.Option("--write", help="Write results.json and THREAT_MODEL.md.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document and nothing else.")
    ] = False,
) -> None:
    """Attack every promise, defence off, on, and one assumption dropped; status 1 if one did not hold."""
    from threat_models import registry

    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with _package_of_claims(package):
        chosen = registry.choose(package, only) if only else tuple(registry.claims(package).values())
    if listing:
        _list(chosen, as_json)
        return
    left_out = [] if only or long else [claim.id for claim in chosen if claim.long]
    chosen = tuple(claim for claim in chosen if claim.id not in left_out)
    if write and package != registry.CLAIMS:
        raise ConfigError("results.json is for the claims of threat_models alone", key="--write")
    results = _run(chosen, package=package, jobs=jobs, silent=as_json, keep=write)
    if as_json:
        body = {claim_id: result.to_dict() for claim_id, result in results.items()}
        typer.echo(json.dumps({"as_written": all(r.as_written for r in results.values()), "claims": body}))
    else:
        _print(chosen, results, left_out=left_out)
    if write:
        _write_document()
    if not all(result.as_written for result in results.values()):
        raise typer.Exit(1)


@contextmanager
def _package_of_claims(package: str) -> Iterator[None]:
    """Turn a package that is not there into a wrong value of its option."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name and f"{package}.".startswith(f"{error.name}."):
            raise ConfigError(f"no package {package!r}", key="--claims") from None
        raise


def _run(chosen: Sequence[Any], *, package: str, jobs: int, silent: bool, keep: bool) -> dict[str, Any]:
    """Run them; with `keep` each claim's result is in results.json as soon as it is known."""
    from threat_models import pool, results

    costs = {claim_id: result.seconds for claim_id, result in results.read().items()}
    n_pieces = sum(len(claim.seeds) for claim in chosen)
    with ThreatProgress(n_pieces, console=Console(quiet=silent)) as progress:
        return pool.run_all(
            chosen,
            package=package,
            jobs=min(jobs, n_pieces),
            costs=costs,
            on_trials=progress.trials,
            on_result=_keep if keep else None,
        )


def _keep(result: Any) -> None:
    from threat_models import registry, results

    results.write(results.merged({result.claim_id: result}, results.read(), registry.claims()))


def _write_document() -> None:
    from threat_models import document, registry, results

    written = results.read()
    missing = results.stale(registry.claims(), written)
    if missing:
        raise ConfigError(
            f"THREAT_MODEL.md needs a result of every claim; run {', '.join(missing)}", key="--write"
        )
    document.write(written)


class ThreatProgress:
    """Show how far the trials are: one live bar on a terminal, one line a seed elsewhere."""

    def __init__(self, n_pieces: int, *, console: Console | None = None) -> None:
        self._console = console or Console()
        self._n_pieces, self._done = n_pieces, 0
        self._live: Progress | None = None
        if self._console.is_terminal:
            self._live = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=None),
                TextColumn("{task.completed}/{task.total}"),
                TimeElapsedColumn(),
                console=self._console,
            )
            self._task = self._live.add_task("attacking", total=n_pieces)

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def trials(self, claim: Any, seed: int, found: Sequence[Any]) -> None:
        """Say that a claim has one more seed behind it."""
        self._done += 1
        broken = [trial for trial in found if trial.error]
        for trial in broken:
            self._say(f"{claim.id} {trial.column}, seed {seed}: {trial.error}")
        if self._live:
            self._live.update(self._task, completed=self._done, description=f"{claim.id} {claim.title}")
        elif not broken:
            self._say(f"{self._done}/{self._n_pieces} · {claim.id} {claim.title} · seed {seed}")

    def _say(self, line: str) -> None:
        if not self._console.quiet:
            self._console.print(Text(line), soft_wrap=True)


def _list(chosen: Sequence[Any], as_json: bool) -> None:
    if as_json:
        fields = ("id", "title", "adversary", "asset", "defence", "statement", "promised", "long")
        typer.echo(json.dumps([{name: getattr(claim, name) for name in fields} for claim in chosen]))
        return
    for claim in chosen:
        remarks = ["" if claim.promised else "not promised", "long" if claim.long else ""]
        typer.echo(f"{claim.id:<5} {claim.title}" + "".join(f" ({remark})" for remark in remarks if remark))
        typer.echo(textwrap.indent(textwrap.fill(claim.statement, 100), "      "))


def _print(chosen: Sequence[Any], results: Mapping[str, Any], *, left_out: Sequence[str]) -> None:
    from threat_models import registry, table

    console = Console()
    rows = [table.row(claim, results[claim.id], registry.adversaries()) for claim in chosen]
    if console.is_terminal:
        drawn = Table()
        for name in table.HEAD:
            drawn.add_column(name, overflow="fold")
        for cells in rows:
            colour = _MARK_COLOURS.get(cells[-1], "bold red")
            drawn.add_row(*(Text(cell) for cell in cells[:-1]), Text(cells[-1], style=colour))
        console.print(drawn)
    else:
        for cells in (table.HEAD, *rows):
            typer.echo(" | ".join(cells))
    for claim in chosen:
        for name, column in (*results[claim.id].arms.items(), *results[claim.id].peers.items()):
            if column.error:
                typer.echo(f"{claim.id} {name}: {column.error}")
            elif not column.as_written:
                typer.echo(f"{claim.id} {name}: expected {column.expected}, came out {column.verdict}")
    held = sum(results[claim.id].as_written for claim in chosen)
    typer.echo(f"{held} of {len(chosen)} claims came out as written")
    missing = [claim.id for claim in chosen if not results[claim.id].installed]
    if missing:
        typer.echo(f"not run, a library is missing: {', '.join(missing)}")
    if left_out:
        typer.echo(f"left out as long: {', '.join(left_out)} (--long)")
