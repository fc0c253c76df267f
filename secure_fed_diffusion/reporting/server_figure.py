"""Draws what the server received from one client beside what it may learn: the sum.

The left histogram is one client's masked vector as it came off the wire; it is flat when the masks
hide the vector.  That is a sanity check which a broken mask would fail, not a proof: flat margins
say nothing about dependence between coordinates or between rounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes

from secure_fed_diffusion.reporting.plotting import LIGHT, Figure, Panel, number_axis, paint_panel
from secure_fed_diffusion.reporting.run_folder import RunFolder
from secure_fed_diffusion.reporting.wording import number

_ALARM_DEVIATIONS = 5.0  # of χ² above its mean: about one false alarm in a hundred thousand reports


def server_figure(run: RunFolder) -> Figure | None:
    """Draw the masked vector and the decoded sum, and test the first for flatness."""
    masked = _histogram(run.server_view.get("masked_histogram"))
    total = _histogram(run.server_view.get("sum_histogram"))
    panels: list[Panel] = []
    if masked:
        client = run.server_view.get("client_id", "?")
        panels.append(_panel(masked, "vermillion", f"Received: client {client}, masked", "value in the ring"))
    if total:
        panels.append(_panel(total, "blue", "Learned: the sum, decoded", "value in grid units"))
    if not panels:
        return None
    title, note = "The server learned the sum", ""
    if masked:
        flat, deviations = _flatness(masked[1])
        note = f" χ² of the masked histogram lies {deviations:+.1f} standard deviations from a flat one's."
        title = (
            "What one client sent is as flat as uniform noise"
            if flat
            else "What one client sent is NOT uniform: its mask did not hide it"
        ) + ("; only the sum has a shape" if total and flat else "")
    return Figure(
        name="server",
        title=title,
        caption=f"Round {run.server_view.get('round', '?')}, all coordinates of one vector.{note} A flat"
        " histogram is a check, not a proof.",
        panels=tuple(panels),
    )


def _panel(histogram: tuple[list[float], list[float]], colour: str, title: str, label: str) -> Panel:
    edges, counts = histogram

    def paint(axes: Axes) -> None:
        axes.stairs(counts, edges, fill=True, color=LIGHT[colour], alpha=0.35)
        axes.stairs(counts, edges, color=LIGHT[colour], linewidth=1.2, label="coordinates")
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(0, 1.25 * max(*counts, 1))
        number_axis(axes, "x")
        number_axis(axes, "y")
        axes.set_xlabel(label)
        axes.set_ylabel("coordinates")

    return paint_panel(paint, title=title)


def _histogram(content: Any) -> tuple[list[float], list[float]] | None:
    """Return (edges, counts), or None where the content is no histogram."""
    if not isinstance(content, Mapping):
        return None
    edges = [number(v) for v in content.get("bin_edges") or ()]
    counts = [number(v) for v in content.get("counts") or ()]
    if len(counts) < 2 or len(edges) != len(counts) + 1:
        return None
    clean = [v for v in (*edges, *counts) if v is not None]
    return (clean[: len(edges)], clean[len(edges) :]) if len(clean) == len(edges) + len(counts) else None


def _flatness(counts: list[float]) -> tuple[bool, float]:
    """Compare Pearson's χ² of equal bins with its mean k − 1, in standard deviations √(2(k − 1))."""
    expected = sum(counts) / len(counts)
    if expected == 0:
        return False, math.inf
    chi_square = sum((count - expected) ** 2 for count in counts) / expected
    freedom = len(counts) - 1
    deviations = (chi_square - freedom) / math.sqrt(2 * freedom)
    return deviations <= _ALARM_DEVIATIONS, deviations
