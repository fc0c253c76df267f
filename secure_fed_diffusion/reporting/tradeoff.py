"""Draws an experiment's `results.json`: what each privacy mode keeps of the non-private baseline.

One row a mode and ε, one panel a metric, the non-private baseline as a line through each panel.
Cells that were repeated show their mean with a 95 % t-interval; single ones show a point and the
figure says so.  The title is computed from the records.

    plot_results(Path("experiments/mnist_first/results.json"), Path("experiments/mnist_first/tradeoff"))
"""

from __future__ import annotations

import json
import math
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from scipy.stats import t as student_t

from secure_fed_diffusion.errors import RunError
from secure_fed_diffusion.reporting.plotting import LIGHT, STYLE, number_axis, percent_axis
from secure_fed_diffusion.reporting.wording import delta_text, figure_text, metric_name, number

_ORDER = ("central", "distributed", "local", "client")
_COLOURS = {"central": "blue", "distributed": "green", "local": "vermillion", "client": "purple"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One metric of one mode and ε: its mean, and half of its 95 % interval where it was repeated."""

    mean: float
    half_width: float | None
    repetitions: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Cell:
        """Return the mean of at least one value, and half of its t-interval where there are several."""
        half = None
        if len(values) > 1:
            spread = statistics.stdev(values) / math.sqrt(len(values))
            half = float(student_t.ppf(0.975, len(values) - 1)) * spread
        return cls(mean=statistics.fmean(values), half_width=half, repetitions=len(values))


def plot_results(results_json: Path, out: Path) -> tuple[Path, Path]:
    """Draw the experiment and return the paths of its PNG and its SVG.

    `out` is their common path; a suffix `.png` or `.svg` is ignored.

    Raises: RunError when the file holds no records with a mode.
    """
    try:
        records = json.loads(results_json.read_bytes())["records"]
        modes = {str(record["mode"]) for record in records}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{results_json}: expected a JSON object with records that name a mode") from error
    metrics = _metric_keys(records)
    if not modes or not metrics:
        raise RunError(f"{results_json}: no record holds a metric to draw")
    stem = out.with_suffix("") if out.suffix in (".png", ".svg") else out
    paths = (stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.svg"))
    with mpl.rc_context({**STYLE, "svg.fonttype": "path", "svg.hashsalt": "tradeoff"}):
        canvas = _draw(records, metrics)
        canvas.savefig(paths[0], dpi=180, facecolor="white", metadata={"Software": None})
        canvas.savefig(paths[1], facecolor="white", metadata={"Date": None, "Creator": None})
    return paths


def summarise(
    records: Sequence[Mapping[str, Any]], mode: str, epsilon: float | None, key: str
) -> Cell | None:
    """Return the mean and 95 % t-interval of one metric over the repetitions of one cell."""
    values = [
        value
        for record in records
        if record["mode"] == mode
        and number(record.get("epsilon")) == epsilon
        and (value := number(record.get(key))) is not None
    ]
    return Cell.of(values) if values else None


def finding(records: Sequence[Mapping[str, Any]]) -> str:
    """Say what the records show, by the first accuracy that they hold, at their largest common ε."""
    key = next((key for key in _metric_keys(records) if not key.startswith("fid_")), None)
    if key is None:
        return "FID by privacy mode"
    name = metric_name(key)
    at = {
        mode: {
            e: cell.mean for m, e in _rows(records) if m == mode and (cell := summarise(records, m, e, key))
        }
        for mode in ("central", "distributed", "local")
    }
    shared = [e for e in at["central"] if e is not None and _near(at["distributed"], e) is not None]
    if shared:
        epsilon = max(shared)
        reference, joint = at["central"][epsilon], _near(at["distributed"], epsilon)
        parts = [f"masked noise shares keep {_share(joint, reference)} of central's {name}"]
        if (alone := _near(at["local"], epsilon)) is not None:
            parts.append(f"local noise keeps {_share(alone, reference)}")
        return f"At ε = {epsilon:.3g}, {'; '.join(parts)}"
    best = max(
        ((cell.mean, mode, e) for mode, e in _rows(records) if (cell := summarise(records, mode, e, key))),
        default=None,
    )
    if best is None:
        return f"Without noise, {name} is {_percent(_baseline(records, key))}; no private mode was measured"
    mode, epsilon = best[1], best[2] or math.inf
    return f"The best private mode, {mode} at ε = {epsilon:.3g}, reaches {_percent(best[0])} {name}"


def _draw(records: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> Canvas:
    rows = _rows(records)
    width = max(7.0, 3.1 * len(metrics) + 1.4)
    canvas = Canvas(figsize=(width, 0.48 * len(rows) + 2.3), layout="constrained")
    panels = canvas.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axes, key in zip(panels, metrics, strict=True):
        _draw_panel(axes, records, rows, key)
    panels[0].set_yticks(range(len(rows)), [_row_label(records, mode, epsilon) for mode, epsilon in rows])
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    panels[0].tick_params(axis="y", labelsize=9.5, labelcolor=LIGHT["ink"])
    title = textwrap.fill(finding(records), int(9.2 * width))
    canvas.suptitle(title, x=0.012, ha="left", fontsize=12, fontweight="bold")
    note = textwrap.fill(_footnote(records), int(15 * width))
    canvas.supxlabel(note, x=0.012, ha="left", fontsize=8, color=LIGHT["muted"])
    return canvas


def _draw_panel(
    axes: Axes, records: Sequence[Mapping[str, Any]], rows: Sequence[tuple[str, float | None]], key: str
) -> None:
    fid = key.startswith("fid_")
    show = figure_text if fid else _percent
    cells = [
        (i, mode, cell)
        for i, (mode, epsilon) in enumerate(rows)
        if (cell := summarise(records, mode, epsilon, key))
    ]
    baseline, floor = _baseline(records, key), _floor(records, key) if fid else None
    marks = [v for v in (baseline, floor, *(cell.mean for _, _, cell in cells)) if v is not None]
    log = fid and min(marks) > 0 and max(marks) > 8 * min(marks)
    if fid:
        axes.set_xlim((min(marks) / 1.5, max(marks) * 2.6) if log else (0, 1.3 * max(marks)))
    else:
        axes.set_xlim(0, 1.16)
        axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0])
        percent_axis(axes, "x")
    if fid:
        number_axis(axes, "x", log=log)
    axes.grid(axis="y", visible=False)
    for i, mode, cell in cells:
        colour = LIGHT[_COLOURS.get(mode, "ink")]
        axes.errorbar(
            cell.mean,
            i,
            xerr=cell.half_width,
            fmt="o",
            color=colour,
            markersize=8,
            capsize=3.5,
            elinewidth=1.6,
        )
        left = not fid and cell.mean > 0.15  # the baseline tends to stand just right of an accuracy
        axes.annotate(
            show(cell.mean),
            (cell.mean, i),
            xytext=(5 if left else 0, 8),
            textcoords="offset points",
            ha="right" if left else "center",
            fontsize=8.5,
        )
    if baseline is not None:
        axes.axvline(baseline, color=LIGHT["ink"], linewidth=1.1, linestyle=(0, (4, 2)))
    if floor is not None:
        axes.axvline(floor, color=LIGHT["muted"], linewidth=1.1, linestyle=(0, (1, 1.5)))
    notes = [] if baseline is None else [f"dashed: no privacy, {show(baseline)}"]
    notes += [] if floor is None else [f"dotted: floor, {show(floor)}"]
    direction = "lower is better" if fid else "%, higher is better"
    axes.set_xlabel(f"{direction}\n{'; '.join(notes)}")
    axes.set_title(metric_name(key), loc="left", fontsize=10, fontweight="bold")


def _metric_keys(records: Sequence[Mapping[str, Any]]) -> list[str]:
    keys = dict.fromkeys(key for record in records for key in record if number(record[key]) is not None)
    tstr = [key for key in keys if key.startswith("tstr_")]
    fids = [key for key in keys if key.startswith("fid_") and not key.startswith("fid_floor_")]
    return tstr + (["prototype_accuracy"] if "prototype_accuracy" in keys else []) + fids


def _rows(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, float | None]]:
    """Return the private cells (mode, ε), modes in their usual order, the loosest ε first."""
    cells = {(str(r["mode"]), number(r.get("epsilon"))) for r in records if r["mode"] != "none"}
    place = {mode: i for i, mode in enumerate(_ORDER)}
    return sorted(cells, key=lambda cell: (place.get(cell[0], len(place)), cell[0], -(cell[1] or math.inf)))


def _baseline(records: Sequence[Mapping[str, Any]], key: str) -> float | None:
    cell = summarise([{**r, "epsilon": None} for r in records if r["mode"] == "none"], "none", None, key)
    return cell.mean if cell else None


def _floor(records: Sequence[Mapping[str, Any]], key: str) -> float | None:
    floors = [number(r.get(f"fid_floor_{key.removeprefix('fid_')}")) for r in records]
    return next((floor for floor in floors if floor is not None), None)


def _row_label(records: Sequence[Mapping[str, Any]], mode: str, epsilon: float | None) -> str:
    mine = [r for r in records if r["mode"] == mode]
    units = {r.get("unit") for r in mine if r.get("unit")}
    others = {r.get("unit") for r in records if r["mode"] != "none" and r.get("unit")}
    unit = f"\nunit: {', '.join(sorted(map(str, units)))}" if len(others) > 1 else ""
    return f"{mode}, ε = {epsilon:.3g}{unit}" if epsilon is not None else f"{mode}, no guarantee{unit}"


def _footnote(records: Sequence[Mapping[str, Any]]) -> str:
    facts = []
    for key, words in (
        ("delta", "δ"),
        ("unit", "unit"),
        ("relation", "relation"),
        ("view", "view"),
        ("clients", "clients"),
    ):
        values = dict.fromkeys(
            r[key] for r in records if r.get(key) is not None and (r["mode"] != "none" or key == "clients")
        )
        if values:
            facts.append(f"{words}: {', '.join(delta_text(v) if key == 'delta' else str(v) for v in values)}")
    cells: dict[tuple[str, float | None], int] = {}
    for record in records:
        cell = (str(record["mode"]), number(record.get("epsilon")))
        cells[cell] = cells.get(cell, 0) + 1
    low, high = min(cells.values()), max(cells.values())
    runs = str(low) if low == high else f"{low}–{high}"
    bars = "bars: 95 % t-interval of the mean" if high > 1 else "no interval: each cell was run once"
    return f"{' · '.join(facts)} · repetitions: {runs} · {bars}"


def _near(means: Mapping[float | None, float], epsilon: float) -> float | None:
    """Return the mean at an ε within 2 %: modes calibrated to one target meet it to within rounding."""
    close = [e for e in means if e is not None and math.isclose(e, epsilon, rel_tol=0.02)]
    return means[min(close, key=lambda e: abs(e - epsilon))] if close else None


def _share(value: float | None, reference: float) -> str:
    return f"{100 * value / reference:.0f} %" if value is not None and reference else "an undefined share"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"
