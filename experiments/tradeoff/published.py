"""DP-MERF held to what is published of it: the paper's constants, DPImageBench's figures beside ours.

    SFD_DATA_DIR=/path/to/data python -m experiments.tradeoff.published

A baseline that is worse than its authors' would flatter whatever stands beside it.  The grid's cells have
4,000 features, so that they are affordable; here are all 10,000, and as many samples as `mnist_cpu` takes.
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
from experiments.sweeping import each_once
from experiments.tradeoff.baselines.measure import Job, measure
from secure_fed_diffusion import config

HERE = Path(__file__).parent
TSTR, FID = "tstr_cnn", "fid_lenet84_mnist"
# TSTR on MNIST as DPImageBench (CCS 2025) reports it.
PUBLISHED = {1.0: 0.803, 10.0: 0.813}


def markdown(results: Mapping[str, Any]) -> str:
    """Return the table: ours and the published accuracy at each ε, and the difference in points."""
    lines = [
        f"`{results['command']}` at commit {results['commit']}, {results['machine']}:",
        "",
        "| ε | DP-MERF here, TSTR | published | difference, points | FID-LeNet84 | seed | minutes |",
        "|---|---|---|---|---|---|---|",
    ]
    for record in results["records"]:
        ours, theirs = record[TSTR], PUBLISHED[record["epsilon"]]
        lines.append(
            f"| {record['epsilon']:g} | {100 * ours:.1f} % | {100 * theirs:.1f} % | "
            f"{100 * (ours - theirs):+.1f} | {record[FID]:.1f} | {record['seed']} | "
            f"{record['seconds'] / 60:.0f} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is not measured yet and write everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/tradeoff_published"))
    parser.add_argument("--results", type=Path, default=HERE / "published_results.json")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="side by side")
    parser.add_argument("--recipe", action="append", default=[], metavar="key=value", help="not the paper's")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="section.key=value")
    arguments = parser.parse_args(argv)
    overrides = ["evaluation.samples=10000", "evaluation.tstr_epochs=50", *arguments.overrides]
    settings = config.load(HERE / "config.toml", overrides)
    recipe = tomllib.loads("\n".join(arguments.recipe))
    jobs = [
        Job(method="dp_merf", epsilon=epsilon, seed=0, settings=settings, recipe=recipe)
        for epsilon in PUBLISHED
    ]
    results = {
        **origin("experiments.tradeoff.published", sys.argv[1:] if argv is None else argv),
        "records": each_once(jobs, measure, arguments.out, arguments.jobs),
    }
    arguments.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if arguments.results.parent == HERE:
        into_readme(HERE / "README.md", "published", markdown(results))
    print(markdown(results))
    return 0


if __name__ == "__main__":
    finish(main)
