"""Run MNIST once in each of the five modes and write `results.json` and the figure beside this file.

    SFD_DATA_DIR=/path/to/data python -m experiments.mnist_first.run [--out runs/mnist_first] [--set ...]

Modes run two at a time, one thread each.  The configuration reserves no repeats, so a mode that was killed is
begun anew: remove its folder.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

from experiments.command import finish
from experiments.five_modes import device, record, run_modes
from experiments.results import command_line, machine
from secure_fed_diffusion.reporting.tradeoff import plot_results

HERE = Path(__file__).parent


def main() -> None:
    """Run all modes and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/mnist_first"))
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="section.key=value")
    arguments = parser.parse_args()
    started = time.perf_counter()
    summaries = run_modes(HERE / "config.toml", arguments.out, arguments.overrides)
    minutes = (time.perf_counter() - started) / 60
    computed = sum(summary["seconds"] for summary in summaries.values()) / 60
    results = {
        "command": command_line("experiments.mnist_first.run", sys.argv[1:]),
        "commit": ", ".join(sorted({summary["commit"] for summary in summaries.values()})),
        "machine": machine(device()),
        "minutes_of_this_call": round(minutes, 1),
        "minutes_of_all_modes_one_after_another": round(computed, 1),
        "records": [record(summary, 0) for summary in summaries.values()],
    }
    arguments.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    picture, _ = plot_results(arguments.results, arguments.results.with_name("figure.png"))
    print(f"{arguments.results} and {picture}, {minutes:.1f} minutes")


if __name__ == "__main__":
    finish(main)
