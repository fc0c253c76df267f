"""`sfd bench`: ours and a baseline side by side, as ratios in one run."""

from __future__ import annotations

import json
from enum import StrEnum
from importlib import import_module
from typing import Any

import typer

from secure_fed_diffusion.commands.terminal import AsJson, quiet


class Benchmark(StrEnum):
    """What to measure."""

    secagg = "secagg"
    dpsgd = "dpsgd"
    round = "round"
    noise = "noise"
    evaluation = "evaluation"


def bench(what: Benchmark, as_json: AsJson = False) -> None:
    """Measure the cryptography, a private step, a round, the noise or an evaluation: ratios in one run."""
    quiet()
    figures = import_module(f"secure_fed_diffusion.benchmarks.{what.value}").run()
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
