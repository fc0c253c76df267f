"""Run the grid cell by cell on all cores; write the results and the README's table.

    SFD_DATA_DIR=/path/to/data python -m experiments.mnist_cpu.run [--grid NAME] [--only seed=1]
        [--collect | --table]

A finished cell is not run again, a stopped one goes on.  `--only` runs a part of the grid; the results keep
what they have of its other cells.  Those of other settings stop the call before any work, `--fresh` leaves
them out.  `--collect` writes what is finished so far and runs nothing; `--table` writes the README
again from the results alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.command import finish
from experiments.mnist_cpu.table import GRIDS, tables
from experiments.results import into_readme, origin
from experiments.sweeping import cell_digests, gathered, kept_records, sweep, sweep_options

HERE = Path(__file__).parent


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is left, then write everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--grid", choices=tuple(GRIDS), default="grid")
    parser.add_argument("--out", type=Path, help="default: runs/mnist_cpu, or runs/mnist_cpu_<grid>")
    parser.add_argument("--results", type=Path, help="default: results.json beside this file")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--table", action="store_true", help="write the README again, run nothing")
    only.add_argument("--collect", action="store_true", help="write what is finished so far, run nothing")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="section.key=value")
    parser.add_argument("--only", action="append", default=[], metavar="axis=value", help="these cells alone")
    parser.add_argument("--fresh", action="store_true", help="leave out results of other settings")
    arguments = parser.parse_args(argv)
    grid = HERE / f"{arguments.grid}.toml"
    out = arguments.out or Path("runs") / ("mnist_cpu" + f"_{arguments.grid}" * (arguments.grid != "grid"))
    results = arguments.results or HERE / GRIDS[arguments.grid]
    if not arguments.table:
        kept = kept_records(cell_digests(grid, arguments.overrides), results, fresh=arguments.fresh)
        if not arguments.collect:
            options = sweep_options(jobs=1, memory=None, overrides=arguments.overrides, only=arguments.only)
            if not sweep(grid, out, options):
                raise SystemExit(1)  # a cell failed; its message is above
        made = origin("experiments.mnist_cpu.run", sys.argv[1:] if argv is None else argv)
        records = gathered(grid, out, arguments.overrides, kept=kept, commit=made["commit"])
        whole = {**made, "records": records}
        results.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        print(results)
    if results.parent == HERE:
        into_readme(HERE / "README.md", "results", tables())


if __name__ == "__main__":
    finish(main)
