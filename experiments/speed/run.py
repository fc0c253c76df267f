"""Run the package's benchmarks, keep what they say, and hold it to what the project demands.

    python -m experiments.speed.run [--bench round] [--table]

Each benchmark is a process of its own, one after the other, on a machine that does nothing else.  The results
keep those of the benchmarks that a call leaves out; `--table` writes the README from them and runs nothing.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from experiments.command import finish
from experiments.results import into_readme, origin

HERE = Path(__file__).parent
BENCHES = {
    "dpsgd": ("dpsgd",),
    "dpsgd_two_threads": ("dpsgd", "--threads", "2"),
    "round": ("round",),
    "evaluation": ("evaluation",),
}
Figures = Mapping[str, Any]


def measure(bench: str) -> dict[str, Any]:
    """Return what `sfd bench` prints.

    Raises:
        SystemExit: it failed; its message is above.
    """
    command = [sys.executable, "-m", "secure_fed_diffusion.cli", "bench", *BENCHES[bench], "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)
    return dict(json.loads(done.stdout))


def table(records: Sequence[Figures], limits: Sequence[Mapping[str, Any]]) -> str:
    """Return a row for each demand on what was measured, what made it, and the parts of a round."""
    results = {record["bench"]: record for record in records}
    rows = ["| measured | demanded | found | |", "|---|---|---|---|"]
    for limit in limits:
        if limit["bench"] in results:
            found = float(reduce(lambda inside, key: inside[key], limit["figure"], results[limit["bench"]]))
            least, most = limit.get("at_least"), limit.get("at_most")
            demanded = f"at least {least:g}" if most is None else f"at most {most:g}"
            holds = found >= least if most is None else found <= most
            rows.append(f"| {limit['what']} | {demanded} | {found:.3g} | {'holds' if holds else 'missed'} |")
    for bench, figures in results.items():
        rows += [
            "",
            f"`{bench}`: `{figures['command']}` at commit {figures['commit']}, {figures['machine']}.",
        ]
    if "round" in results:
        rows += [
            "",
            f"Shares of a round, {results['round']['sizes']}:",
            "",
            *_parts(results["round"]["shares"]),
        ]
    return "\n".join(rows)


def _parts(shares: Mapping[str, Mapping[str, float]]) -> list[str]:
    parts = sorted(shares["together"], key=lambda part: -shares["together"][part])
    rows = ["| part | each client by itself | in shared micro-batches |", "|---|---|---|"]
    for part in parts:
        alone, together = (f"{100 * shares[way].get(part, 0.0):.1f} %" for way in ("alone", "together"))
        rows.append(f"| {part.replace('_', ' ')} | {alone} | {together} |")
    return rows


def main(argv: Sequence[str] | None = None, *, measured: Callable[[str], Figures] = measure) -> None:
    """Measure, then write the results and the README's table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--bench", choices=tuple(BENCHES), action="append", help="one of them (default: all)")
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    parser.add_argument("--table", action="store_true", help="the README from the results; run nothing")
    arguments = parser.parse_args(argv)
    path, before = arguments.results, []
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))["records"]
    found = {record["bench"]: record for record in before}
    if not arguments.table:
        made = origin("experiments.speed.run", sys.argv[1:] if argv is None else argv)
        for bench in arguments.bench or BENCHES:
            found[bench] = {"bench": bench, **made, **measured(bench)}
            records = [found[name] for name in BENCHES if name in found]
            path.write_text(json.dumps({**made, "records": records}, indent=1) + "\n", encoding="utf-8")
    limits = tomllib.loads((HERE / "limits.toml").read_text(encoding="utf-8"))["limit"]
    print(text := table([found[name] for name in BENCHES if name in found], limits))
    if arguments.results.parent == HERE:
        into_readme(HERE / "README.md", "results", text)


if __name__ == "__main__":
    finish(main)
