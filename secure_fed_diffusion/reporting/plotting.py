"""One look for every figure: a colour-blind palette, thin axes, and SVG that follows the page.

A panel is drawn with the light colours and written as SVG text; each colour of the palette then
becomes a CSS variable, so one drawing serves light pages, dark pages and print, and its text uses
the page's own font.  A drawing too large for that becomes a PNG data URI on white.

A line, bar or step that is drawn with a label is also data: it goes into the figure's CSV (`figure_csv`), and
each of its points gets an invisible dot that shows its value to a mouse, without any script.

The colours are Okabe and Ito's (2008), darkened where they are too faint for lines on white.
"""

from __future__ import annotations

import base64
import csv
import html
import io
import itertools
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import BarContainer
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import StepPatch
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

LIGHT = {
    "ink": "#1c2530",
    "muted": "#586473",
    "grid": "#dde3ea",
    "blue": "#0072b2",
    "vermillion": "#d05a00",
    "green": "#00896a",
    "purple": "#a8508a",
    "orange": "#b97f00",
    "sky": "#3f97cc",
}
DARK = {
    "ink": "#e7ecf3",
    "muted": "#a3b0bf",
    "grid": "#2f3a47",
    "blue": "#5cb3ec",
    "vermillion": "#ff8f52",
    "green": "#43cfa4",
    "purple": "#e29cc8",
    "orange": "#f0bd52",
    "sky": "#9ad6fb",
}

_LARGEST_SVG_BYTES = 250_000
_MOST_DOTS = 600  # of a panel; more are closer than a finger or a pointer can tell apart
_AXES_BOX = (0.15, 0.165, 0.835, 0.8)  # one for all, so that panels side by side are level
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9.6,
    "axes.labelsize": 9.6,
    "xtick.labelsize": 9.2,
    "ytick.labelsize": 9.2,
    "text.color": LIGHT["ink"],
    "axes.labelcolor": LIGHT["muted"],
    "axes.edgecolor": LIGHT["muted"],
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "grid.color": LIGHT["grid"],
    "axes.linewidth": 0.7,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.9,
    "lines.markersize": 4.5,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.major.width": 0.7,
    "ytick.major.size": 0.0,
    "ytick.minor.size": 0.0,
    "text.parse_math": False,  # a label may hold a dollar sign
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One entry of a legend: a line (or, with `filled`, an area); `marker` is one of matplotlib's."""

    label: str
    colour: str
    dash: str = ""
    filled: bool = False
    marker: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The numbers behind one labelled mark of a panel; `tops` is where on the y axis each is drawn."""

    label: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]
    tops: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One drawing with its own small title and legend; `body` is SVG or an `img` element."""

    title: str
    body: str
    keys: tuple[Key, ...] = ()
    x_label: str = ""
    y_label: str = ""
    curves: tuple[Curve, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Panels under a title that states what the data show."""

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]

    @property
    def csv_uri(self) -> str | None:
        """Return the figure's numbers as a data URI, None where no mark has a label."""
        if not any(panel.curves for panel in self.panels):
            return None
        data = base64.b64encode(figure_csv(self.panels).encode()).decode()
        return f"data:text/csv;base64,{data}"


def figure_csv(panels: tuple[Panel, ...]) -> str:
    """Return the numbers of all panels, one point a line."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["panel", "series", "x_name", "x", "y_name", "y"])
    for panel in panels:
        for curve in panel.curves:
            writer.writerows(
                [panel.title, curve.label, panel.x_label, repr(x), panel.y_label, repr(y)]
                for x, y in zip(curve.xs, curve.ys, strict=True)
            )
    return stream.getvalue()


def paint_panel(paint: Callable[[Axes], None], *, title: str, keys: tuple[Key, ...] = ()) -> Panel:
    """Draw one panel by calling `paint(axes)`; its text fits a phone and a wide screen alike."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": title}):
        canvas = Canvas(figsize=(4.4, 2.75))
        axes = canvas.add_axes(_AXES_BOX)
        axes.grid(axis="x", visible=False)
        paint(axes)
        curves = tuple(_curves(axes))
        body = _svg(canvas, title)
        if len(body) > _LARGEST_SVG_BYTES:
            body = _png(canvas, title)
        else:
            body = body.replace("</svg>", f"{_dots(canvas, axes, curves)}</svg>")
        x_label, y_label = axes.get_xlabel(), axes.get_ylabel()
    return Panel(title=title, body=body, keys=keys, x_label=x_label, y_label=y_label, curves=curves)


