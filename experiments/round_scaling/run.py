"""Time a private step with the same data at 2, 10 and 100 clients, and at 1,000 with its parts.

Mode `distributed` masks on the complete graph, which its noise shares need; `central` on a k-regular one.

    SFD_DATA_DIR=/path/to/data python -m experiments.round_scaling.run [--workers 2] [--table]

The federations of the different sizes stand side by side and take turns, step by step, so that a machine
that is busy for a while is busy for all of them; a ratio is the median over the turns of the quotient within
a turn.  The first step of each pays for the start of its workers and is not counted, but for its key set-up:
that serves several rounds, and each later step bears its share.  What runs is the product's own round:
clients, server, ledger and engine as `sfd run` makes them; nothing is evaluated and nothing kept.  `--table`
writes the README's table again from the results alone.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import t as student_t

from experiments.command import finish
from experiments.results import into_readme, origin
from secure_fed_diffusion import config
from secure_fed_diffusion.engines.in_process import InProcessEngine
from secure_fed_diffusion.federation.prepare import prepare
from secure_fed_diffusion.federation.rounds import run_rounds
from secure_fed_diffusion.federation.run import Run
from secure_fed_diffusion.secagg import population

HERE = Path(__file__).parent
BASE = 10  # clients that the other sizes are compared with
PARTS = ("clients", "key_setup", "secure_aggregation", "server")


def overrides(clients: int, mode: str = "distributed") -> list[str]:
    """Return what so many clients change in `config.toml`; in `central` they mask on a k-regular graph."""
    changes = [
        f"federation.clients={clients}",
        f"federation.clients_per_round={clients}",
        f"federation.min_survivors={max(2, clients * 9 // 10)}",
        f'privacy.mode="{mode}"',
    ]
    if mode == "distributed":
        return [*changes, f"secagg.threshold={max(2, clients * 8 // 10)}"]
    neighbours, threshold = population.neighbours_and_threshold(
        clients, corrupt=0.05, dropout=0.05, adversary="curious"
    )
    majority = (neighbours + 1) // 2 + 1  # of a client's holders, so that no two survivor lists are answered
    return [
        *changes,
        'secagg.profile="semi_honest"',
        f"secagg.n_neighbours={neighbours}",
        f"secagg.threshold={max(threshold, majority)}",
    ]


def steps(run: Run) -> Iterator[dict[str, Any]]:
    """Make one round each time that the next is asked for; yield its seconds, in all and by part."""
    rounds = run_rounds(run.plan, run.server, run.engine, run.ledger, first=1, note=print)
    while True:
        started = time.perf_counter()
        outcome = next(rounds, None)
        if outcome is None:
            return
        applied = time.perf_counter()
        run.server.apply(outcome.total)
        ended = time.perf_counter()
        outcome.seconds["server"] += ended - applied
        yield {
            "seconds": ended - started,
            **{f"seconds_{part}": seconds for part, seconds in outcome.seconds.items()},
        }


def measure(
    mode: str, sizes: Sequence[int], turns: int, changes: Sequence[str], scratch: Path
) -> list[dict[str, Any]]:
    """Return one record for each size and turn."""
    runs: dict[int, Run] = {}
    records: list[dict[str, Any]] = []
    try:
        for clients in sizes:
            settings = config.load(
                HERE / "config.toml",
                [*overrides(clients, mode), f"modes.{mode}.rounds={turns + 1}", *changes],
            )
            runs[clients] = prepare(settings, scratch / str(clients), config_text=config.dump(settings))
        going = {clients: steps(run) for clients, run in runs.items()}
        setup: dict[int, float] = {}  # a round's share of the key set-up
        for turn in range(turns + 1):
            for clients, each in going.items():
                record = next(each)
                plan, engine = runs[clients].plan, runs[clients].engine
                beside = engine.beside if isinstance(engine, InProcessEngine) else None
                if not turn:
                    setup[clients] = record["seconds_key_setup"] / plan.rounds_per_setup
                else:
                    record["seconds"] += setup[clients]
                    record["seconds_key_setup"] += setup[clients]
                    records.append(
                        {
                            "mode": plan.mode,
                            "clients": clients,
                            "repetition": turn,
                            "parameters": plan.dimension,
                            "divisor": plan.releases["training"].divisor,
                            "rounds_per_setup": plan.rounds_per_setup,
                            "neighbours": plan.secure_sum.n_neighbours or clients - 1,
                            "workers": 1 if beside is None else beside.n,
                            **{name: round(seconds, 4) for name, seconds in record.items()},
                        }
                    )
                    print(json.dumps(records[-1]))
    finally:
        for run in runs.values():
            run.ledger.close()
    return records


def ratios(records: Sequence[dict[str, Any]], base: int = BASE) -> dict[str, float]:
    """Return each size's seconds over those of `base` clients in the same turn, the median of the turns."""
    return {
        f"{clients}_over_{base}": round(statistics.median(found), 3)
        for clients, found in quotients(records, base).items()
    }


