"""Run one case on the GPU for at most so many minutes, go on with it in the next call, write `results.json`.

    SFD_DATA_DIR=/path/to/data python -m experiments.mnist_gpu.run epsilon10 [--minutes 9] [--set ...]

A case is the file of that name beside this one and a product run of its own folder.  When the minutes are
over the run is interrupted as by Ctrl-C and the exit status is 75: the same command goes on where it stopped,
and pays for the round that it repeats from `federation.reserved_attempts`.  A finished case is only written
down.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from experiments.command import finish
from experiments.five_modes import device, read, record
from experiments.results import command_line, commit, machine
from secure_fed_diffusion import config

HERE = Path(__file__).parent
CASES = ("epsilon10", "epsilon1", "medium", "large")
NOT_FINISHED = 75  # EX_TEMPFAIL
_GRACE_SECONDS = 45  # for the round's last charge and the checkpoint


def advance(case: str, out: Path, overrides: list[str], minutes: float) -> bool:
    """Begin the case or go on with it; say whether it has finished.

    Raises:
        SystemExit: the run ended badly, or the folder holds a run of another configuration.
    """
    folder = out / case
    if is_finished(folder):
        return True
    settings = config.load(HERE / f"{case}.toml", overrides)
    written = folder / "config.toml"
    if written.exists() and config.load(written) != settings:
        raise SystemExit(f"{folder} holds a run of another configuration: choose another --out")
    command = [sys.executable, "-m", "experiments.mnist_gpu.once", str(out / f"{case}.calls.jsonl"), "run"]
    command += [str(HERE / f"{case}.toml"), "--out", str(folder), "--json"]
    for override in overrides:
        command += ["--set", override]
    if (folder / "ledger.jsonl").exists():
        command.append("--resume")
    else:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{case}.commit").write_text(commit(), encoding="utf-8")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        status = process.wait(60 * minutes)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return is_finished(folder)
    if status:
        raise SystemExit(f"{case} ended with status {status}; its message is above")
    return is_finished(folder)


def is_finished(folder: Path) -> bool:
    """Say whether the run of this folder has finished."""
    summary = folder / "summary.json"
    return summary.exists() and bool(read(summary)["finished"])


def found(case: str, out: Path) -> dict[str, Any]:
    """Return the record of a finished case, with what its calls took."""
    summary = {
        **read(out / case / "summary.json"),
        "commit": (out / f"{case}.commit").read_text(encoding="utf-8"),
    }
    lines = (out / f"{case}.calls.jsonl").read_text(encoding="utf-8").splitlines()
    calls = [json.loads(line) for line in lines]
    peaks = [call["gpu_peak_bytes"] for call in calls if call["gpu_peak_bytes"] is not None]
    return {
        "case": case,
        **record(summary, 0),
        "calls": len(calls),
        "seconds_of_all_calls": round(sum(call["seconds_of_this_call"] for call in calls), 1),
        "gpu": calls[-1]["gpu"],
        "gpu_peak_bytes": max(peaks, default=None),
        "host_peak_bytes": max(call["host_peak_bytes"] for call in calls),
    }


def write(results: Path, new: dict[str, Any]) -> None:
    """Put a case's record into the results, beside those of the other cases."""
    before = json.loads(results.read_text(encoding="utf-8"))["records"] if results.exists() else []
    by_case = {each["case"]: each for each in [*before, new]}
    whole = {
        "command": command_line("experiments.mnist_gpu.run", sys.argv[1:]),
        "commit": new["commit"],
        "machine": machine(device()),
        "state": "run: " + ", ".join(case for case in CASES if case in by_case),
        "records": [by_case[case] for case in CASES if case in by_case],
    }
    results.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Go on with one case and write what has finished."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--out", type=Path, default=Path("runs/mnist_gpu"))
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="section.key=value")
    arguments = parser.parse_args()
    if not advance(arguments.case, arguments.out, arguments.overrides, arguments.minutes):
        print(f"{arguments.case}: not finished; the same command goes on with it", flush=True)
        raise SystemExit(NOT_FINISHED)
    write(arguments.results, found(arguments.case, arguments.out))
    print(f"{arguments.case}: done, {arguments.results}")


if __name__ == "__main__":
    finish(main)
