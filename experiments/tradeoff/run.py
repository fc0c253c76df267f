"""The trade-off: sweep the grid, measure the simpler methods, write results, the figure and the README.

    SFD_DATA_DIR=/path/to/data python -m experiments.tradeoff.run      # MNIST, the cells that grid.toml keeps
    python -m experiments.tradeoff.run --quick                         # scikit-learn's digits
    python -m experiments.tradeoff.run --full                          # every cell of the product
    python -m experiments.tradeoff.run --only seed=1                   # a part; of the simpler methods, too
    python -m experiments.tradeoff.run --only mode=dp_merf
    python -m experiments.tradeoff.run --collect                       # what is finished so far, run nothing

Whatever is done under --out is not done again: stop it and start it anew at will.  The results keep what they
have of other parts; records of other settings stop the call before any work, `--fresh` leaves them out.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.command import finish
from experiments.results import into_readme, origin
from experiments.sweeping import (
    cell_digests,
    each_once,
    finished_jobs,
    gathered,
    joined,
    kept_records,
    sweep,
    sweep_options,
)
from experiments.tradeoff import figure, table
from experiments.tradeoff.baselines.measure import METHODS, Job, measure
from secure_fed_diffusion import config
from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.sweep.grid import Cell, chosen, read_grid

HERE = Path(__file__).parent


def jobs_of(recipes: Mapping[str, Any], base: Path, overrides: Sequence[str], *, full: bool) -> list[Job]:
    """Return the baselines of one data set: every method at every ε and seed.

    Raises:
        ConfigError: there are no recipes for the data set, or one at an ε that is none of these.
    """
    settings = config.load(base, overrides)
    name = settings.data.name
    if name not in recipes:
        raise ConfigError(f"expected one of {', '.join(recipes)}, got {name!r}", key="data.name")
    mine = recipes[name]
    epsilons = mine["epsilons_full"] if full and "epsilons_full" in mine else mine["epsilons"]
    return [
        Job(
            method=method,
            epsilon=float(epsilon),
            seed=seed,
            settings=settings,
            recipe=recipe_of(method, mine.get(method, {}), float(epsilon), epsilons),
        )
        for seed in mine["seeds"]
        for epsilon in epsilons
        for method in METHODS
    ]


def recipe_of(
    method: str, recipe: Mapping[str, Any], epsilon: float, epsilons: Sequence[float]
) -> dict[str, Any]:
    """Return a method's recipe at one of `epsilons`: its table, and over it what its table `at` has there.

    Raises:
        ConfigError: `at` names another ε.
    """
    at, known = recipe.get("at", {}), [f"{each:g}" for each in epsilons]
    if wrong := sorted(set(at) - set(known)):
        raise ConfigError(
            f"expected some of {', '.join(known)} as quoted keys, got {wrong[0]!r}", key=f"{method}.at"
        )
    return {**{key: value for key, value in recipe.items() if key != "at"}, **at.get(f"{epsilon:g}", {})}


def part(
    cells: Sequence[Cell], jobs: Sequence[Job], only: Sequence[str]
) -> tuple[tuple[str, ...] | None, list[Job]]:
    """Return what `only` leaves: the words for `sfd sweep`, None where it leaves no cell, and the jobs.

    A simpler method stands on the axes as a mode does, at no number of clients.

    Raises:
        ConfigError: a word names an axis or a value that neither has, or nothing is left.
    """
    places = dict.fromkeys(cells[0].axes, "-")
    stand_ins = [
        Cell(
            name=job.name,
            axes={**places, "mode": job.method, "epsilon": job.epsilon, "seed": job.seed},
            overrides=(),
        )
        for job in jobs
    ]
    mine = chosen([*cells, *stand_ins], only)
    names = {cell.name for cell in mine}
    swept = [cell for cell in cells if cell.name in names]
    words = tuple(word for word in only if _names_some(swept, word)) if swept else None
    return words, [job for job in jobs if job.name in names]


def _names_some(cells: Sequence[Cell], word: str) -> bool:
    try:
        return bool(chosen(cells, (word,)))
    except ConfigError:
        return False


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
    parser.add_argument("--only", action="append", default=[], metavar="axis=value", help="this part alone")
    parser.add_argument("--fresh", action="store_true", help="leave out results of other settings")
    arguments = parser.parse_args(argv)
    stem = "quick_" if arguments.quick else ""
    grid = arguments.grid or HERE / ("quick.toml" if arguments.quick else "grid.toml")
    out = arguments.out or Path("runs") / ("tradeoff_quick" if arguments.quick else "tradeoff")
    results_json = arguments.results or HERE / f"{stem}results.json"
    overrides, full = tuple(arguments.overrides), arguments.full
    read = read_grid(grid, overrides)
    recipes = tomllib.loads(arguments.recipes.read_text(encoding="utf-8"))
    simple = jobs_of(recipes, read.base, read.settings, full=full)
    simple_digests = {job.cell: job.digest for job in simple}
    words, jobs = part(read.cells(full=full), simple, arguments.only)
    digests = cell_digests(grid, overrides, full=full) | simple_digests
    kept = kept_records(digests, results_json, fresh=arguments.fresh)
    whole = True
    if not arguments.collect:
        if words is not None:
            options = sweep_options(
                jobs=arguments.jobs, memory=arguments.memory, overrides=overrides, only=words
            )
            whole = sweep(grid, out / "sweep", [*options, *["--full"] * full])
        each_once(jobs, measure, out / "baselines", arguments.jobs)
    made = origin("experiments.tradeoff.run", sys.argv[1:] if argv is None else argv)
    found = {record["cell"]: record for record in finished_jobs(simple, out / "baselines")}
    records = [
        *gathered(grid, out / "sweep", overrides, kept=kept, commit=made["commit"], full=full),
        *joined(found, simple_digests, kept=kept, commit=made["commit"]),
    ]
    results = {
        **made,
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
    finish(main)
