"""The federated scenarios: sweep a grid, train the baselines, write results, the figure and the README.

    SFD_DATA_DIR=/path/to/data python -m experiments.federated_scenarios.run --set fashion    # or mnist, xray
    python -m experiments.federated_scenarios.run --quick                    # scikit-learn's digits, no file
    python -m experiments.federated_scenarios.run --set paper --jobs 1       # the paper's scale, on a GPU
    python -m experiments.federated_scenarios.run --set fashion --dry-run    # what there is to do, how long
    python -m experiments.federated_scenarios.run --set fashion --collect    # what is finished, run nothing
    python -m experiments.federated_scenarios.run --table                    # README and figures, run nothing

Whatever is done under --out is not done again: stop it and start it anew at will.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tomllib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import tomli_w

from experiments.command import finish
from experiments.federated_scenarios import figure, table
from experiments.federated_scenarios.alone import Job, measure
from experiments.federated_scenarios.scenario import Scenario
from experiments.results import into_readme, origin
from experiments.sweeping import each_once, finished_jobs, jsonable, sweep, sweep_options
from secure_fed_diffusion import config
from secure_fed_diffusion.sweep import estimate
from secure_fed_diffusion.sweep.command import find_places
from secure_fed_diffusion.sweep.grid import Grid, read_grid
from secure_fed_diffusion.sweep.process import Place, attempts
from secure_fed_diffusion.sweep.table import row

HERE = Path(__file__).parent
SETS = ("fashion", "mnist", "xray", "quick", "paper")


def results_file(name: str) -> Path:
    """Return where the results of a data set are kept; Fashion-MNIST is the paper's first."""
    return HERE / ("results.json" if name == "fashion" else f"{name}_results.json")


def jobs_of(baselines: Path, name: str, grid: Grid) -> list[Job]:
    """Return the baselines of a data set: pooled records, and hospitals alone, by `baselines.toml`."""
    base = config.load(grid.base, grid.settings)
    none, federation = base.modes.none, base.federation
    epochs = none.rounds * none.local_epochs * federation.clients_per_round / federation.clients
    passes = epochs * federation.declared_records
    jobs = []
    for wanted in tomllib.loads(baselines.read_text(encoding="utf-8"))[name]:
        over = [*grid.settings, "run.workers=1"]
        over += [f"federation.clients={wanted['clients']}"] if "clients" in wanted else []
        over += [_override(f"data.{key}", wanted[key]) for key in ("beta", "partition") if key in wanted]
        for seed in wanted["seeds"]:
            settings = config.load(grid.base, [*over, f"run.seed={seed}", f"data.seed={seed}"])
            pooled = wanted["mode"] == "pooled"
            places = 1 if pooled else wanted.get("hospitals", settings.federation.clients)
            jobs += [
                Job(
                    mode=wanted["mode"],
                    settings=settings,
                    base=Scenario.of(base),
                    passes=round(wanted["share"] * passes),
                    place=place,
                    places=places,
                )
                for place in range(places)
            ]
    return jobs


def _override(key: str, value: Any) -> str:
    return f"{key}={tomli_w.dumps({'v': value}).partition('=')[2].strip()}"


def records_of(places: Sequence[Place], base: Scenario, out: Path) -> list[dict[str, Any]]:
    """Return the finished cells as flat records that JSON can hold: ε = inf becomes null."""
    took = attempts(out)
    return [_record(place, base, took.get(place.cell.name, ())) for place in places if place.finished]


