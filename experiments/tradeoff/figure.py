"""Draw the trade-off from `results.json` alone: what each mode gives at each ε, and the gap as clients grow.

python -m experiments.tradeoff.figure [results.json]
"""

from __future__ import annotations

import json
import math
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.tradeoff.findings import (
    MODES,
    SIMPLE,
    TSTR,
    Curve,
    Record,
    epsilons,
    fid_key,
    finding,
    gaps,
    home,
)
from secure_fed_diffusion.reporting.plotting import LIGHT, STYLE, number_axis, percent_axis
from secure_fed_diffusion.reporting.tradeoff import summarise
from secure_fed_diffusion.reporting.wording import delta_text

HERE = Path(__file__).parent


def draw(results_json: Path, out: Path) -> Path:
    """Write the figure as PNG and SVG; return the PNG's path."""
    records: list[Record] = json.loads(results_json.read_text(encoding="utf-8"))["records"]
    near = home(records)
    with mpl.rc_context({**STYLE, "svg.fonttype": "path", "svg.hashsalt": "tradeoff"}):
        canvas = Figure(figsize=(12.4, 8.4), layout="constrained")
        panels = canvas.subplot_mosaic(
            [["accuracy", "fid"], ["key", "key"], ["gap", "leak"]], height_ratios=[1, 0.12, 1]
        )
        _paint_accuracy(panels["accuracy"], near)
        _paint_fid(panels["fid"], near)
        _paint_key(panels["key"], panels["accuracy"])
        _paint_gap(panels["gap"], records)
        _paint_leak(panels["leak"], near)
        canvas.suptitle(
            textwrap.fill(finding(records), 118), x=0.01, ha="left", fontsize=12, fontweight="bold"
        )
        canvas.supxlabel(
            textwrap.fill(_footnote(near), 190), x=0.01, ha="left", fontsize=8, color=LIGHT["muted"]
        )
        png = out.with_suffix(".png")
        canvas.savefig(png, dpi=150, facecolor="white", metadata={"Software": None})
        canvas.savefig(out.with_suffix(".svg"), facecolor="white", metadata={"Date": None, "Creator": None})
    return png


def _paint_accuracy(axes: Axes, records: Sequence[Record]) -> None:
    curves = (*MODES, *SIMPLE)
    for curve in curves:
        _paint_curve(axes, records, curve)
    _paint_baseline(axes, records, TSTR)
    _epsilon_axis(axes, records)
    values = {c: [float(r[c.key]) for r in records if r["mode"] == c.mode and c.key in r] for c in curves}
    lines = [v for c, some in values.items() for v in some if len(_known(records, c)) > 1]
    bottom = max(0.0, math.floor(10 * (min(lines, default=0.0) - 0.02)) / 10)
    axes.set_ylim(bottom, 1.0)
    below = [f"{c.label} {100 * sum(v) / len(v):.1f} %" for c, v in values.items() if v and max(v) < bottom]
    if below:  # a single point far down would press all curves into one line
        axes.text(0.99, 0.02, f"below: {', '.join(below)}", transform=axes.transAxes, ha="right", fontsize=8)
    percent_axis(axes, "y")
    axes.set_title("Accuracy on real test images, %", loc="left", fontsize=10, fontweight="bold")


def _paint_key(axes: Axes, of: Axes) -> None:
    """Say whose the curves of the two upper panels are, where it lies on none of them."""
    axes.set_axis_off()
    axes.legend(*of.get_legend_handles_labels(), loc="center", frameon=False, fontsize=8, ncols=6)


def _paint_fid(axes: Axes, records: Sequence[Record]) -> None:
    key = fid_key(records)
    if key is None:
        axes.set_axis_off()
        return
    for curve in (*MODES, *(c for c in SIMPLE if c.key == TSTR)):
        _paint_curve(
            axes,
            records,
            Curve(
                label=curve.label, mode=curve.mode, key=key, colour=curve.colour, marker=curve.marker,
                simple=curve.simple,
            ),
        )  # fmt: skip
    _paint_baseline(axes, records, key)
    floor = next((r[k] for r in records for k in r if k == key.replace("fid_", "fid_floor_")), None)
    if floor:
        axes.axhline(floor, color=LIGHT["muted"], linewidth=1, linestyle=(0, (1, 1.5)))
    _epsilon_axis(axes, records)
    number_axis(axes, "y", log=True)
    name = key.removeprefix("fid_")
    axes.set_title(
        f"FID ({name}), lower is better; dotted: real images", loc="left", fontsize=10, fontweight="bold"
    )


def _paint_gap(axes: Axes, records: Sequence[Record]) -> None:
    found = gaps(records)
    colours = ("green", "blue", "purple", "orange", "sky", "vermillion")
    for colour, epsilon in zip(colours, sorted({e for e, _ in found}, reverse=True), strict=False):
        cells = sorted((n, cell) for (e, n), cell in found.items() if e == epsilon)
        axes.errorbar(
            [n for n, _ in cells],
            [100 * cell.mean for _, cell in cells],
            yerr=[100 * (cell.half_width or 0.0) for _, cell in cells],
            marker="s",
            color=LIGHT[colour],
            capsize=3,
            label=f"ε = {epsilon:g}",
        )
    axes.axhline(0, color=LIGHT["muted"], linewidth=1)
    axes.set_xlabel("clients that share the same data")
    axes.set_title("Distributed minus local, TSTR points", loc="left", fontsize=10, fontweight="bold")
    if found:
        axes.set_xscale("log")
        counts = sorted({n for _, n in found})
        axes.set_xticks(counts, [str(n) for n in counts])
        axes.minorticks_off()
        axes.legend(frameon=False, fontsize=8)


