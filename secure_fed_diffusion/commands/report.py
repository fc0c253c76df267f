"""`sfd report` and `sfd export`: the rounds of runs for people, and for other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secure_fed_diffusion.commands.terminal import AsJson, RunFolders, quiet
from secure_fed_diffusion.errors import ConfigError

if TYPE_CHECKING:
    from secure_fed_diffusion.reporting.run_set import RunSet


def report(
    directories: RunFolders,
    out: Annotated[Path | None, typer.Option(help="The page of several runs; else comparison.html.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write one HTML file that opens offline: a run's report, or several runs side by side."""
    from secure_fed_diffusion.reporting.compare import render_comparison
    from secure_fed_diffusion.reporting.html import write_report
    from secure_fed_diffusion.reporting.page import save_page
    from secure_fed_diffusion.reporting.run_set import holds_runs, read_runs

    quiet()
    first = directories[0]
    if len(directories) == 1 and not holds_runs(first):
        if out is not None:
            raise ConfigError("a single run's report is report.html in its own folder", key="--out")
        path = write_report(first)
    else:
        beside = first / "report.html" if len(directories) == 1 else Path("comparison.html")
        found = read_runs(directories)
        _name_left_out(found)
        path = save_page(render_comparison(found), out or beside)
    typer.echo(json.dumps({"report": str(path)}) if as_json else f"report: {path}")


def export(
    directories: RunFolders,
    csv: Annotated[Path | None, typer.Option(help="Write a tidy table, one row a round.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="The same as Parquet; extra export.")] = None,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Write TensorBoard's event files into this folder; extra export.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the rounds of runs for other programs; training losses and clip counts never leave."""
    from secure_fed_diffusion.reporting import export as exporting
    from secure_fed_diffusion.reporting.run_set import read_runs
    from secure_fed_diffusion.reporting.wording import count_text

    quiet()
    if csv is None and parquet is None and tensorboard is None:
        raise ConfigError("expected at least one of --csv, --parquet, --tensorboard", key="export")
    found = read_runs(directories)
    members = found.members
    _name_left_out(found)
    rows = exporting.tidy_rows(found)
    written = [exporting.write_csv(rows, csv)] if csv else []
    written += [exporting.write_parquet(rows, parquet)] if parquet else []
    boards = exporting.write_tensorboard(members, tensorboard) if tensorboard else []
    if as_json:
        files = [str(path) for path in [*written, *boards]]
        typer.echo(json.dumps({"rows": len(rows), "files": files, "left_out": found.left_out}))
    else:
        named = [*written, *([tensorboard] if tensorboard else [])]
        counts = f"{count_text(len(rows), 'round')} of {count_text(len(members), 'run')}"
        typer.echo(f"{counts}: {', '.join(map(str, named))}")


def _name_left_out(found: RunSet) -> None:
    for reason in found.left_out:
        typer.echo(f"sfd: left out: {reason}", err=True)
