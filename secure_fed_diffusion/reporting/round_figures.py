"""Draws what a round took: bytes, seconds, and the clients that stayed."""

from __future__ import annotations

import statistics
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from secure_fed_diffusion.reporting.plotting import LIGHT, Figure, Key, Panel, number_axis, paint_panel
from secure_fed_diffusion.reporting.run_folder import RunFolder
from secure_fed_diffusion.reporting.series import key_series, marks, round_axis
from secure_fed_diffusion.reporting.wording import bytes_text, duration_text, number

_MOST_BARS = 120  # more are thinner than a pixel and make the SVG heavy


def cost_figure(run: RunFolder) -> Figure | None:
    """Draw the bytes and the seconds of each round, by part."""
    up, down = (key_series(run.rounds, "round", key) for key in ("bytes_up", "bytes_down"))
    parts = list(dict.fromkeys(part for line in run.rounds for part in line.get("seconds") or {}))
    panels: list[Panel] = []
    findings: list[str] = []
    if up[0] or down[0]:

        def paint_bytes(axes: Axes) -> None:
            sent, received = ((side[0], [v / 1e6 for v in side[1]]) for side in (up, down))
            axes.plot(*sent, color=LIGHT["blue"], label="clients to server", **marks(up))
            dashed = (0, (5, 1.5))
            axes.plot(*received, color=LIGHT["orange"], label="server to clients", linestyle=dashed)
            axes.set_ylim(bottom=0)
            number_axis(axes, "y")
            axes.set_ylabel("MB a round, all clients together")
            round_axis(axes)

        keys = (
            Key(label="clients to server", colour="blue"),
            Key(label="server to clients", colour="orange", dash="5 2"),
        )
        panels.append(paint_panel(paint_bytes, title="Bytes, by round", keys=keys))
        sides = [
            f"{bytes_text(statistics.median(s[1]))} {way}" for s, way in ((up, "up"), (down, "down")) if s[0]
        ]
        findings.append(" and ".join(sides))
    if parts:
        rounds = [float(line["round"]) for line in run.rounds if line.get("seconds")]
        stacks = [
            [number(line["seconds"].get(part)) or 0.0 for line in run.rounds if line.get("seconds")]
            for part in parts
        ]
        colours = [
            ("blue", "green", "orange", "purple", "sky", "vermillion")[i % 6] for i in range(len(parts))
        ]

        def paint_seconds(axes: Axes) -> None:
            base = [0.0] * len(rounds)
            edges = [*(x - 0.5 for x in rounds), rounds[-1] + 0.5]
            for part, stack, colour in zip(parts, stacks, colours, strict=True):
                top = [a + b for a, b in zip(base, stack, strict=True)]
                filled: dict[str, Any] = {"color": LIGHT[colour], "linewidth": 0, "label": part}
                if len(rounds) <= _MOST_BARS:
                    axes.bar(rounds, stack, bottom=base, width=0.85, **filled)
                else:
                    axes.stairs(top, edges, baseline=base, fill=True, **filled)
                base = top
            number_axis(axes, "y")
            axes.set_ylabel("seconds a round")
            round_axis(axes)

        parts_keys = tuple(
            Key(label=part.replace("_", " "), colour=colour, filled=True)
            for part, colour in zip(parts, colours, strict=True)
        )
        panels.append(paint_panel(paint_seconds, title="Seconds, by round and part", keys=parts_keys))
        totals = [sum(stack) for stack in stacks]
        largest = max(range(len(parts)), key=totals.__getitem__)
        a_round = statistics.median(map(sum, zip(*stacks, strict=True)))
        share = (
            f", {100 * totals[largest] / sum(totals):.0f} % of all time in {parts[largest].replace('_', ' ')}"
            if sum(totals)
            else ""
        )
        findings.append(f"{duration_text(a_round)}{share}")
    if not panels:
        return None
    return Figure(
        name="cost",
        title=f"The median round cost {', '.join(findings)}",
        caption="Bytes are those of all frames of a round, seconds wall-clock time on the run's machine.",
        panels=tuple(panels),
    )


def survivors_figure(run: RunFolder) -> Figure | None:
    """Draw how many of each round's cohort survived to the sum."""
    lines = [line for line in run.rounds if line.get("cohort")]
    if not lines:
        return None
    rounds = [float(line["round"]) for line in lines]
    asked = [len(line["cohort"]) for line in lines]
    stayed = [len(line.get("survivors") or ()) for line in lines]
    losses = [i for i in range(len(lines)) if stayed[i] < asked[i]]

    def paint(axes: Axes) -> None:
        dashed: dict[str, Any] = {"linewidth": 1.2, "linestyle": (0, (4, 2))}
        axes.step(rounds, asked, where="mid", color=LIGHT["muted"], label="asked", **dashed)
        axes.step(rounds, stayed, where="mid", color=LIGHT["blue"], label="in the sum")
        axes.plot([rounds[i] for i in losses], [stayed[i] for i in losses], "o", color=LIGHT["vermillion"])
        axes.set_ylim(0, max(asked) + 0.5)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes.set_ylabel("clients")
        round_axis(axes)

    keys = (
        Key(label="asked", colour="muted", dash="4 2"),
        Key(label="in the sum", colour="blue"),
        *((Key(label="someone went missing", colour="vermillion", filled=True),) if losses else ()),
    )
    worst = min(range(len(lines)), key=lambda i: stayed[i] - asked[i])
    return Figure(
        name="survivors",
        title=(
            f"Clients went missing in {len(losses)} of {len(lines)} rounds; each went on, at worst with"
            f" {stayed[worst]} of {asked[worst]}"
            if losses
            else f"Nobody went missing: all {asked[-1]} clients asked were in each sum"
        ),
        caption="Noise shares are calibrated to the fewest honest survivors that the plan allows."
        if run.mode in ("distributed", "client")
        else "A round's sum covers the clients that stayed.",
        panels=(paint_panel(paint, title="Survivors, by round", keys=keys),),
    )
