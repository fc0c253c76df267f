"""The README's tables: means over the seeds, and whether masks and noise shares cost anything."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy import stats

from experiments.results import origin_text

HERE = Path(__file__).parent
GRIDS = {
    "grid": "results.json",
    "epsilon1": "epsilon1_results.json",
    "fashion": "fashion_results.json",
    "fashion_epsilon1": "fashion_epsilon1_results.json",
    "digits": "digits_results.json",
    "xray": "xray_results.json",
}
FIGURES = {"tstr_cnn": "TSTR, CNN", "prototype_accuracy": "prototypes", "fid_lenet": "FID, the set's LeNet"}


def table(found: Sequence[dict[str, Any]]) -> str:
    """Return a row for each mode and ε: means over the seeds, with the 95 % t-interval of several."""
    lines = [
        f"| data | mode | ε | seeds | {' | '.join(FIGURES.values())} | minutes |",
        "|---|---|---|---|" + "---|" * (len(FIGURES) + 1),
    ]
    for key in dict.fromkeys((r["data"], r["mode"], r["epsilon"]) for r in found):
        same = [r for r in found if (r["data"], r["mode"], r["epsilon"]) == key]
        minutes = statistics.mean(r["seconds"] for r in same) / 60
        data, mode, epsilon = key
        lines.append(
            f"| {data} | {mode} | {epsilon:g} | {len(same)} | {' | '.join(row(same))} | {minutes:.0f} |"
        )
    return "\n".join(lines)


def row(same: Sequence[dict[str, Any]]) -> list[str]:
    """Return the figures of runs that differ in their seed alone: means, with their interval."""
    return [_mean([value for r in same if (value := _figure(r, name)) is not None]) for name in FIGURES]


def _figure(record: dict[str, Any], name: str) -> float | None:
    """Return a figure by the beginning of its name; shares in percent."""
    found = [value for key, value in record.items() if key.startswith(name)]
    if not found or found[0] is None:
        return None
    return float(found[0]) * (1 if name.startswith("fid") else 100)


def _mean(values: Sequence[float]) -> str:
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.1f}"
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):.1f} ± {half:.1f}"


def differences(found: Sequence[dict[str, Any]]) -> list[str]:
    """Say how far shared noise is from a trusted server's where both were repeated, with Welch's interval."""
    sentences = []
    for data, epsilon in dict.fromkeys((r["data"], r["epsilon"]) for r in found):
        parts = []
        for name, words in FIGURES.items():
            ours, trusted = (
                [
                    value
                    for r in found
                    if (r["data"], r["epsilon"], r["mode"]) == (data, epsilon, mode)
                    and (value := _figure(r, name)) is not None
                ]
                for mode in ("distributed", "central")
            )
            if min(len(ours), len(trusted)) > 1:
                mean = statistics.mean(ours) - statistics.mean(trusted)
                between = stats.ttest_ind(ours, trusted, equal_var=False).confidence_interval(0.95)
                unit = "" if name.startswith("fid") else " points"
                parts.append(
                    f"{words} {_signed(mean)}{unit} ({_signed(between.low)} to {_signed(between.high)})"
                )
        if parts:
            sentences.append(
                f"`distributed` less `central` on {data} at ε = {epsilon:g}, with Welch's 95 % interval: "
                f"{', '.join(parts)}."
            )
    return sentences


def _signed(value: float) -> str:
    return f"{round(value, 1) + 0.0:+.1f}"  # no -0.0


def tables() -> str:
    """Return the tables of all results that are there, each with what made it."""
    parts = []
    for name in GRIDS.values():
        if (HERE / name).exists():
            whole = json.loads((HERE / name).read_text(encoding="utf-8"))
            said = [f"{origin_text(whole)}:", table(whole["records"]), *differences(whole["records"])]
            parts.append("\n\n".join(said) + "\n")
    return "\n".join(parts)
