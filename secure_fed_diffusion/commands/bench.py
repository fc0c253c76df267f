"""`sfd bench`: ours and a baseline side by side, as ratios in one run."""

from __future__ import annotations

import json
from enum import StrEnum
from importlib import import_module
from inspect import signature
from typing import Annotated, Any

import typer

from secure_fed_diffusion.commands.terminal import AsJson, quiet
from secure_fed_diffusion.errors import ConfigError


class Benchmark(StrEnum):
    """What to measure."""

    secagg = "secagg"
    dpsgd = "dpsgd"
    round = "round"
    noise = "noise"
    evaluation = "evaluation"


def bench(
    what: Benchmark,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of PyTorch, for dpsgd (1) and evaluation (all cores).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure the cryptography, a private step, a round, the noise or an evaluation: ratios in one run."""
    quiet()
    run = import_module(f"secure_fed_diffusion.benchmarks.{what.value}").run
    if threads is not None and "threads" not in signature(run).parameters:
        raise ConfigError(f"{what.value} has a number of threads of its own", key="--threads")
    figures = run() if threads is None else run(threads=threads)
    if as_json:
        typer.echo(json.dumps(figures))
        return
    for name, value in _flat(figures):
        typer.echo(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")


def _flat(figures: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows = []
    for name, value in figures.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", value))
    return rows