def _paint_leak(axes: Axes, records: Sequence[Record]) -> None:
    """Show what an auditor proves against what the accountant allows, and what membership inference finds."""
    for curve in MODES[:2]:
        points = [
            (float(r["epsilon_spent"]), float(r["audited_epsilon"]))
            for r in records
            if r["mode"] == curve.mode
            and r.get("audited_epsilon") is not None
            and r.get("epsilon") is not None
        ]
        if points:
            axes.plot(
                *zip(*points, strict=True),
                curve.marker,
                color=LIGHT[curve.colour],
                label=f"audited, {curve.label}",
            )
    limit = max(epsilons(records), default=1.0)
    axes.plot(
        [0, limit], [0, limit], color=LIGHT["ink"], linewidth=1, linestyle=(0, (4, 2)), label="the bound"
    )
    axes.set_xlim(0, 1.05 * limit)
    axes.set_ylim(0, 1.05 * limit)
    axes.set_xlabel("ε spent (PLD) in the mode's own view; it bounds the canaries' view too")
    aucs = [(r["mode"], r["membership_auc"]) for r in records if r.get("membership_auc") is not None]
    said = ""
    if aucs:
        low, high = min(aucs, key=lambda pair: pair[1]), max(aucs, key=lambda pair: pair[1])
        said = f"\nmembership AUC {low[1]:.2f} ({low[0]}) to {high[1]:.2f} ({high[0]}), 0.5 is chance"
    sure = sorted({float(r["audited_confidence"]) for r in records if r.get("audited_confidence")})
    each = f", each at {' / '.join(f'{100 * share:g} %' for share in sure)} confidence" if sure else ""
    axes.set_title(f"Audited lower bound of ε{each}{said}", loc="left", fontsize=10, fontweight="bold")
    axes.legend(frameon=False, fontsize=8)


def _known(records: Sequence[Record], curve: Curve) -> list[tuple[float, Any]]:
    """Return the curve's points at finite ε."""
    return [
        (epsilon, cell)
        for epsilon in epsilons(records)
        if (cell := summarise(records, curve.mode, epsilon, curve.key))
    ]


def _paint_curve(axes: Axes, records: Sequence[Record], curve: Curve) -> None:
    known = _known(records, curve)
    end = summarise(records, curve.mode, None, curve.key)
    line: dict[str, Any] = {"color": LIGHT[curve.colour], "marker": curve.marker, "capsize": 2.5}
    style = (0, (3, 2)) if curve.simple else "-"
    width = 1.2 if curve.simple else 1.9
    if known:
        axes.errorbar(
            [epsilon for epsilon, _ in known],
            [cell.mean for _, cell in known],
            yerr=[cell.half_width or 0.0 for _, cell in known],
            label=curve.label,
            linestyle=style,
            linewidth=width,
            **line,
        )
    if end:
        axes.errorbar(
            [_infinity(records)],
            [end.mean],
            yerr=[end.half_width or 0.0],
            linestyle="none",
            fillstyle="none",
            **line,
        )


def _paint_baseline(axes: Axes, records: Sequence[Record], key: str) -> None:
    cell = summarise([r for r in records if r["mode"] == "none"], "none", None, key)
    if cell is None:
        return
    axes.axhline(
        cell.mean, color=LIGHT["ink"], linewidth=1.1, linestyle=(0, (6, 2)), label="none (no privacy)"
    )
    if cell.half_width:
        axes.axhspan(cell.mean - cell.half_width, cell.mean + cell.half_width, color=LIGHT["grid"], zorder=0)


def _infinity(records: Sequence[Record]) -> float:
    return 2.2 * max(epsilons(records), default=1.0)


def _epsilon_axis(axes: Axes, records: Sequence[Record]) -> None:
    known = epsilons(records)
    axes.set_xscale("log")
    ticks = {epsilon: f"{epsilon:g}" for epsilon in known}
    said = "ε of the whole run"
    if any(r.get("epsilon") is None and r["mode"] != "none" for r in records):
        ticks[_infinity(records)] = "∞"
        said += "; hollow at ∞: clipped, hardly any noise"
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.minorticks_off()
    axes.set_xlabel(said)


def _footnote(records: Sequence[Record]) -> str:
    deltas = sorted({float(r["delta"]) for r in records if r.get("delta") and r.get("epsilon") is not None})
    views = {
        curve.mode: sorted({str(r["view"]) for r in records if r["mode"] == curve.mode}) for curve in MODES
    }
    said = ", ".join(f"{mode}: {' / '.join(view)}" for mode, view in views.items() if view)
    units = sorted(
        {
            f"{r['unit']} in {r['mode']}"
            for r in records
            if r.get("unit") == "client" and r["mode"] == "client"
        }
    )
    unit = "one image, add or remove" + (f" ({', '.join(units)})" if units else "")
    counts = sorted({int(r["clients"]) for r in records if r.get("clients") is not None})
    return (
        f"δ = {' / '.join(delta_text(value) for value in deltas)} · unit: {unit} · "
        f"views: {said}; simpler methods: released_model · "
        f"clients: {', '.join(map(str, counts))} · bars: 95 % t-intervals over seeds; "
        f"a point without a bar was run once · every private mode pays for its class means too"
    )


if __name__ == "__main__":
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "results.json"
    print(
        draw(
            source,
            source.with_name("figure.png" if source.stem == "results" else f"{source.stem}_figure.png"),
        )
    )