def intervals(records: Sequence[dict[str, Any]], base: int = BASE) -> dict[str, tuple[float, float]]:
    """Return the 95 % t-interval of the same quotients' geometric mean, where there are several turns."""
    found: dict[str, tuple[float, float]] = {}
    for clients, values in quotients(records, base).items():
        if len(values) > 1:
            logs = [math.log(value) for value in values]
            half = float(student_t.ppf(0.975, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
            middle = statistics.fmean(logs)
            low, high = math.exp(middle - half), math.exp(middle + half)
            found[f"{clients}_over_{base}"] = (round(low, 3), round(high, 3))
    return found


def quotients(records: Sequence[dict[str, Any]], base: int = BASE) -> dict[int, list[float]]:
    """Return the seconds of each size that took all its turns beside `base` clients, over theirs, by turn."""
    by_size: dict[int, dict[int, float]] = {}
    for record in records:
        by_size.setdefault(record["clients"], {})[record["repetition"]] = record["seconds"]
    return {
        clients: [seconds / by_size[base][turn] for turn, seconds in of_size.items()]
        for clients, of_size in by_size.items()
        if clients != base and base in by_size and of_size.keys() <= by_size[base].keys()
    }


def markdown(results: Mapping[str, Any]) -> str:
    """Return a row for each size: the median step, over that of the base, and its parts."""
    if not results["records"]:
        return "Not run yet."
    words = [part.replace("_", " ") for part in PARTS]
    lines = [
        f"`{results['command']}` at commit {results['commit']}, {results['machine']}:",
        "",
        f"| clients | mode | neighbours | seconds a step | over those of {BASE} | {' | '.join(words)} |",
        "|---|---|---|---|---|" + "---|" * len(PARTS),
    ]
    for mode, clients in dict.fromkeys((r["mode"], r["clients"]) for r in results["records"]):
        same = [r for r in results["records"] if (r["mode"], r["clients"]) == (mode, clients)]
        medians = [statistics.median(r[name] for r in same) for name in ("seconds", *map(_column, PARTS))]
        name = f"{clients}_over_{BASE}"
        ratio = results["ratios"].get(mode, {}).get(name)
        low, high = results["intervals"].get(mode, {}).get(name, (math.nan, math.nan))
        spread = "" if math.isnan(low) else f" ({low:.2f} to {high:.2f})"
        seconds, *parts = (f"{value:.2f}" for value in medians)
        lines.append(
            f"| {clients:,} | {mode} | {same[0]['neighbours']} | {seconds} | "
            f"{'–' if ratio is None else f'{ratio:.2f}{spread}'} | {' | '.join(parts)} |"
        )
    return "\n".join(lines)


def _column(part: str) -> str:
    return f"seconds_{part}"


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    parser.add_argument("--clients", type=int, nargs="+", default=[2, 10, 100])
    parser.add_argument("--sparse", type=int, nargs="*", default=[10, 100], help="clients in mode `central`")
    parser.add_argument("--many", type=int, default=1000, help="clients of the last part; 0 leaves it out")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--workers", default="auto", help="processes that compute for the clients")
    parser.add_argument("--set", dest="changes", action="append", default=[], help="section.key=value")
    parser.add_argument("--table", action="store_true", help="the README from the results; run nothing")
    arguments = parser.parse_args()
    if not arguments.table:
        results = {**origin("experiments.round_scaling.run", sys.argv[1:]), **measured(arguments)}
        arguments.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(text := markdown(json.loads(arguments.results.read_text(encoding="utf-8"))))
    if arguments.results.parent == HERE:
        into_readme(HERE / "README.md", "results", text)


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the records of all sizes, and the ratios of those that took turns."""
    workers = arguments.workers if arguments.workers.isdigit() else json.dumps(arguments.workers)
    changes = [f"run.workers={workers}", *arguments.changes]
    taken: list[list[dict[str, Any]]] = []
    for mode, sizes, turns in (
        ("distributed", arguments.clients, arguments.turns),
        ("central", arguments.sparse, arguments.turns),
        ("central", [arguments.many] if arguments.many else [], 2),
    ):
        with tempfile.TemporaryDirectory() as scratch:
            taken.append(measure(mode, sizes, turns, changes, Path(scratch)))
    distributed, central, many = taken
    return {
        "ratios": {"distributed": ratios(distributed), "central": ratios(central)},
        "intervals": {"distributed": intervals(distributed), "central": intervals(central)},
        "records": distributed + central + many,
    }


if __name__ == "__main__":
    finish(main)
