"""Run the quickstart once in each of the five modes; write `results.json` and the README's table.

    python -m experiments.quickstart.run [--out runs/quickstart_modes] [--set ...] [--table]

Two modes at a time.  `--table` writes the table again from the results alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.command import finish
from experiments.five_modes import record, run_modes
from experiments.results import into_readme, origin

HERE = Path(__file__).parent


def markdown(results: Mapping[str, Any]) -> str:
    """Return a row for each mode."""
    lines = [
        f"`{results['command']}` at commit {results['commit']}, {results['machine']}, two modes at a time:",
        "",
        "| mode | ε | spent of it | unit, relation | view | TSTR | prototype accuracy | FID | minutes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for run in results["records"]:
        promised = ["no guarantee", "–", "–", "–"]
        if run["epsilon_spent"] is not None:
            whose = f"{run['unit']}, {run['relation']}"
            promised = [f"{run['epsilon']:g}", f"{run['epsilon_spent']:.2f}", whose, run["view"]]
        found = [f"{100 * run[name]:.1f} %" for name in ("tstr_cnn", "prototype_accuracy")]
        found += [f"{run['fid_lenet32_digits']:.1f}", f"{run['seconds'] / 60:.1f}"]
        lines.append(f"| `{run['mode']}` | {' | '.join(promised + found)} |")
    delta, floor = (results["records"][0][name] for name in ("delta", "fid_floor_lenet32_digits"))
    said = f"ε by PLD, δ = {delta:g}. FID by lenet32_digits, of which real images have {floor:.2f}."
    return "\n".join([*lines, "", said])


def main() -> None:
    """Run all modes, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart_modes"))
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="section.key=value")
    parser.add_argument("--table", action="store_true", help="the README from the results; run nothing")
    arguments = parser.parse_args()
    if not arguments.table:
        summaries = run_modes(HERE / "config.toml", arguments.out, arguments.overrides)
        records = [record(summary, 0) for summary in summaries.values()]
        results = {**origin("experiments.quickstart.run", sys.argv[1:]), "records": records}
        arguments.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(text := markdown(json.loads(arguments.results.read_text(encoding="utf-8"))))
    if arguments.results.parent == HERE:
        into_readme(HERE / "README.md", "results", text)


if __name__ == "__main__":
    finish(main)
