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
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy import stats

from experiments.command import finish
from experiments.results import into_readme, origin, origin_text
from experiments.sweeping import cell_digests, gathered, kept_records, sweep, sweep_options

HERE = Path(__file__).parent
GRIDS = {
    "grid": "results.json",
    "epsilon1": "epsilon1_results.json",
    "fashion": "fashion_results.json",
    "fashion_epsilon1": "fashion_epsilon1_results.json",
    "digits": "digits_results.json",
    "xray": "xray_results.json",
}
FIGURES = {"tstr_cnn": "TSTR, CNN", "prototype_accuracy": "prototypes", "fid_lenet84": "FID-LeNet84"}


def table(found: Sequence[dict[str, Any]]) -> str:
    """Return a row for each mode and ε: means over the seeds, with the 95 % t-interval of several."""
    lines = [
        f"| data | mode | ε | seeds | {' | '.join(FIGURES.values())} | minutes |",
        "|---|---|---|---|" + "---|" * (len(FIGURES) + 1),
    ]
    for key in dict.fromkeys((r["data"], r["mode"], r["epsilon"]) for r in found):
        same = [r for r in found if (r["data"], r["mode"], r["epsilon"]) == key]
        minutes = statistics.mean(r["seconds"] for r in same) / 60
        data, mode, epsilon = key
        lines.append(
            f"| {data} | {mode} | {epsilon:g} | {len(same)} | {' | '.join(row(same))} | {minutes:.0f} |"
        )
    return "\n".join(lines)


def row(same: Sequence[dict[str, Any]]) -> list[str]:
    """Return the figures of runs that differ in their seed alone: means, with their interval."""
    return [_mean([value for r in same if (value := _figure(r, name)) is not None]) for name in FIGURES]


def _figure(record: dict[str, Any], name: str) -> float | None:
    """Return a figure by the beginning of its name; shares in percent."""
    found = [value for key, value in record.items() if key == name or key.startswith(f"{name}_")]
    if not found or found[0] is None:
        return None
    return float(found[0]) * (1 if name.startswith("fid") else 100)


def _mean(values: Sequence[float]) -> str:
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.1f}"
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):.1f} ± {half:.1f}"


def tables() -> str:
    """Return the tables of all results that are there, each with what made it."""
    parts = []
    for name in GRIDS.values():
        if (HERE / name).exists():
            whole = json.loads((HERE / name).read_text(encoding="utf-8"))
            parts.append(f"{origin_text(whole)}:\n\n{table(whole['records'])}\n")
    return "\n".join(parts)


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
