"""What the released class Gaussians give with no network at all, measured like a run of this folder.

    SFD_DATA_DIR=/path/to/data python -m experiments.mnist_cpu.gaussians [--data fashion_mnist]

One trusted server spends the whole ε on class means and class covariances; images are drawn straight from
them.  A run begins with the same two releases at a part of its ε: what it makes of the rest is held against
this.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.command import finish
from experiments.mnist_cpu.table import FIGURES, GRIDS, row
from experiments.results import into_readme, origin
from experiments.sweeping import each_once
from experiments.tradeoff.baselines.measure import Job, measure
from secure_fed_diffusion import config

HERE = Path(__file__).parent
EPSILONS = (10.0, 1.0)
METHOD = "class_gaussians"
WORDS = {METHOD: "class Gaussians alone, trusted server", "distributed": "a run, `distributed`"}


def jobs_of(data: str, seeds: int, overrides: Sequence[str] = ()) -> list[Job]:
    """Return a job for each ε and seed: data, δ, samples and classifier are those of `config.toml`."""
    settings = config.load(HERE / "config.toml", [f"data.name={data}", "run.workers=1", *overrides])
    warmup = settings.warmup
    recipe = {
        "clip_norm": warmup.clip_norm,
        "covariance_clip_norm": warmup.covariances.clip_norm,
        "frequencies": warmup.covariances.frequencies,
    }
    return [
        Job(method=METHOD, epsilon=epsilon, seed=seed, settings=settings, recipe=recipe)
        for epsilon in EPSILONS
        for seed in range(seeds)
    ]


def markdown(records: Sequence[Mapping[str, Any]], runs: Sequence[Mapping[str, Any]]) -> str:
    """Return a row for each data set, ε and way, the runs' beside the Gaussians'."""
    lines = [
        f"| data | ε | images of | seeds | {' | '.join(FIGURES.values())} |",
        "|---|---|---|---|" + "---|" * len(FIGURES),
    ]
    for data in dict.fromkeys(record["data"] for record in records):
        for epsilon in EPSILONS:
            for way, words in WORDS.items():
                place = (data, epsilon, way)
                same = [dict(r) for r in (*records, *runs) if (r["data"], r["epsilon"], r["mode"]) == place]
                if same:
                    lines.append(
                        f"| {data} | {epsilon:g} | {words} | {len(same)} | {' | '.join(row(same))} |"
                    )
    said = dict.fromkeys(f"`{r['command']}` at commit {r['commit']}, {r['machine']}." for r in records)
    return "\n".join([*lines, "", *said])


def runs() -> list[dict[str, Any]]:
    """Return the records of this folder's grids that are there."""
    found = [HERE / name for name in GRIDS.values() if (HERE / name).exists()]
    return [record for path in found for record in json.loads(path.read_text(encoding="utf-8"))["records"]]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure what is not measured yet and write everything; other data sets' records are kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", default="mnist", help="mnist or fashion_mnist")
    parser.add_argument(
        "--seeds", type=int, default=3, help="how many; those measured before are kept on disk"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/mnist_cpu_gaussians"))
    parser.add_argument("--results", type=Path, default=HERE / "gaussians_results.json")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="side by side")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="section.key=value")
    parser.add_argument("--table", action="store_true", help="the README from the results; run nothing")
    arguments = parser.parse_args(argv)
    path = arguments.results
    records = json.loads(path.read_text(encoding="utf-8"))["records"] if path.exists() else []
    if not arguments.table:
        jobs = jobs_of(arguments.data, arguments.seeds, arguments.overrides)
        made = origin("experiments.mnist_cpu.gaussians", sys.argv[1:] if argv is None else argv)
        others = [record for record in records if record["data"] != arguments.data]
        mine = [{**made, **record} for record in each_once(jobs, measure, arguments.out, arguments.jobs)]
        records = [*others, *mine]
        path.write_text(json.dumps({**made, "records": records}, indent=1) + "\n", encoding="utf-8")
    print(text := markdown(records, runs()))
    if path.parent == HERE:
        into_readme(HERE / "README.md", "gaussians", text)


if __name__ == "__main__":
    finish(main)
