"""The trade-off: sweep the grid, measure the simpler methods, write results, the figure and the README.

    SFD_DATA_DIR=/path/to/data python -m experiments.tradeoff.run      # MNIST, the cells that grid.toml keeps
    python -m experiments.tradeoff.run --quick                         # scikit-learn's digits
    python -m experiments.tradeoff.run --full                          # every cell of the product

Whatever is done under --out is not done again: stop it and start it anew at will.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from experiments.results import into_readme, origin
from experiments.tradeoff import figure, table
from experiments.tradeoff.baselines.measure import METHODS, Job, measure
from secure_fed_diffusion import config
from secure_fed_diffusion.sweep.command import find_places
from secure_fed_diffusion.sweep.grid import read_grid
from secure_fed_diffusion.sweep.process import attempts
from secure_fed_diffusion.sweep.table import rows_of

HERE = Path(__file__).parent


def sweep(grid: Path, out: Path, arguments: Sequence[str]) -> bool:
    """Run `sfd sweep`, or go on with it; say whether every cell ended well.

    Raises:
        SystemExit: it was stopped, or the grid is wrong.
    """
    command = [sys.executable, "-m", "secure_fed_diffusion.cli", "sweep", str(grid), "--out", str(out)]
    done = subprocess.run([*command, "--resume", *arguments], check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(done.returncode)
    return done.returncode == 0


def baselines(jobs: Sequence[Job], out: Path, workers: int) -> list[dict[str, Any]]:
    """Return the record of every job; what is in a file under `out` is not computed again."""
    out.mkdir(parents=True, exist_ok=True)
    left = [job for job in jobs if not (out / f"{job.name}.json").exists()]
    began = time.perf_counter()
    with ProcessPoolExecutor(max(1, workers)) as pool:
        waiting = {pool.submit(measure, job): job for job in left}
        for done, finished in enumerate(as_completed(waiting), start=1):
            path = out / f"{waiting[finished].name}.json"
            fresh = path.with_suffix(".new")
            fresh.write_text(json.dumps(finished.result(), indent=1), encoding="utf-8")
            fresh.replace(path)
            minutes = (time.perf_counter() - began) / 60
            print(f"{done}/{len(left)} {path.stem} ({minutes:.1f} min)", flush=True)
    return [json.loads((out / f"{job.name}.json").read_text(encoding="utf-8")) for job in jobs]


def jobs_of(recipes: Mapping[str, Any], base: Path, overrides: Sequence[str], *, full: bool) -> list[Job]:
    """Return the baselines of one data set: every method at every ε and seed."""
    settings = config.load(base, overrides)
    mine = recipes[settings.data.name]
    chosen = mine["epsilons_full"] if full and "epsilons_full" in mine else mine["epsilons"]
    return [
        Job(method=method, epsilon=float(epsilon), seed=seed, settings=settings, recipe=mine.get(method, {}))
        for seed in mine["seeds"]
        for epsilon in chosen
        for method in METHODS
    ]


def records_of(grid: Path, out: Path, overrides: Sequence[str], *, full: bool) -> list[dict[str, Any]]:
    """Return the finished cells as records that JSON can hold: ε = inf becomes null."""
    places = find_places(grid, out, tuple(overrides), full=full)
    rows = [row for row in rows_of(places, attempts(out)) if row["status"] == "finished"]
    dropped = ("status", "error")
    return [
        {key: None if value == math.inf else value for key, value in row.items() if key not in dropped}
        for row in rows
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Compute what is not there yet and write everything; 1 if a cell failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the digits instead of MNIST")
    parser.add_argument("--full", action="store_true", help="every cell of the product")
    parser.add_argument("--grid", type=Path, help="another grid (default: grid.toml, or quick.toml)")
    parser.add_argument("--out", type=Path, help="default: runs/tradeoff, or runs/tradeoff_quick")
    parser.add_argument("--results", type=Path, help="default: results.json, or quick_results.json, here")
    parser.add_argument(
        "--recipes", type=Path, default=HERE / "baselines.toml", help="of the simpler methods"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cells side by side")
    parser.add_argument("--memory", type=float, help="GiB for all cells together")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="section.key=value")
    arguments = parser.parse_args(argv)
    stem = "quick_" if arguments.quick else ""
    grid = arguments.grid or HERE / ("quick.toml" if arguments.quick else "grid.toml")
    out = arguments.out or Path("runs") / ("tradeoff_quick" if arguments.quick else "tradeoff")
    results_json = arguments.results or HERE / f"{stem}results.json"
    options = ["--jobs", str(arguments.jobs), *(["--full"] if arguments.full else [])]
    options += ["--memory", str(arguments.memory)] if arguments.memory else []
    options += [word for override in arguments.overrides for word in ("--set", override)]
    began = time.perf_counter()
    whole = sweep(grid, out / "sweep", options)
    read = read_grid(grid, tuple(arguments.overrides))
    recipes = tomllib.loads(arguments.recipes.read_text(encoding="utf-8"))
    simple = baselines(
        jobs_of(recipes, read.base, read.settings, full=arguments.full), out / "baselines", arguments.jobs
    )
    records = records_of(grid, out / "sweep", arguments.overrides, full=arguments.full) + simple
    results = {
        **origin("experiments.tradeoff.run", sys.argv[1:] if argv is None else argv),
        "minutes_of_this_call": round((time.perf_counter() - began) / 60, 1),
        "minutes_of_all_cells_one_after_another": round(sum(r["seconds"] for r in records) / 60, 1),
        "records": records,
    }
    results_json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    picture = figure.draw(results_json, results_json.with_name(f"{stem}figure.png"))
    if results_json.parent == HERE:
        into_readme(HERE / "README.md", "quick" if arguments.quick else "results", table.markdown(results))
    print(f"{results_json} and {picture}")
    return 0 if whole else 1


if __name__ == "__main__":
    raise SystemExit(main())
