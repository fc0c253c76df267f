"""What experiments that sweep a grid share: cells through `sfd sweep`, other jobs once each, their records.

Whatever is done under a folder is not done again: a driver that was stopped is started anew.

    whole = sweep(grid, out, sweep_options(jobs=2, memory=None, overrides=["run.device=cpu"]))
    records = finished_cells(grid, out, ["run.device=cpu"])

A grid too long for one machine, or one day, is run in parts (`only`): `kept_records` takes the records of the
other parts from the results that are there, as long as they are of the same settings (`cell_digests`, or the
jobs' own); `gathered` and `joined` put old and new together.
"""

from __future__ import annotations

import json
import math
import sys
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import replace
from functools import reduce
from hashlib import sha256
from operator import getitem
from pathlib import Path
from typing import Any, Protocol, TypeVar

from experiments.command import run_to_its_end, worker_pool
from secure_fed_diffusion import config
from secure_fed_diffusion.federation.settings import MachineSettings, RunSettings
from secure_fed_diffusion.sweep.command import find_places
from secure_fed_diffusion.sweep.process import attempts
from secure_fed_diffusion.sweep.table import rows_of

Record = dict[str, Any]


class Named(Protocol):
    """A job with a name that everything decides on which its record depends."""

    @property
    def name(self) -> str:
        """A name, also as a file."""
        ...


Job = TypeVar("Job", bound=Named)


def sweep_options(
    *, jobs: int, memory: float | None, overrides: Sequence[str], only: Sequence[str] = ()
) -> list[str]:
    """Return the options of `sfd sweep`: cells side by side, GiB for all of them, settings of each, which."""
    words = ["--jobs", str(jobs), *(["--memory", str(memory)] if memory else [])]
    words += [word for override in overrides for word in ("--set", override)]
    return words + [word for part in only for word in ("--only", part)]


def sweep(grid: Path, out: Path, options: Sequence[str]) -> bool:
    """Run `sfd sweep`, or go on with it; say whether every cell ended well.

    Raises:
        SystemExit: it was stopped, or the grid is wrong; the message is above.
    """
    command = [sys.executable, "-m", "secure_fed_diffusion.cli", "sweep", str(grid), "--out", str(out)]
    status = run_to_its_end([*command, "--resume", *options])
    if status not in (0, 1):
        raise SystemExit(status)
    return status == 0


def finished_cells(
    grid: Path, out: Path, overrides: Sequence[str] = (), *, full: bool = False
) -> list[Record]:
    """Return the finished cells as flat records that JSON can hold: ε = inf becomes null."""
    rows = rows_of(find_places(grid, out, tuple(overrides), full=full), attempts(out))
    return [jsonable(row) for row in rows if row["status"] == "finished"]


def cell_digests(grid: Path, overrides: Sequence[str], *, full: bool = False) -> dict[str, str]:
    """Return by cell, in the order of the grid, the digest of the settings that it has now."""
    places = find_places(grid, Path(), tuple(overrides), full=full)
    return {place.cell.name: settings_digest(place.settings) for place in places}


def kept_records(digests: Mapping[str, str], results: Path, *, fresh: bool = False) -> dict[str, Record]:
    """Return by cell what the results hold under the digests that are wanted now; asked before any work.

    Raises:
        SystemExit: they hold records of other settings, which would be lost; `fresh` leaves those out.
    """
    if not results.exists():
        return {}
    records = json.loads(results.read_text(encoding="utf-8"))["records"]
    before = {r.get("cell", f"record {number}"): r for number, r in enumerate(records, start=1)}
    kept = {name: r for name, r in before.items() if name in digests and r.get("settings") == digests[name]}
    if lost := sorted(before.keys() - kept.keys()):
        if not fresh:
            raise SystemExit(
                f"{results} holds {len(lost)} records of other settings than the grid has now, as {lost[0]}: "
                "name other --results, or leave them out with --fresh"
            )
        print(f"left out, of other settings than the grid's: {', '.join(lost)}", file=sys.stderr)
    return kept


