"""Draw the scenarios from `results.json` alone: one line each, beside its accuracy, FID, traffic and time.

python -m experiments.federated_scenarios.figure [results.json]
"""

from __future__ import annotations

import json
import statistics
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.federated_scenarios.scenario import AXES
from secure_fed_diffusion.reporting.plotting import LIGHT, STYLE, number_axis, percent_axis
from secure_fed_diffusion.reporting.tradeoff import Cell
from secure_fed_diffusion.reporting.wording import delta_text

HERE = Path(__file__).parent
Record = Mapping[str, Any]
TSTR, PROTOTYPES = "tstr_cnn", "prototype_accuracy"
NAMES = {
    "fashion_mnist": "Fashion-MNIST",
    "mnist": "MNIST",
    "pneumonia": "Chest X-rays",
    "digits": "scikit-learn's digits",
}
PRIVATE, POOLED, ALONE = "private", "pooled", "alone"
GROUPS = (POOLED, *AXES, PRIVATE, ALONE)
COLOURS = {
    POOLED: "ink",
    "base": "ink",
    "clients": "blue",
    "skew": "vermillion",
    "corners": "purple",
    "local epochs": "green",
    "participation": "sky",
    "FedProx": "orange",
    "other": "muted",
    PRIVATE: "ink",
    ALONE: "muted",
}
MARKERS = {POOLED: "D", PRIVATE: "s", ALONE: "X"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One scenario: where it belongs, what it is called, and its records (seeds, or hospitals)."""

    group: str
    label: str
    records: tuple[Record, ...]

    def cell(self, key: str) -> Cell | None:
        """Return the mean of a figure and half of its 95 % t-interval over seeds."""
        values = list(self.by_seed(key).values())
        return Cell.of(values) if values else None

    def by_seed(self, key: str) -> dict[int, float]:
        """Return a figure of each seed.

        Hospitals of one seed are averaged first: they differ in what they hold, not by chance.
        """
        found: dict[int, list[float]] = {}
        for record in self.records:
            if record.get(key) is not None:
                found.setdefault(int(record["seed"]), []).append(float(record[key]))
        return {seed: statistics.fmean(values) for seed, values in found.items()}

    @property
    def megabytes(self) -> float:
        """Megabytes that all clients together sent and received in one run, on average."""
        return statistics.fmean((r["bytes_up"] + r["bytes_down"]) / 1e6 for r in self.records)

    @property
    def minutes(self) -> float:
        """Minutes of one run, of one hospital where each is alone, on average."""
        return statistics.fmean(r["seconds"] / 60 for r in self.records)


def lines(records: Sequence[Record]) -> list[Line]:
    """Return one line a scenario, in the order of `GROUPS`."""
    found: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        found.setdefault(_place(record), []).append(record)
    by_group = sorted(found.items(), key=lambda item: GROUPS.index(item[0][0]))
    return [Line(group=group, label=label, records=tuple(own)) for (group, label), own in by_group]


def _place(record: Record) -> tuple[str, str]:
    mode, scenario = record["mode"], str(record["scenario"])
    whose = "base" if record["axis"] == "base" else scenario
    if mode == POOLED:
        return POOLED, "all records in one place"
    if mode == ALONE:
        return ALONE, f"hospitals alone ({whose})"
    if mode != "none":
        return PRIVATE, f"ε = {record['epsilon']:g} ({whose})"
    return str(record["axis"]), f"base ({scenario})" if record["axis"] == "base" else scenario


def key_of(records: Sequence[Record], family: str) -> str | None:
    """Return the name that a family of figures has in these records, by its extractor."""
    return next(
        (key for r in records for key in r if key.startswith(f"{family}_") and "floor" not in key), None
    )


def finding(records: Sequence[Record]) -> str:
    """State what the numbers say: the federation between its two ends, the worst axis, and privacy.

    A difference from the base is one of the seeds that both have: of one run, from the base's same seed.
    """
    found = [line for line in lines(records) if line.by_seed(TSTR)]
    base = next((line for line in found if line.group == "base"), None)
    whole = base.cell(TSTR) if base else None
    if base is None or whole is None:
        return "Too few cells for a comparison"
    spread = f" ± {100 * whole.half_width:.1f} over seeds" if whole.half_width is not None else ""
    data = NAMES.get(str(records[0]["data"]), str(records[0]["data"]))
    parts = [f"{data}: TSTR of the base scenario {whole.mean:.1%}{spread}"]
    for line in found:
        if line.group == POOLED:
            parts[0] += f", {line.label} {_mean_of(line, whole)}"
        if line.group == ALONE and "(base)" in line.label:
            parts[0] += f", hospitals alone on average {_mean_of(line, whole)}"
    moved = [(line, gaps) for line in found if line is not base and (gaps := _gaps(line, base))]
    others = sorted((statistics.fmean(gaps), line.label, gaps) for line, gaps in moved if line.group in AXES)
    if len(others) == 1:
        parts.append(f"{others[0][1]} moves it by {_points(others[0][2])} points")
    elif others:
        ends = [
            f"{_points(gaps)}{unit} ({label}{', one run' * (len(gaps) == 1)})"
            for (_, label, gaps), unit in ((others[0], ""), (others[-1], " points"))
        ]
        parts.append(f"scenarios reach from {' to '.join(ends)}")
    for line, gaps in moved:
        if line.group == PRIVATE and "(base)" in line.label:
            parts.append(
                f"private, by the recipe for ε = {line.records[0]['epsilon']:g}, "
                f"the base is {_points(gaps)} points off ({_sureness(gaps)})"
            )
    return "; ".join(parts)


def _gaps(line: Line, base: Line) -> list[float]:
    """Return by how much a scenario is above the base, one value a seed that both have."""
    ours, theirs = line.by_seed(TSTR), base.by_seed(TSTR)
    return [value - theirs[seed] for seed, value in ours.items() if seed in theirs]


def beside(results_json: Path) -> Path:
    """Return the path of the figure of a results file."""
    return results_json.with_name(f"{results_json.stem.removesuffix('results')}figure.png")


def draw(results_json: Path, out: Path) -> Path:
    """Write the figure as PNG and SVG; return the PNG's path."""
    results = json.loads(results_json.read_text(encoding="utf-8"))
    records: list[Record] = results["records"]
    found = lines(records)
    fid = key_of(records, "fid")
    with mpl.rc_context({**STYLE, "svg.fonttype": "path", "svg.hashsalt": "federated_scenarios"}):
        canvas = Figure(figsize=(12.6, 2.4 + 0.29 * len(found)), layout="constrained")
        accuracy, distance, traffic, minutes = canvas.subplots(
            1, 4, sharey=True, width_ratios=(3.2, 2.4, 1.8, 1.8)
        )
        _paint_accuracy(accuracy, found, records)
        _paint_fid(distance, found, records, fid)
        _paint_bars(
            traffic,
            found,
            [line.megabytes for line in found],
            "MB sent and received by all clients",
        )
        _paint_bars(minutes, found, [line.minutes for line in found], "Minutes of a run, on one core")
        accuracy.set_yticks(range(len(found)), [line.label for line in found])
        accuracy.set_ylim(len(found) - 0.4, -0.6)
        for previous, line, place in zip(found, found[1:], range(1, len(found)), strict=False):
            if line.group != previous.group:
                for axes in (accuracy, distance, traffic, minutes):
                    axes.axhline(place - 0.5, color=LIGHT["muted"], linewidth=0.6)
        title = textwrap.fill(finding(records), 122)
        canvas.suptitle(title, x=0.01, ha="left", fontsize=11.5, fontweight="bold")
        note = textwrap.fill(_footnote(records), 195)
        canvas.supxlabel(note, x=0.01, ha="left", fontsize=8, color=LIGHT["muted"])
        png = out.with_suffix(".png")
        canvas.savefig(png, dpi=150, facecolor="white", metadata={"Software": None})
        canvas.savefig(out.with_suffix(".svg"), facecolor="white", metadata={"Date": None, "Creator": None})
    return png


def _paint_accuracy(axes: Axes, found: Sequence[Line], records: Sequence[Record]) -> None:
    for key, filled in ((PROTOTYPES, False), (TSTR, True)):
        _paint_points(axes, found, key, filled=filled)
    base = next((cell.mean for line in found if line.group == "base" and (cell := line.cell(TSTR))), None)
    if base is not None:
        axes.axvline(base, color=LIGHT["muted"], linewidth=0.8)
    majority = next((r["majority"] for r in records if r.get("majority")), None)
    if majority is not None and majority > 0.5:
        axes.axvline(majority, color=LIGHT["muted"], linewidth=1, linestyle=(0, (1, 1.5)))
    axes.set_xlim(0, 1)
    percent_axis(axes, "x")
    chance = "" if majority is None or majority <= 0.5 else "\ndotted: always the larger class"
    axes.set_title(
        f"Accuracy on real test images, %\nfilled: TSTR (line: base)\nhollow: prototypes{chance}",
        loc="left", fontsize=9, fontweight="bold",
    )  # fmt: skip


def _paint_fid(axes: Axes, found: Sequence[Line], records: Sequence[Record], key: str | None) -> None:
    if key is None:
        return
    _paint_points(axes, found, key, filled=True)
    floors = [r[name] for r in records for name in [key.replace("fid_", "fid_floor_")] if r.get(name)]
    if floors:
        axes.axvline(statistics.fmean(floors), color=LIGHT["muted"], linewidth=1, linestyle=(0, (1, 1.5)))
    number_axis(axes, "x", log=True)
    axes.set_title(
        f"FID ({key.removeprefix('fid_')})\nlower is better;\ndotted: real images",
        loc="left", fontsize=9, fontweight="bold",
    )  # fmt: skip


def _paint_points(axes: Axes, found: Sequence[Line], key: str, *, filled: bool) -> None:
    for place, line in enumerate(found):
        cell = line.cell(key)
        if cell is None:
            continue
        colour = LIGHT[COLOURS[line.group]]
        if filled and line.group == ALONE:
            each = [float(record[key]) for record in line.records if record.get(key) is not None]
            axes.plot(each, [place] * len(each), "|", color=colour, markersize=8)
        axes.errorbar(
            [cell.mean],
            [place],
            xerr=None if cell.half_width is None or not filled else [cell.half_width],
            marker=MARKERS.get(line.group, "o"),
            markersize=6 if filled else 5,
            markerfacecolor=colour if filled else "none",
            color=colour,
            capsize=3,
        )


def _paint_bars(axes: Axes, found: Sequence[Line], heights: Sequence[float], title: str) -> None:
    colours = [LIGHT[COLOURS[line.group]] for line in found]
    axes.barh(range(len(found)), heights, height=0.55, color=colours)
    for place, height in enumerate(heights):
        axes.annotate(
            f"{height:.3g}", (height, place), (3, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.set_xlim(0, 1.25 * max([*heights, 1e-9]))
    axes.set_title(textwrap.fill(title, 20), loc="left", fontsize=9, fontweight="bold")


def _points(gaps: Sequence[float]) -> str:
    return f"{100 * statistics.fmean(gaps):+.1f}"


def _sureness(gaps: Sequence[float]) -> str:
    """Say what a mean of paired differences rests on."""
    spread = Cell.of(gaps).half_width
    if spread is None:
        return "one run" if len(gaps) == 1 else f"{len(gaps)} runs"
    return f"± {100 * spread:.1f}, pairs of {len(gaps)} seeds"


def _mean_of(line: Line, base: Cell) -> str:
    """Return a mean, with a remark where it is of one seed beside several of the base."""
    values = list(line.by_seed(TSTR).values())
    return f"{statistics.fmean(values):.1%}{' (one seed)' * (len(values) == 1 < base.repetitions)}"


def _footnote(records: Sequence[Record]) -> str:
    private = [r for r in records if r["mode"] == "distributed"]
    words = [
        "each record is shown to the network equally often in every scenario; mode none, masked, without an ε"
    ]
    if private:
        r = private[0]
        words.append(
            f"ε = {r['epsilon']:g}: mode distributed, δ = {delta_text(float(r['delta']))}, "
            f"unit {r['unit']}, {r['relation'].replace('_', '/')}, view {r['view']}, PLD, with class means"
        )
    words.append(
        "bars at points: 95 % t-intervals over seeds; without one: run once; points of difference: same seeds"
    )
    if any(r["mode"] == ALONE for r in records):
        words.append("hospitals alone: strokes are hospitals, the cross their mean")
    return " · ".join(words)


if __name__ == "__main__":
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "results.json"
    print(draw(source, beside(source)))
