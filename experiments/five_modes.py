"""One configuration in each of the five modes: their runs, two at a time, and a flat record of each.

A mode whose folder has a finished run of the same configuration is not run again; one that was stopped goes
on where its configuration pays for repeats, and else is begun anew when its folder is removed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from experiments.command import run_to_its_end
from experiments.results import commit
from secure_fed_diffusion import config
from secure_fed_diffusion.federation.settings import MODES

LONGEST_FIRST = ("local", "distributed", "central", "none", "client")


def run_modes(configured: Path, out: Path, overrides: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Run all modes of the file `configured`, one folder each in `out`; return their summaries by mode.

    Raises:
        SystemExit: a run ended badly, or a folder holds a run of another configuration.
    """
    with ThreadPoolExecutor(2) as pool:
        runs = pool.map(lambda mode: run_mode(configured, mode, out, overrides), LONGEST_FIRST)
        found = {summary["mode"]: summary for summary in runs}
    return {mode: found[mode] for mode in MODES}


def run_mode(configured: Path, mode: str, out: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Run one mode in its own process, or take up its finished or stopped run; return its summary.

    Raises:
        SystemExit: the run ended badly, or the folder holds a run of another configuration.
    """
    folder, wanted = out / mode, [f'privacy.mode="{mode}"', *overrides]
    settings = config.load(configured, wanted)
    if (folder / "config.toml").exists() and config.load(folder / "config.toml") != settings:
        raise SystemExit(f"{folder} holds a run of another configuration: choose another --out")
    summary = folder / "summary.json"
    if not summary.exists() or not read(summary)["finished"]:
        command = [sys.executable, "-m", "secure_fed_diffusion.cli", "run", str(configured)]
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
