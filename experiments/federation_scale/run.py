"""Run ten rounds of a thousand clients, one in twenty lost in each; write `results.json`.

    python -m experiments.federation_scale.run [--out runs/federation_scale] [--clients 1000]

Everything is the product's own: the run of `config.toml` by the in-process engine, its ledger and its
metrics.  The losses are spread over the phases.  A run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from secure_fed_diffusion.secagg import population

HERE = Path(__file__).parent
LOST_BEFORE = ("share_keys", "masked_input", "masked_input", "unmask")


def losses(clients: int, rounds: int) -> list[dict[str, Any]]:
    """Return which client vanishes when: one in twenty, others in each round, before changing phases."""
    return [
        {
            "round": number,
            "client": (37 * number + 20 * place) % clients,
            "phase": LOST_BEFORE[place % len(LOST_BEFORE)],
        }
        for number in range(1, rounds + 1)
        for place in range(clients // 20)
    ]


def overrides(clients: int, rounds: int) -> list[str]:
    """Return what this many clients change in `config.toml`: cohort, graph, losses."""
    neighbours, threshold = population.neighbours_and_threshold(
        clients, corrupt=0.05, dropout=0.05, adversary="curious"
    )
    # a plan asks for 2t > k + 1 + colluders, which the published pairs of small cohorts miss by one or two
    threshold = max(threshold, (neighbours + 2) // 2 + 1)
    events = ", ".join(
        f'{{ round = {loss["round"]}, client = {loss["client"]}, phase = "{loss["phase"]}" }}'
        for loss in losses(clients, rounds)
    )
    return [
        f"federation.clients={clients}",
        f"federation.clients_per_round={clients}",
        f"federation.min_survivors={clients * 9 // 10}",
        f"federation.vanish=[{events}]",
        f"secagg.n_neighbours={neighbours}",
        f"secagg.threshold={threshold}",
        f"modes.central.rounds={rounds}",
    ]


def run(folder: Path, clients: int, rounds: int) -> float:
    """Run it as a user would, or go on with it; return the seconds it took.

    Raises:
        SystemExit: the run ended badly; its message is above.
    """
    if (folder / "summary.json").exists():
        return 0.0
    command = [sys.executable, "-m", "secure_fed_diffusion.cli", "run", str(HERE / "config.toml")]
    command += ["--out", str(folder), "--json"]
    for override in overrides(clients, rounds):
        command += ["--set", override]
    if (folder / "ledger.jsonl").exists():
        command.append("--resume")
    started = time.perf_counter()
    done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
    if done.returncode:
        raise SystemExit(f"the run ended with status {done.returncode}; its message is above")
    return time.perf_counter() - started


def records(folder: Path) -> list[dict[str, Any]]:
    """Return one flat record a round."""
    lines = [json.loads(text) for text in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [
        {
            "measured": "round",
            "round": line["round"],
            "mode": line["mode"],
            "clients": len(line["cohort"]),
            "survivors": len(line["survivors"]),
            "dropped": len(line["dropped"]),
            "epsilon": line["epsilon"][line["guard_view"]]["pld"],
            "delta": line["delta"],
            "unit": line["unit"],
            "client_bytes_up": line["bytes_up"] // len(line["cohort"]),
            "client_bytes_down": line["bytes_down"] // len(line["cohort"]),
            **{f"seconds_{part}": seconds for part, seconds in line["seconds"].items()},
        }
        for line in lines
    ]


def commit() -> str:
    """Return the commit that the working tree stands at, marked where it has been edited."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def main() -> None:
    """Run, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/federation_scale"))
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    folder = arguments.out / f"{arguments.clients}_clients"
    seconds = run(folder, arguments.clients, arguments.rounds)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    whole = {
        "measured": "run",
        "mode": summary["mode"],
        "clients": arguments.clients,
        "rounds": summary["rounds"],
        "parameters": summary["parameters"],
        "seconds_of_this_call": round(seconds, 1),
        "peak_bytes": peak,
    }
    results = {
        "command": " ".join(["python -m experiments.federation_scale.run", *map(shlex.quote, sys.argv[1:])]),
        "commit": commit(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "records": [whole, *records(folder)],
    }
    arguments.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(arguments.results)


if __name__ == "__main__":
    main()
