"""Run both apps in their three variants on Flower's simulation, compare the models, write `results.json`.

    python -m experiments.flower_secagg.run [--app sklearn|torch]

Fails where the first round's model of ours is further from plain FedAvg's than the fixed point's proven step.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from experiments.command import finish
from experiments.flower_secagg import digits
from experiments.results import into_readme, origin

HERE = Path(__file__).parent
APPS = ("sklearn", "torch")
LONGEST_SECONDS = 400
VARIANTS = ("plain", "secagg_plus", "secure")
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1",
}


def simulate(app: str, variant: str) -> None:
    """Run one variant in this process."""
    from flwr.simulation import run_simulation

    module = importlib.import_module(f"experiments.flower_secagg.{app}_{variant}")
    resources = {"init_args": {"num_cpus": 2}, "client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(module.server, module.client, digits.N_NODES, backend_config=resources)


def in_process_of_its_own(app: str, variant: str, folder: Path) -> None:
    """Run one variant in a process of its own.

    Raises:
        RuntimeError: it failed, or takes longer than it ever should: Ray waits for good if it did not start.
    """
    environment = {**os.environ, **QUIET, "OUT": str(folder), "FLWR_HOME": str(folder / "flower_home")}
    command = [sys.executable, "-m", "experiments.flower_secagg.run", "--one", app, variant]
    folder.mkdir(parents=True)
    with (folder / "log").open("w+", encoding="utf-8") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            failed = process.wait(LONGEST_SECONDS) != 0
        except subprocess.TimeoutExpired:
            failed = True
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # Ray's processes too
        if failed or not (folder / f"{digits.N_ROUNDS}.npz").exists():
            log.seek(0)
            raise RuntimeError(f"{app}, {variant}:\n{log.read()[-4000:]}")


def model(folder: Path, server_round: int) -> np.ndarray:
    """Return the global model of a round, flat, in float64."""
    with np.load(folder / f"{server_round}.npz") as held:
        return np.concatenate([held[name].reshape(-1).astype(np.float64) for name in held.files])


def allowed(values: np.ndarray, app: str) -> float:
    """Return the fixed point's proven step, and what the app's own floats and FedAvg's sum add to it."""
    from secure_fed_diffusion.flower_mod import Proposal

    total_weight = sum(len(digits.part(index)[1]) for index in range(digits.N_NODES))
    unit = np.finfo(np.float32 if app == "torch" else np.float64).eps
    step = Proposal(n_rounds=digits.N_ROUNDS).step(n_clients=digits.N_NODES, total_weight=total_weight)
    return step + 2 * digits.N_NODES * float(unit) * float(np.abs(values).max())


def changed_lines(app: str, variant: str) -> int:
    """Return how many lines of the plain app are changed or added, its docstring aside."""
    plain, other = ((HERE / f"{app}_{name}.py").read_text().splitlines()[1:] for name in ("plain", variant))
    return sum(line.startswith("+ ") for line in difflib.ndiff(plain, other))


def compare(app: str, folder: Path) -> list[dict[str, Any]]:
    """Run an app's variants and return their records."""
    for variant in VARIANTS:
        in_process_of_its_own(app, variant, folder / variant)
    plain = [model(folder / "plain", server_round) for server_round in range(digits.N_ROUNDS + 1)]
    records = []
    for variant in VARIANTS:
        gaps = [
            float(np.abs(model(folder / variant, server_round) - plain[server_round]).max())
            for server_round in range(digits.N_ROUNDS + 1)
        ]
        bound = allowed(plain[1], app)
        if variant == "secure" and not 0 < gaps[1] <= bound:
            raise RuntimeError(f"{app}: the first round is {gaps[1]} from plain FedAvg, {bound} is allowed")
        last = json.loads((folder / variant / f"{digits.N_ROUNDS}.json").read_text(encoding="utf-8"))
        records.append(
            {
                "app": app,
                "variant": variant,
                "clients": digits.N_NODES,
                "rounds": digits.N_ROUNDS,
                "parameters": len(plain[0]),
                "changed_lines": changed_lines(app, variant) if variant != "plain" else 0,
                "difference_after_one_round": gaps[1],
                "allowed_difference": bound,
                "difference_at_the_end": gaps[-1],
                "accuracy": last["accuracy"],
            }
        )
    return records


def table(records: list[dict[str, Any]]) -> str:
    """Return a row for each app and variant."""
    rows = [
        "| app | variant | lines changed | difference after round 1 | allowed | after round 3 | accuracy |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in records:
        gaps = [r["difference_after_one_round"], r["allowed_difference"], r["difference_at_the_end"]]
        cells = [r["app"], r["variant"], str(r["changed_lines"]), *(f"{gap:.1e}" for gap in gaps)]
        rows.append(f"| {' | '.join([*cells, format(r['accuracy'], '.1%')])} |")
    return "\n".join(rows)


def main() -> None:
    """Run what was asked for and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--app", choices=APPS, help="this app alone")
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    parser.add_argument("--one", nargs=2, metavar=("APP", "VARIANT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        simulate(*arguments.one)
        return
    records = []
    with tempfile.TemporaryDirectory() as folder:
        for app in (arguments.app,) if arguments.app else APPS:
            records += compare(app, Path(folder) / app)
    results = {
        **origin("experiments.flower_secagg.run", sys.argv[1:]),
        "records": records,
    }
    arguments.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if arguments.results == HERE / "results.json" and not arguments.app:
        into_readme(HERE / "README.md", "results", table(records))
    for record in records:
        print(record)


if __name__ == "__main__":
    finish(main)
