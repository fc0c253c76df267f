"""One look for every figure: a colour-blind palette, thin axes, and SVG that follows the page.

A panel is drawn with the light colours and written as SVG text; each colour of the palette then
becomes a CSS variable, so one drawing serves light pages, dark pages and print, and its text uses
the page's own font.  A drawing too large for that becomes a PNG data URI on white.

The colours are Okabe and Ito's (2008), darkened where they are too faint for lines on white.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
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
    """One entry of a legend: a line (or, with `filled`, an area) of a colour of the palette."""

    label: str
    colour: str
    dash: str = ""
    filled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One drawing with its own small title and legend; `body` is SVG or an `img` element."""

    title: str
    body: str
    keys: tuple[Key, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Panels under a title that states what the data show."""

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]


def paint_panel(paint: Callable[[Axes], None], *, title: str, keys: tuple[Key, ...] = ()) -> Panel:
    """Draw one panel by calling `paint(axes)`; its text fits a phone and a wide screen alike."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": title}):
        canvas = Canvas(figsize=(4.4, 2.75))
        axes = canvas.add_axes(_AXES_BOX)
        axes.grid(axis="x", visible=False)
        paint(axes)
        body = _svg(canvas, title)
        if len(body) > _LARGEST_SVG_BYTES:
            body = _png(canvas, title)
    return Panel(title=title, body=body, keys=keys)


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
