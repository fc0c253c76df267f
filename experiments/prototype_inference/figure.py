"""Draw what nearest-prototype inference gains over the model's own head, from `results.json` alone."""

from __future__ import annotations

import json
import math
import statistics
import textwrap
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from scipy.stats import t as student_t

from secure_fed_diffusion.reporting.plotting import LIGHT, STYLE

Record = dict[str, Any]
TITLES = {"digits": "scikit-learn digits", "mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}
LETTER_INCHES = 0.08  # of the title, more than its mean letter takes
METHODS = {"fedavg": ("FedAvg", "blue", "o"), "fedprox": ("FedProx", "vermillion", "s")}


def interval(values: list[float]) -> tuple[float, float]:
    """Return the mean and half of its 95 % t-interval (0 for a single value)."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, 0.0
    half = student_t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, float(half)


def gains(records: list[Record], key: str = "accuracy_prototypes") -> dict[tuple[str, str, str], list[float]]:
    """Return, for each (data, heterogeneity, method), the paired gains over the head, in points."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for record in records:
        if key in record:
            place = (record["data"], record["heterogeneity"], record["method"])
            found.setdefault(place, []).append(100 * (record[key] - record["accuracy_head"]))
    return found


def verdict(values: list[float]) -> str:
    """Return what the interval of these gains says of "at least one point": holds, loses, fails or open.

    It holds where the interval lies above one point, loses where it lies below zero, fails where it lies
    below one point but not below zero, and is open otherwise, as from a single value.
    """
    mean, half = interval(values)
    if len(values) < 2 or mean - half < 1.0 <= mean + half:
        return "open"
    if mean - half >= 1.0:
        return "holds"
    return "loses" if mean + half < 0.0 else "fails"


def finding(records: list[Record]) -> str:
    """State in a line where the gain of at least one point holds, counted over the cells."""
    verdicts = [verdict(values) for values in gains(records).values()]
    return (
        f"Nearest prototype beats the head by a point or more in {verdicts.count('holds')} of "
        f"{len(verdicts)} settings and loses in {verdicts.count('loses')} (95 % intervals)"
    )


def compose(records: list[Record]) -> Figure:
    """Return the figure: one panel a data set, gain in points by heterogeneity and method."""
    sets = [name for name in TITLES if any(record["data"] == name for record in records)]
    skews = list(dict.fromkeys(record["heterogeneity"] for record in records))
    by_cell = gains(records)
    width = 3.2 * len(sets) + 1.6
    with mpl.rc_context(STYLE):
        canvas = Figure(figsize=(width, 3.8), layout="constrained")
        panels = canvas.subplots(1, len(sets), sharey=True, squeeze=False)[0]
        for axes, name in zip(panels, sets, strict=True):
            axes.axvline(0.0, color=LIGHT["muted"], linewidth=1)
            axes.axvline(1.0, color=LIGHT["muted"], linewidth=1, linestyle=":")
            for shift, (method, (label, colour, marker)) in zip((-0.12, 0.12), METHODS.items(), strict=True):
                places = [(name, skew, method) for skew in skews]
                points = [interval(by_cell[place]) for place in places if place in by_cell]
                heights = [index + shift for index, place in enumerate(places) if place in by_cell]
                axes.errorbar(
                    [mean for mean, _ in points],
                    heights,
                    xerr=[half for _, half in points],
                    fmt=marker,
                    color=LIGHT[colour],
                    label=label,
                    capsize=2,
                )
            axes.set_title(TITLES[name], fontsize=10)
            axes.set_xlabel("gain over the model's own head, points")
            axes.set_yticks(range(len(skews)), skews)
        panels[0].invert_yaxis()
        panels[-1].legend(frameon=False, fontsize=9)
        title = textwrap.fill(finding(records), int(width / LETTER_INCHES))
        canvas.suptitle(title, fontsize=10.5)
    return canvas


def draw(results_json: Path, out: Path) -> Path:
    """Write the figure of these results."""
    records: list[Record] = json.loads(results_json.read_text(encoding="utf-8"))["records"]
    compose(records).savefig(out, dpi=160)
    return out
