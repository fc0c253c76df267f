"""Draw what each change is worth, from the records alone: one panel an ε, points of TSTR over the recipe."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from experiments.recipe_ablation.table import BASE, Record, effect, epsilons, finding, variants
from secure_fed_diffusion.reporting.plotting import LIGHT, STYLE

WIDTH, LETTERS = 10.0, 120


def compose(records: Sequence[Record]) -> Figure:
    """Return the figure; filled marks are clear of chance, hollow ones are not or were run once."""
    changes = [variant for variant in variants(records) if variant != BASE]
    with mpl.rc_context(STYLE):
        canvas = Figure(figsize=(WIDTH, 1.7 + 0.3 * len(changes)), layout="constrained")
        panels = canvas.subplots(1, len(epsilons(records)), sharey=True, squeeze=False)[0]
        for axes, epsilon in zip(panels, epsilons(records), strict=True):
            axes.axvline(0.0, color=LIGHT["muted"], linewidth=1)
            for height, variant in enumerate(changes):
                found = effect(records, variant, epsilon)
                if found is None:
                    continue
                colour = LIGHT["ink"]
                if found.clear:
                    colour = LIGHT["green" if found.mean > 0 else "vermillion"]
                if found.low is not None and found.high is not None:
                    axes.plot([found.low, found.high], [height, height], color=colour, linewidth=1.2)
                face = colour if found.clear else "white"
                axes.plot(found.mean, height, "o", color=colour, markerfacecolor=face)
            axes.set_title(f"ε = {epsilon:g}", fontsize=10)
            axes.set_xscale("symlog", linthresh=2.0)
            ticks = [-50, -20, -10, -5, -2, -1, 0, 1, 2, 5]
            axes.set_xticks(ticks, [f"{tick:+d}" if tick else "0" for tick in ticks])
            axes.minorticks_off()
            axes.set_xlabel("TSTR over the recipe, points")
            axes.set_yticks(range(len(changes)), changes)
        panels[0].invert_yaxis()
        canvas.suptitle(textwrap.fill(finding(records), LETTERS), fontsize=9.5)
    return canvas


def draw(records: Sequence[Record], out: Path) -> Path:
    """Write the figure of these records."""
    compose(records).savefig(out, dpi=160)
    return out
