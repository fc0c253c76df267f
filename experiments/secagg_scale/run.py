"""Measure the growth of a round's cost and a large round's memory; write `results.json` and the figure.

    python -m experiments.secagg_scale.run [--out runs/secagg_scale] [--up-to 1000] [--draw]

Each number of clients is one file under `--out`; what is there for the same settings and the same code
is not measured again, so a stopped run goes on where it was.  Seconds are the processor's, of one process.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
import tomllib
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from experiments.command import finish
from experiments.results import origin
from experiments.secagg_scale import figure, memory
from secure_fed_diffusion import secagg
from secure_fed_diffusion.benchmarks import secagg_round
from secure_fed_diffusion.secagg import population

HERE = Path(__file__).parent


def growth_record(settings: dict[str, Any], n: int) -> list[dict[str, Any]]:
    """Run one round of n clients and return its flat record, alone in a list."""
    k, threshold = population.neighbours_and_threshold(
        n, corrupt=settings["corrupt"], dropout=settings["dropout"], adversary="curious"
    )
    params = secagg.SecAggParams(
        n_clients=n,
        threshold=threshold,
        dimension=settings["dimension"],
        modulus_bits=settings["modulus_bits"],
        n_neighbours=k,
    )
    n_dropouts = round(n * settings["dropout"])
    started = time.perf_counter()
    cost = secagg_round.measure(
        params, dropouts=frozenset(index * n // n_dropouts for index in range(n_dropouts))
    )
    record = {
        "measured": "growth",
        "clients": n,
        "neighbours": k,
        "threshold": threshold,
        "dimension": params.dimension,
        "modulus_bits": params.modulus_bits,
        "survivors": cost.n_survivors,
        "client_seconds": sum(cost.client_seconds.values()),
        "session_seconds": cost.session_seconds,
        "server_seconds": sum(cost.server_seconds.values()),
        "client_bytes_up": cost.bytes_up,
        "client_bytes_down": cost.bytes_down,
        "vector_bytes": params.frame_vector_bytes,
        **{f"client_seconds_{phase}": seconds for phase, seconds in cost.client_seconds.items()},
        **{f"server_seconds_{phase}": seconds for phase, seconds in cost.server_seconds.items()},
        "wall_seconds": time.perf_counter() - started,
    }
    return [record]


def measured(
    path: Path, key: dict[str, Any], measure: Callable[[], list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Return what `path` holds for the same key, or measure it and write it there."""
    if path.exists():
        held: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if held["key"] == key:
            records: list[dict[str, Any]] = held["records"]
            return records
    started = time.perf_counter()
    records = measure()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"key": key, "records": records}), encoding="utf-8")
    print(f"{path.stem}: {time.perf_counter() - started:.0f} s", flush=True)
    return records


def code_digest() -> str:
    """Return a digest of what is measured and of what measures it, edited or not."""
    sources = [*Path(secagg.__file__).parent.glob("*.py"), Path(secagg_round.__file__), *HERE.glob("*.py")]
    return sha256(b"".join(source.read_bytes() for source in sorted(sources))).hexdigest()


def main() -> None:
    """Measure what is not there yet, write the results, draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/secagg_scale"))
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    parser.add_argument("--up-to", type=int, default=1 << 20, help="leave out larger numbers of clients")
    parser.add_argument("--draw", action="store_true", help="draw the figure from the results alone")
    arguments = parser.parse_args()
    if not arguments.draw:
        settings = tomllib.loads((HERE / "scale.toml").read_text(encoding="utf-8"))
        code = code_digest()
        growth, large = settings["growth"], settings["memory"]
        records = []
        for n in growth["clients"]:
            if n <= arguments.up_to:
                path, key = arguments.out / f"growth_{n}.json", {"code": code, **growth, "clients": n}
                records += measured(path, key, functools.partial(growth_record, growth, n))
        path, key = arguments.out / "memory.json", {"code": code, **large}
        records += measured(path, key, functools.partial(memory.measure, large))
        results = {**origin("experiments.secagg_scale.run", sys.argv[1:]), "records": records}
        arguments.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(figure.draw(arguments.results, arguments.results.with_name("figure.png")))


if __name__ == "__main__":
    finish(main)
