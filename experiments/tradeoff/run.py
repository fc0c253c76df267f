"""The trade-off: sweep the grid, measure the simpler methods, write results, the figure and the README.

    SFD_DATA_DIR=/path/to/data python -m experiments.tradeoff.run      # MNIST, the cells that grid.toml keeps
    python -m experiments.tradeoff.run --quick                         # scikit-learn's digits
    python -m experiments.tradeoff.run --full                          # every cell of the product
    python -m experiments.tradeoff.run --collect                       # what is finished so far, run nothing

Whatever is done under --out is not done again: stop it and start it anew at will.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.results import into_readme, origin
from experiments.sweeping import each_once, finished_cells, finished_jobs, sweep, sweep_options
from experiments.tradeoff import figure, table
from experiments.tradeoff.baselines.measure import METHODS, Job, measure
from secure_fed_diffusion import config
from secure_fed_diffusion.sweep.grid import read_grid

HERE = Path(__file__).parent


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
    parser.add_argument("--collect", action="store_true", help="write what is finished so far, run nothing")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="section.key=value")
    arguments = parser.parse_args(argv)
    stem = "quick_" if arguments.quick else ""
    grid = arguments.grid or HERE / ("quick.toml" if arguments.quick else "grid.toml")
    out = arguments.out or Path("runs") / ("tradeoff_quick" if arguments.quick else "tradeoff")
    results_json = arguments.results or HERE / f"{stem}results.json"
    options = sweep_options(jobs=arguments.jobs, memory=arguments.memory, overrides=arguments.overrides)
    options += ["--full"] if arguments.full else []
    began = time.perf_counter()
    whole = arguments.collect or sweep(grid, out / "sweep", options)
    read = read_grid(grid, tuple(arguments.overrides))
    recipes = tomllib.loads(arguments.recipes.read_text(encoding="utf-8"))
    simple = jobs_of(recipes, read.base, read.settings, full=arguments.full)
    records = finished_cells(grid, out / "sweep", arguments.overrides, full=arguments.full)
    records += (
        finished_jobs(simple, out / "baselines")
        if arguments.collect
        else each_once(simple, measure, out / "baselines", arguments.jobs)
    )
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
