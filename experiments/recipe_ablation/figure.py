"""Draw what each change is worth, from the records alone: accuracy and FID against the recipe, at each ε."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.recipe_ablation.table import (
    BASE,
    FID,
    TSTR,
    Effect,
    Record,
    effect,
    epsilons,
    finding,
    variants,
)
from secure_fed_diffusion.reporting.plotting import LIGHT, STYLE

WIDTH, LETTERS = 14.0, 170
WORDS = {TSTR: "TSTR", FID: "FID"}
TICKS = [-50, -20, -5, -2, 0, 2, 5]


def compose(records: Sequence[Record]) -> Figure:
    """Return the figure; filled marks are clear of chance, hollow ones are not or were run once."""
    changes = [variant for variant in variants(records) if variant != BASE]
    columns = [(key, epsilon) for key in (TSTR, FID) for epsilon in epsilons(records)]
    with mpl.rc_context(STYLE):
        canvas = Figure(figsize=(WIDTH, 1.9 + 0.3 * len(changes)), layout="constrained")
        panels = canvas.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        for axes, (key, epsilon) in zip(panels, columns, strict=True):
            _paint(axes, [effect(records, change, epsilon, key) for change in changes], key)
            axes.set_title(f"{WORDS[key]}, ε = {epsilon:g}", fontsize=10)
            axes.set_yticks(range(len(changes)), changes)
        panels[0].invert_yaxis()
        canvas.suptitle(textwrap.fill(finding(records), LETTERS), fontsize=9.5)
    return canvas


def _paint(axes: Axes, effects: Sequence[Effect | None], key: str) -> None:
    axes.axvline(0.0, color=LIGHT["muted"], linewidth=1)
    for height, found in enumerate(effects):
        if found is None:
            continue
        colour = LIGHT["ink"]
        if found.clear:
            colour = LIGHT["green" if (found.mean > 0) == (key == TSTR) else "vermillion"]
        if found.low is not None and found.high is not None:
            axes.plot([found.low, found.high], [height, height], color=colour, linewidth=1.2)
        face = colour if found.clear else "white"
        axes.plot(found.mean, height, "o", color=colour, markerfacecolor=face)
    axes.set_xscale("symlog", linthresh=2.0)
    ticks = TICKS if key == TSTR else [-tick for tick in TICKS]
    axes.set_xticks(ticks, [f"{tick:+d}" if tick else "0" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("points over the recipe" if key == TSTR else "over the recipe; left is better")


def draw(records: Sequence[Record], out: Path) -> Path:
    """Write the figure of these records."""
    compose(records).savefig(out, dpi=160)
    return out