def number_axis(axes: Axes, which: str, *, log: bool = False) -> None:
    """Label an axis with plain numbers; on a logarithmic one at 1, 2, 5 of each decade."""
    axis = axes.yaxis if which == "y" else axes.xaxis
    if log:
        (axes.set_yscale if which == "y" else axes.set_xscale)("log", subs=[2.0, 5.0])
        low, high = axes.get_ylim() if which == "y" else axes.get_xlim()
        crowded = high / low > 300
        axis.set_minor_formatter(NullFormatter() if crowded else FuncFormatter(lambda v, _: f"{v:,g}"))
        axis.set_tick_params(which="minor", labelsize=9.2)
        axes.grid(which="minor", axis="y" if which == "y" else "x", alpha=0.6)
    else:
        axis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda v, _: _short(v)))


def percent_axis(axes: Axes, which: str = "y") -> None:
    """Label an axis of shares in [0, 1] with percentages."""
    axis = axes.yaxis if which == "y" else axes.xaxis
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:.0f}"))


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e5, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):,.4g} {letter}".replace("-", "−")
    return f"{value:,.6g}".replace("-", "−")


def _curves(axes: Axes) -> Iterator[Curve]:
    """Yield the numbers of every line, bar and step that was drawn with a label."""
    for line in axes.get_lines():
        # a line across the whole axes has its ends in shares of the axes: its level is all it tells
        xs, ys = (line.get_xdata(), line.get_ydata())
        if line.get_transform() != axes.transData:
            xs = axes.get_xlim()
        yield from _curve(str(line.get_label()), xs, ys, ys)
    for bars in axes.containers:
        if isinstance(bars, BarContainer):
            middles = [bar.get_x() + bar.get_width() / 2 for bar in bars]
            tops = [bar.get_y() + bar.get_height() for bar in bars]
            yield from _curve(bars.get_label(), middles, [bar.get_height() for bar in bars], tops)
    for patch in axes.patches:
        if isinstance(patch, StepPatch):
            values, edges, base = patch.get_data()
            below = np.broadcast_to(0.0 if base is None else base, len(values))
            middles = [(a + b) / 2 for a, b in itertools.pairwise(edges)]
            heights = [v - b for v, b in zip(values, below, strict=True)]
            yield from _curve(str(patch.get_label()), middles, heights, values)


def _curve(label: str, xs: Any, ys: Any, tops: Any) -> Iterator[Curve]:
    points = [tuple(map(float, point)) for point in zip(xs, ys, tops, strict=True)]
    points = [point for point in points if all(map(math.isfinite, point))]
    if points and label and not label.startswith("_"):  # matplotlib's own names begin with _
        first, second, third = zip(*points, strict=True)
        yield Curve(label=label, xs=first, ys=second, tops=third)


def _dots(canvas: Canvas, axes: Axes, curves: tuple[Curve, ...]) -> str:
    """Return invisible circles over the points, each with its value as a title."""
    scale, height = 72 / canvas.dpi, 72 * canvas.get_figheight()
    step = max(1, -(-sum(len(curve.xs) for curve in curves) // _MOST_DOTS))
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    dots = []
    for curve in curves:
        points = list(zip(curve.xs, curve.ys, curve.tops, strict=True))
        for x, y, top in points if len(points) < 3 else [*points[:-1:step], points[-1]]:
            if left <= x <= right and low <= top <= high:
                across, up = axes.transData.transform((x, top)) * scale
                said = html.escape(f"{curve.label}: {y:.4g} ({_axis_name(axes.get_xlabel())} {x:.4g})")
                dots.append(
                    f'<circle cx="{across:.1f}" cy="{height - up:.1f}" r="6"><title>{said}</title></circle>'
                )
    return f'<g class="dots">{"".join(dots)}</g>' if dots else ""


def _axis_name(label: str) -> str:
    """Return an axis' label up to its first comma: what a point's x is called in passing."""
    return label.split(",")[0]


def _svg(canvas: Canvas, title: str) -> str:
    """Return the drawing as an inline SVG element whose colours and font are the page's."""
    buffer = io.StringIO()
    empty = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    canvas.savefig(buffer, format="svg", transparent=True, metadata=empty)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    view_box = re.search(r'viewBox="[^"]+"', text)
    opening = (
        f'<svg class="plot" role="img" aria-label="{html.escape(title)}" {view_box[0] if view_box else ""}>'
    )
    text = re.sub(r"<svg[^>]*>", lambda _: opening, text, count=1)
    text = re.sub(r"'DejaVu Sans'[^;\"]*", "var(--sans)", text)
    for name, colour in LIGHT.items():
        text = text.replace(colour, f"var(--{name})")
    return re.sub(r"\n\s*", "\n", text)


def _png(canvas: Canvas, title: str) -> str:
    buffer = io.BytesIO()
    canvas.savefig(buffer, format="png", dpi=220, facecolor="white", metadata={"Software": None})
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img class="plot" alt="{html.escape(title)}" src="data:image/png;base64,{data}">'