def gathered(
    grid: Path,
    out: Path,
    overrides: Sequence[str],
    *,
    kept: Mapping[str, Record],
    commit: str,
    full: bool = False,
) -> list[Record]:
    """Return the finished cells of `out` and, of the grid's other cells, the records that were kept.

    A cell counts by the settings that it was BEGUN with: one of `out` with other settings than the grid has
    now is left out, with a line that says so.
    """
    digests = cell_digests(grid, overrides, full=full)
    found = {record["cell"]: record for record in finished_cells(grid, out, overrides, full=full)}
    for place in find_places(grid, out, tuple(overrides), full=full):
        name = place.cell.name
        if name in found and settings_digest(config.load(place.folder / "config.toml")) != digests[name]:
            print(f"left out: {place.folder} was begun with other settings than the grid's", file=sys.stderr)
            del found[name]
    return joined(found, digests, kept=kept, commit=commit)


def joined(
    found: Mapping[str, Record], digests: Mapping[str, str], *, kept: Mapping[str, Record], commit: str
) -> list[Record]:
    """Return for each name what was found now, or else what was kept; in the order of `digests`.

    A record names the digest of its settings and the commit that it was collected at, which stays where
    nothing else of it changed.
    """
    records = []
    for name, digest in digests.items():
        record = kept.get(name)
        if name in found:
            now = {**found[name], "settings": digest, "commit": commit}
            record = record if record is not None and {**record, "commit": commit} == now else now
        records += [record] if record is not None else []
    return records


def settings_digest(settings: RunSettings, keys: Sequence[str] | None = None) -> str:
    """Return a digest of all settings, defaults included, but for the machine's: cores, where files lie.

    With `keys` (sections, or dotted keys) of those alone, so that no other setting's default moves it.
    """
    anywhere = replace(
        settings,
        run=replace(MachineSettings(), seed=settings.run.seed),
        data=replace(settings.data, directory=None),
        evaluation=replace(settings.evaluation, inception_weights=None),
    )
    written = config.dump(anywhere)
    if keys is not None:
        whole = tomllib.loads(written)
        written = repr([(key, reduce(getitem, key.split("."), whole)) for key in keys])
    inception = "with Inception" if settings.evaluation.inception_weights else ""
    return sha256((written + inception).encode()).hexdigest()[:12]


def jsonable(row: Record) -> Record:
    """Return a row of a sweep's table without what only an unfinished one needs; infinity becomes null."""
    dropped = ("status", "error")
    return {key: None if value == math.inf else value for key, value in row.items() if key not in dropped}


def each_once(jobs: Sequence[Job], measure: Callable[[Job], Record], out: Path, workers: int) -> list[Record]:
    """Return the record of every job, in their order; what is in a file under `out` is not computed again.

    The first job that fails ends it: what has not begun is left, what runs is finished and written.
    """
    out.mkdir(parents=True, exist_ok=True)
    left = [job for job in jobs if not (out / f"{job.name}.json").exists()]
    began = time.perf_counter()
    if left:
        with worker_pool(workers) as pool:
            waiting = {pool.submit(measure, job): job for job in left}
            failed: BaseException | None = None
            for done, finished in enumerate(as_completed(waiting), start=1):
                if finished.cancelled():
                    continue
                if error := finished.exception():
                    failed = failed or error
                    for other in waiting:
                        other.cancel()  # what runs ends, and is written
                    continue
                path = out / f"{waiting[finished].name}.json"
                fresh = path.with_suffix(".new")
                fresh.write_text(json.dumps(finished.result(), indent=1), encoding="utf-8")
                fresh.replace(path)
                minutes = (time.perf_counter() - began) / 60
                print(f"{done}/{len(left)} {path.stem} ({minutes:.1f} min)", flush=True)
            if failed is not None:
                raise failed
    return finished_jobs(jobs, out)


def finished_jobs(jobs: Sequence[Named], out: Path) -> list[Record]:
    """Return the records that are there, in the order of the jobs."""
    paths = [out / f"{job.name}.json" for job in jobs]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]
