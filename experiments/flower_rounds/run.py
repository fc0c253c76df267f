"""Time rounds on a real Flower deployment on this machine; write `results.json` and the figure.

    python -m experiments.flower_rounds.run [--out runs/flower_rounds] [--smoke] [--draw]

Every round is a line under `--out`; what is there for the same settings and the same code is not measured
again, so a stopped run goes on where it was.  `--smoke` is one light round of each variant with three nodes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import tomllib
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from experiments.command import finish
from experiments.flower_rounds import figure, parts, table
from experiments.flower_rounds.deployment import Deployment
from experiments.results import into_readme, origin
from secure_fed_diffusion import flower_mod, secagg

HERE = Path(__file__).parent
SMOKE = {"nodes": 3, "repetitions": 1, "hidden": 16, "workloads": ["light"]}
LONGEST_ROUND_SECONDS = 120


def cells(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Return every round in its order: one of each kind, then the next one of each, rotated."""
    variants = settings["variants"]
    return [
        {"repetition": repetition, "workload": workload, "variant": variant}
        for repetition in range(settings["repetitions"])
        for workload in settings["workloads"]
        for variant in variants[repetition % len(variants) :] + variants[: repetition % len(variants)]
    ]


def prepare(folder: Path, settings: dict[str, Any]) -> tuple[list[dict[str, str | int]], dict[str, str]]:
    """Write each node's data, key and roster once; return the nodes' configurations and the roster."""
    from sklearn.datasets import load_digits

    n, roster_file = settings["nodes"], folder / "roster.json"
    if not roster_file.exists():
        x, y = load_digits(return_X_y=True)
        keys = [secagg.SigningKey.generate() for _ in range(n)]
        for i, key in enumerate(keys):
            np.savez(folder / f"{i}.npz", x=(x[i::n] / 16).astype(np.float32), y=y[i::n])
            (folder / f"{i}.key").touch(mode=0o600)
            (folder / f"{i}.key").write_text(key.secret.hex(), encoding="ascii")
        roster_file.write_text(json.dumps({str(i): key.public.hex() for i, key in enumerate(keys)}))
    configs: list[dict[str, str | int]] = [
        {
            "partition-id": i,
            "data": str(folder / f"{i}.npz"),
            "log": str(folder / f"client{i}.jsonl"),
            "state": str(folder / f"state{i}"),
            "secagg-id": i,
            "secagg-key": str(folder / f"{i}.key"),
            "secagg-roster": str(roster_file),
        }
        for i in range(n)
    ]
    return configs, json.loads(roster_file.read_text())


def measure(folder: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Run what is missing in `folder` and return the records of all rounds.

    Raises:
        RuntimeError: not every round went through; those that did are kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder = folder.resolve()
    configs, roster = prepare(folder, settings)
    rounds, plan = folder / "rounds.jsonl", folder / "plan.json"
    if todo := missing(rounds, settings):
        content = {**settings, "cells": todo, "roster": roster, "rounds": str(rounds)}
        plan.write_text(json.dumps(content), encoding="utf-8")
        with Deployment(folder, configs, task_poll_seconds=settings["task_poll_seconds"]) as deployed:
            log = deployed.run(HERE / "app", timeout=LONGEST_ROUND_SECONDS * len(todo), plan=str(plan))
        if left := missing(rounds, settings):
            raise RuntimeError(f"{len(left)} rounds are missing; run again to go on:\n{log[-4000:]}")
    clients = {one["message"]: one for i in range(len(configs)) for one in lines(folder / f"client{i}.jsonl")}
    done = [line for line in lines(rounds) if parts.went_through(line)]
    return [parts.record(line, clients, n_clients=len(configs)) for line in done]


def missing(rounds: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rounds that are not in the file yet, or did not go through."""
    keys = ("repetition", "workload", "variant")
    done = [[line[key] for key in keys] for line in lines(rounds) if parts.went_through(line)]
    return [cell for cell in cells(settings) if list(cell.values()) not in done]


def lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file of JSON lines, none if it is not there."""
    return (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    )


def code_digest() -> str:
    """Return a digest of what is measured and of what measures it, edited or not."""
    folders = [Path(flower_mod.__file__).parent, Path(secagg.__file__).parent, HERE]
    sources = [
        source
        for folder in folders
        for source in folder.rglob("*.py")
        if source.name not in ("figure.py", "table.py")
    ]
    return sha256(b"".join(source.read_bytes() for source in sorted(sources))).hexdigest()


def main() -> None:
    """Measure what is not there yet, write the results, the figure and the table, print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/flower_rounds"))
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    parser.add_argument("--smoke", action="store_true", help="one light round of each variant, three nodes")
    parser.add_argument("--draw", action="store_true", help="draw the figure from the results alone")
    arguments = parser.parse_args()
    if not arguments.draw:
        settings = tomllib.loads((HERE / "rounds.toml").read_text(encoding="utf-8"))
        settings |= SMOKE if arguments.smoke else {}
        key = sha256((json.dumps(settings, sort_keys=True) + code_digest()).encode()).hexdigest()[:12]
        started = time.perf_counter()
        records = measure(arguments.out / key, settings)
        results = {
            **origin("experiments.flower_rounds.run", sys.argv[1:]),
            "setup_rounds": settings["setup_rounds"],
            "records": records,
        }
        arguments.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(f"measured in {time.perf_counter() - started:.0f} s", flush=True)
    document = json.loads(arguments.results.read_text(encoding="utf-8"))
    print(figure.draw(arguments.results, arguments.results.with_name("figure.png")))
    if arguments.results == HERE / "results.json":
        into_readme(HERE / "README.md", "results", table.markdown(document))
    for line in figure.ratios(document):
        print(line)


if __name__ == "__main__":
    finish(main)
