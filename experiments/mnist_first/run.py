"""Run MNIST once in each of the five modes and write `results.json` and the figure beside this file.

    SFD_DATA_DIR=/path/to/data python -m experiments.mnist_first.run [--out runs/mnist_first] [--set ...]

Modes run two at a time, one thread each.  A mode whose folder has a finished run of the same configuration
is not run again.  The configuration reserves no repeats, so a mode that was killed is begun anew: remove
its folder.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from experiments.command import finish, run_to_its_end
from experiments.results import command_line, commit, machine
from secure_fed_diffusion import config
from secure_fed_diffusion.federation.settings import MODES
from secure_fed_diffusion.reporting.tradeoff import plot_results

HERE = Path(__file__).parent
LONGEST_FIRST = ("local", "distributed", "central", "none", "client")


def run_mode(mode: str, out: Path, overrides: list[str]) -> dict[str, Any]:
    """Run one mode in its own process, or take up its finished or stopped run; return its summary.

    Raises:
        SystemExit: the run ended badly, or the folder holds a run of another configuration.
    """
    folder, wanted = out / mode, [f'privacy.mode="{mode}"', *overrides]
    settings = config.load(HERE / "config.toml", wanted)
    if (folder / "config.toml").exists() and config.load(folder / "config.toml") != settings:
        raise SystemExit(f"{folder} holds a run of another configuration: choose another --out")
    summary = folder / "summary.json"
    if not summary.exists() or not read(summary)["finished"]:
        command = [sys.executable, "-m", "secure_fed_diffusion.cli", "run", str(HERE / "config.toml")]
        command += ["--out", str(folder), "--json"]
        for override in wanted:
            command += ["--set", override]
        if (folder / "ledger.jsonl").exists():
            command.append("--resume")
        else:
            out.mkdir(parents=True, exist_ok=True)
            (out / f"{mode}.commit").write_text(commit(), encoding="utf-8")
        if status := run_to_its_end(command, stdout=subprocess.DEVNULL):
            raise SystemExit(f"mode {mode} ended with status {status}; its message is above")
    print(f"{mode}: done", flush=True)
    return {**read(summary), "commit": (out / f"{mode}.commit").read_text(encoding="utf-8")}


def read(path: Path) -> dict[str, Any]:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def record(summary: dict[str, Any], repetition: int) -> dict[str, Any]:
    """Return one flat record of `results.json`."""
    guard = summary["epsilon"][summary["guard_view"]]
    views = {f"epsilon_{view}": bounds["pld"] for view, bounds in summary["epsilon"].items()}
    return {
        "mode": summary["mode"],
        "epsilon": summary["target_epsilon"],
        "epsilon_spent": guard["pld"],
        "epsilon_spent_rdp": guard["rdp"],
        **views,
        "delta": summary["delta"],
        "unit": summary["unit"],
        "relation": summary["relation"],
        "view": summary["guard_view"],
        "clients": summary["clients"],
        "repetition": repetition,
        "commit": summary["commit"],
        "rounds": summary["rounds"],
        "noise_multiplier": summary["noise_multiplier"],
        "noise_overhead": summary["noise_overhead"],
        "parameters": summary["parameters"],
        "bytes_up": summary["bytes_up"],
        "seconds": summary["seconds"],
        **summary["floor"],
        **summary["metrics"],
    }


def device() -> str:
    """Say whether torch has a GPU to compute on."""
    return "a GPU" if torch.cuda.is_available() else "no GPU"


def main() -> None:
    """Run all modes and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/mnist_first"))
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="section.key=value")
    arguments = parser.parse_args()
    started = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        runs = pool.map(lambda mode: run_mode(mode, arguments.out, arguments.overrides), LONGEST_FIRST)
        summaries = {summary["mode"]: summary for summary in runs}
    minutes = (time.perf_counter() - started) / 60
    computed = sum(summary["seconds"] for summary in summaries.values()) / 60
    results = {
        "command": command_line("experiments.mnist_first.run", sys.argv[1:]),
        "commit": ", ".join(sorted({summary["commit"] for summary in summaries.values()})),
        "machine": machine(device()),
        "minutes_of_this_call": round(minutes, 1),
        "minutes_of_all_modes_one_after_another": round(computed, 1),
        "records": [record(summaries[mode], 0) for mode in MODES],
    }
    arguments.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    picture, _ = plot_results(arguments.results, arguments.results.with_name("figure.png"))
    print(f"{arguments.results} and {picture}, {minutes:.1f} minutes")


if __name__ == "__main__":
    finish(main)
