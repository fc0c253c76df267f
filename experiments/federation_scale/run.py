"""Run ten rounds of a thousand clients, one in twenty lost in each, and one of 36 million parameters.

    SFD_DATA_DIR=/path/to/data python -m experiments.federation_scale.run [--out runs/federation_scale]

Everything is the product's own: the runs of `config.toml` and `large.toml` by the in-process engine, their
ledgers and metrics; only the peak of the process's memory is measured from outside.  The losses are spread
over the phases.  A run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from experiments.command import finish
from experiments.results import origin
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


def run(folder: Path, configuration: Path, changes: list[str]) -> dict[str, Any]:
    """Run it as a user would, or go on with it; return seconds and the peak of resident memory.

    Raises:
        SystemExit: the run ended badly; its message is above.
    """
    measured = folder.with_suffix(".json")
    if measured.exists():
        found: dict[str, Any] = json.loads(measured.read_text(encoding="utf-8"))
        return found
    command = [sys.executable, "-m", "secure_fed_diffusion.cli", "run", str(configuration)]
    command += ["--out", str(folder), "--json"]
    for change in changes:
        command += ["--set", change]
    if (folder / "ledger.jsonl").exists():
        command.append("--resume")
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(
            f"the run ended with status {os.waitstatus_to_exitcode(status)}; its message is above"
        )
    result = {
        "seconds_of_this_call": round(time.perf_counter() - started, 1),
        "peak_bytes": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    }
    measured.write_text(json.dumps(result), encoding="utf-8")
    return result


def records(folder: Path, measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Return one flat record of the whole run, and one of each round."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    whole = {
        "measured": "run",
        "mode": summary["mode"],
        "clients": summary["clients"],
        "rounds": summary["rounds"],
        "parameters": summary["parameters"],
        **measured,
        "peak_model_copies": round(measured["peak_bytes"] / 4 / summary["parameters"], 2),  # of float32
    }
    lines = [json.loads(text) for text in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [whole] + [
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


def main() -> None:
    """Run, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/federation_scale"))
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    many = arguments.out / f"{arguments.clients}_clients"
    large = arguments.out / "large_model"
    found = records(
        many, run(many, HERE / "config.toml", overrides(arguments.clients, arguments.rounds))
    ) + records(large, run(large, HERE / "large.toml", []))
    results = {
        **origin("experiments.federation_scale.run", sys.argv[1:]),
        "records": found,
    }
    arguments.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(arguments.results)


if __name__ == "__main__":
    finish(main)
