"""What experiments that sweep a grid share: cells through `sfd sweep`, other jobs once each, their records.

Whatever is done under a folder is not done again: a driver that was stopped is started anew.

    whole = sweep(grid, out, sweep_options(jobs=2, memory=None, overrides=["run.device=cpu"]))
    records = finished_cells(grid, out, ["run.device=cpu"])
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Protocol, TypeVar

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


def sweep_options(*, jobs: int, memory: float | None, overrides: Sequence[str]) -> list[str]:
    """Return the options of `sfd sweep`: cells side by side, GiB for all of them, settings of every cell."""
    words = ["--jobs", str(jobs), *(["--memory", str(memory)] if memory else [])]
    return words + [word for override in overrides for word in ("--set", override)]


def sweep(grid: Path, out: Path, options: Sequence[str]) -> bool:
    """Run `sfd sweep`, or go on with it; say whether every cell ended well.

    Raises:
        SystemExit: it was stopped, or the grid is wrong; the message is above.
    """
    command = [sys.executable, "-m", "secure_fed_diffusion.cli", "sweep", str(grid), "--out", str(out)]
    done = subprocess.run([*command, "--resume", *options], check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(done.returncode)
    return done.returncode == 0


def finished_cells(
    grid: Path, out: Path, overrides: Sequence[str] = (), *, full: bool = False
) -> list[Record]:
    """Return the finished cells as flat records that JSON can hold: ε = inf becomes null."""
    rows = rows_of(find_places(grid, out, tuple(overrides), full=full), attempts(out))
    return [jsonable(row) for row in rows if row["status"] == "finished"]


def jsonable(row: Record) -> Record:
    """Return a row of a sweep's table without what only an unfinished one needs; infinity becomes null."""
    dropped = ("status", "error")
    return {key: None if value == math.inf else value for key, value in row.items() if key not in dropped}


def each_once(jobs: Sequence[Job], measure: Callable[[Job], Record], out: Path, workers: int) -> list[Record]:
    """Return the record of every job, in their order; what is in a file under `out` is not computed again."""
    out.mkdir(parents=True, exist_ok=True)
    left = [job for job in jobs if not (out / f"{job.name}.json").exists()]
    began = time.perf_counter()
    if left:
        with ProcessPoolExecutor(max(1, workers)) as pool:
            waiting = {pool.submit(measure, job): job for job in left}
            for done, finished in enumerate(as_completed(waiting), start=1):
                path = out / f"{waiting[finished].name}.json"
                fresh = path.with_suffix(".new")
                fresh.write_text(json.dumps(finished.result(), indent=1), encoding="utf-8")
                fresh.replace(path)
                minutes = (time.perf_counter() - began) / 60
                print(f"{done}/{len(left)} {path.stem} ({minutes:.1f} min)", flush=True)
    return finished_jobs(jobs, out)


def finished_jobs(jobs: Sequence[Named], out: Path) -> list[Record]:
    """Return the records that are there, in the order of the jobs."""
    paths = [out / f"{job.name}.json" for job in jobs]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]
