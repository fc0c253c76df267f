"""`sfd sweep`: many runs from one grid, resumable, side by side, with one table of all of them."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secure_fed_diffusion.cores import usable_cores

if TYPE_CHECKING:
    from secure_fed_diffusion.sweep.process import Place

_SHARE_OF_MEMORY = 0.8  # of what is free when a sweep begins, where --memory does not say


def sweep(
    grid_file: Annotated[Path, typer.Argument(metavar="GRID", help="The grid (TOML): a base and its axes.")],
    out: Annotated[Path, typer.Option(help="The folder to write; must be new, or --resume.")],
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Cells side by side, a core each. Default: one a core.")
    ] = None,
    memory: Annotated[
        float | None, typer.Option(min=0.1, help="GiB for all cells together. Default: 80 % of what is free.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="section.key=value in every cell, over the base; may be repeated."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="axis=value: of the grid, these cells alone; the table still lists all."),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on with the sweep in --out.")] = False,
    full: Annotated[
        bool, typer.Option(help="Every cell of the axes' product, without the cuts of keep.")
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="List the cells and an estimate; run nothing.")] = False,
    parquet: Annotated[
        bool, typer.Option(help="Write cells.parquet beside cells.csv; needs pyarrow.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document and nothing else.")
    ] = False,
) -> None:
    """Run every cell of a grid in a folder and a process of its own; status 1 if one failed."""
    from secure_fed_diffusion.federation.folder import require_free
    from secure_fed_diffusion.sweep.grid import chosen
    from secure_fed_diffusion.sweep.pool import Pool
    from secure_fed_diffusion.sweep.process import attempts
    from secure_fed_diffusion.sweep.progress import SweepProgress
    from secure_fed_diffusion.sweep.table import require_parquet, rows_of, write_csv, write_parquet

    if parquet:
        require_parquet()
    places = find_places(grid_file, out, tuple(overrides or ()), full=full)
    mine = {cell.name for cell in chosen([place.cell for place in places], tuple(only or ()))}
    todo = [place for place in places if place.cell.name in mine]
    at_once = jobs or usable_cores()
    if dry_run:
        _list(todo, places, at_once, as_json=as_json)
        return
    if not resume:
        require_free(out, "choose another folder, or --resume the sweep in it")
    for place in todo:
        place.write_config()
    (out / "grid.toml").write_bytes(grid_file.read_bytes())
    given = memory if memory is not None else _SHARE_OF_MEMORY * _free_gib()
    display = _Silent() if as_json else SweepProgress()
    pool = Pool(places=todo, known=places, jobs=at_once, memory_gib=given, display=display)
    try:
        with display:
            failures = pool.run()
    except KeyboardInterrupt:
        same = ["sfd", "sweep", str(grid_file), "--out", str(out), "--resume", *["--full"] * full]
        same += [word for override in overrides or () for word in ("--set", override)]
        same += [word for part in only or () for word in ("--only", part)]
        typer.echo(f"sfd: stopped; go on with: {shlex.join(same)}", err=True)
        raise SystemExit(130) from None
    finally:
        took = attempts(out)
        rows = rows_of(places, took)
        write_csv(out / "cells.csv", rows)
        if parquet:
            write_parquet(out / "cells.parquet", rows)
    if as_json:
        typer.echo(json.dumps({"cells": rows, "failed": failures, "table": str(out / "cells.csv")}))
    else:
        typer.echo(f"table: {out / 'cells.csv'}")
        for name, error in failures.items():
            typer.echo(f"failed: {name}: {error} (log: {out / 'logs' / name}.log)", err=True)
    if failures:
        raise typer.Exit(1)


def find_places(grid_file: Path, out: Path, overrides: tuple[str, ...] = (), *, full: bool) -> list[Place]:
    """Return every cell with its checked settings; a cell computes on one core.

    Raises:
        ConfigError: the grid, its base or a cell's settings are wrong; nothing was written.
    """
    import dataclasses

    from secure_fed_diffusion.sweep.grid import read_grid
    from secure_fed_diffusion.sweep.process import Place

    grid = read_grid(grid_file, overrides)
    grid = dataclasses.replace(grid, settings=("run.workers=1", *grid.settings))
    return [Place(root=out, cell=cell, settings=cell.settings(grid.base)) for cell in grid.cells(full=full)]


def _list(places: list[Place], known: list[Place], jobs: int, *, as_json: bool) -> None:
    """Print the cells, and what they will take by nominal rates or by what cells of `known` took."""
    from secure_fed_diffusion.sweep import estimate
    from secure_fed_diffusion.sweep.pool import clock_of

    clock = clock_of(known)
    cells = [
        {
            "cell": place.cell.name,
            "status": "finished" if place.finished else "begun" if place.begun else "new",
            "seconds": round(clock.seconds(estimate.seconds(place.settings)), 1),
        }
        for place in places
    ]
    left = [float(str(cell["seconds"])) for cell in cells if cell["status"] != "finished"]
    together = max(sum(left) / jobs, max(left, default=0.0))
    basis = f"by {clock.learned} finished cells" if clock.learned else "a rough guess: no cell is done yet"
    if as_json:
        outlook = {"seconds_left": round(together, 1), "basis": basis, "jobs": jobs}
        typer.echo(json.dumps({"cells": cells, **outlook, "budgets_checked": False}))
        return
    for cell in cells:
        typer.echo(
            f"{cell['status']:<9} {estimate.duration(float(str(cell['seconds']))):>10}  {cell['cell']}"
        )
    typer.echo(
        f"{len(left)} of {len(cells)} cells to run, about {estimate.duration(together)} with {jobs} "
        f"side by side ({basis})"
    )
    typer.echo("settings are checked, budgets are not: a cell whose ε cannot be kept fails when it begins")


class _Silent:
    """A display that says nothing: standard output belongs to the JSON."""

    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def standing(self, standing: object) -> None:
        """Say nothing."""

    def ended(self, name: str, seconds: float, error: str | None, standing: object) -> None:
        """Say nothing."""


def _free_gib() -> float:
    """Return the memory that is free now, or all there is where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        available = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(available.split()[1]) / (1 << 20)
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