def _record(place: Place, base: Scenario, past: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    scenario = Scenario.of(place.settings)
    about = {
        "axis": scenario.axis(base),
        "scenario": scenario.label(base),
        "clients_per_round": scenario.clients_per_round,
        "beta": scenario.beta,
        "local_epochs": scenario.local_epochs,
        "prox_mu": scenario.prox_mu,
        "seconds_evaluation": place.summary["seconds_by_part"].get("evaluation"),
    }
    found = jsonable(row(place, past))
    return {key: value for key, value in found.items() if "." not in key} | about  # an axis is in `about`


def write_pages(readme: Path | None, name: str, results_json: Path) -> None:
    """Draw the figure beside the results, and put the table into the README where there is one."""
    print(figure.draw(results_json, figure.beside(results_json)))
    if readme is not None:
        results = json.loads(results_json.read_text(encoding="utf-8"))
        into_readme(readme, name, table.markdown(results, figure.beside(results_json).name))


def dry_run(grid: Path, out: Path, options: Sequence[str], jobs: Sequence[Job], at_once: int) -> None:
    """List the cells and the baselines with an estimate; run nothing."""
    sweep(grid, out / "sweep", [*options, "--dry-run"])
    left = [job for job in jobs if not (out / "alone" / f"{job.name}.json").exists()]
    for job in jobs:
        status = "new" if job in left else "finished"
        print(f"{status:<9} {estimate.duration(job.seconds):>10}  {job.name}")
    together = estimate.duration(sum(job.seconds for job in left) / at_once)
    print(f"{len(left)} of {len(jobs)} baselines to run, about {together} with {at_once} side by side")


def main(argv: Sequence[str] | None = None) -> int:
    """Compute what is not there yet and write everything; 1 if a cell failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--set", choices=SETS, default="fashion", dest="name", help="default: fashion")
    parser.add_argument("--quick", action="store_const", const="quick", dest="name", help="the digits")
    parser.add_argument("--dry-run", action="store_true", help="list the work and an estimate; run nothing")
    parser.add_argument("--collect", action="store_true", help="write what is finished so far; run nothing")
    parser.add_argument("--table", action="store_true", help="README and figures again; run nothing")
    parser.add_argument("--grid", type=Path, help="another grid than the data set's own")
    parser.add_argument("--baselines", type=Path, default=HERE / "baselines.toml")
    parser.add_argument("--out", type=Path, help="default: runs/federated_scenarios/<set>")
    parser.add_argument("--results", type=Path, help="default: beside this file")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cells side by side")
    parser.add_argument("--memory", type=float, help="GiB for all cells together")
    parser.add_argument(
        "--override", action="append", default=[], metavar="section.key=value", help="in every cell"
    )
    arguments = parser.parse_args(argv)
    if arguments.table:
        for name in (name for name in SETS if results_file(name).exists()):
            write_pages(HERE / "README.md", name, results_file(name))
        return 0
    name, overrides = arguments.name, tuple(arguments.override)
    grid = arguments.grid or HERE / f"{name}.toml"
    out = arguments.out or Path("runs") / "federated_scenarios" / name
    options = sweep_options(jobs=arguments.jobs, memory=arguments.memory, overrides=overrides)
    read = read_grid(grid, overrides)
    jobs = jobs_of(arguments.baselines, name, read)
    if arguments.dry_run:
        dry_run(grid, out, options, jobs, arguments.jobs)
        return 0
    whole = arguments.collect or sweep(grid, out / "sweep", options)
    baselines = (
        finished_jobs(jobs, out / "alone")
        if arguments.collect
        else each_once(jobs, partial(measure, folder=out / "alone"), out / "alone", arguments.jobs)
    )
    base = Scenario.of(config.load(read.base, read.settings))
    records = records_of(find_places(grid, out / "sweep", overrides, full=False), base, out / "sweep")
    records += baselines
    words = sys.argv[1:] if argv is None else argv
    results = {
        **origin("experiments.federated_scenarios.run", words),
        "minutes_of_all_cells_one_after_another": round(sum(r["seconds"] for r in records) / 60, 1),
        "base": base.label(base),
        "records": records,
    }
    results_json = arguments.results or results_file(name)
    results_json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(results_json)
    write_pages(HERE / "README.md" if results_json.parent == HERE else None, name, results_json)
    return 0 if whole else 1


if __name__ == "__main__":
    finish(main)
