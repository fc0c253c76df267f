"""Sweep the variants of the recipe, write the results, the figure and the README's table.

    SFD_DATA_DIR=/path/to/data python -m experiments.recipe_ablation.run [--only seed=0]
        [--collect | --table]

Cells that agree on their warm-up begin with one and the same (`warmups.py`).  A finished cell is not run
again, a stopped one goes on.  `--only` runs a part of the grid; the results keep what they have of its other
cells.  Those of other settings stop the call before any work, `--fresh` leaves them out.  `--collect` writes
what is finished so far and runs nothing; `--table` writes figure and README again from the results alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.command import finish
from experiments.recipe_ablation import figure, table, warmups
from experiments.results import into_readme, origin
from experiments.sweeping import cell_digests, gathered, kept_records, sweep, sweep_options
from secure_fed_diffusion.sweep.command import find_places
from secure_fed_diffusion.sweep.grid import chosen

HERE = Path(__file__).parent


def run_by_seed(arguments: argparse.Namespace) -> bool:
    """Run what `--only` leaves, seed by seed: stopped early, every variant has been run as often.

    Raises:
        ConfigError: `--only` names what the grid has not.
        RunError: a folder was begun under other settings.
    """
    places = find_places(arguments.grid, arguments.out, tuple(arguments.overrides), full=False)
    names = {cell.name for cell in chosen([place.cell for place in places], tuple(arguments.only))}
    mine = [place for place in places if place.cell.name in names]
    for place in mine:
        place.write_config()
    others = [word for word in arguments.only if not word.startswith("seed=")]
    whole = True
    for seed in dict.fromkeys(place.settings.run.seed for place in mine):
        of_seed = [place for place in mine if place.settings.run.seed == seed]
        warmups.begin(of_seed, arguments.out / "stems", arguments.jobs)
        options = sweep_options(
            jobs=arguments.jobs,
            memory=arguments.memory,
            overrides=arguments.overrides,
            only=[*others, f"seed={seed}"],
        )
        whole = sweep(arguments.grid, arguments.out, options) and whole
    return whole


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is left, then write everything; 1 if a cell failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--grid", type=Path, default=HERE / "grid.toml")
    parser.add_argument("--out", type=Path, default=Path("runs/recipe_ablation"))
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cells side by side")
    parser.add_argument("--memory", type=float, help="GiB for all cells together")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="section.key=value")
    parser.add_argument("--only", action="append", default=[], metavar="axis=value", help="these cells alone")
    parser.add_argument("--fresh", action="store_true", help="leave out results of other settings")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--collect", action="store_true", help="write what is finished so far, run nothing")
    action.add_argument("--table", action="store_true", help="figure and README from the results alone")
    arguments = parser.parse_args(argv)
    whole = True
    if not arguments.table:
        kept = kept_records(
            cell_digests(arguments.grid, arguments.overrides), arguments.results, fresh=arguments.fresh
        )
        if not arguments.collect:
            whole = run_by_seed(arguments)
        made = origin("experiments.recipe_ablation.run", sys.argv[1:] if argv is None else argv)
        records = gathered(
            arguments.grid, arguments.out, arguments.overrides, kept=kept, commit=made["commit"]
        )
        results = {**made, "records": records}
        arguments.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    results = json.loads(arguments.results.read_text(encoding="utf-8"))
    print(figure.draw(results["records"], arguments.results.with_name("figure.png")))
    if arguments.results.parent == HERE:
        into_readme(HERE / "README.md", "results", table.markdown(results))
    return 0 if whole else 1


if __name__ == "__main__":
    finish(main)
