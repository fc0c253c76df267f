"""Draw the growth of a round's cost beside log n, from `results.json` alone."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure as Canvas

from secure_fed_diffusion.reporting.plotting import LIGHT, STYLE

Record = dict[str, Any]


def overhead_bytes(record: Record) -> float:
    """Return what a client sends and is sent beyond its packed vector."""
    beyond: float = record["client_bytes_up"] + record["client_bytes_down"] - record["vector_bytes"]
    return beyond


PANELS: tuple[tuple[str, str, float, Callable[[Record], float]], ...] = (
    ("A client's steps (ms)", "blue", 1e3, lambda r: r["client_seconds"]),
    ("A client sends and is sent,\nbeyond its vector (kB)", "green", 1e-3, overhead_bytes),
    ("The server, per client (ms)", "vermillion", 1e3, lambda r: r["server_seconds"] / r["clients"]),
)


def finding(records: list[Record]) -> str:
    """Say by how much each cost grew over the last factor of ten, or between the ends."""
    last = records[-1]
    first = min(records, key=lambda r: abs(math.log(10 * r["clients"] / last["clients"])))
    times = last["clients"] / first["clients"]
    logs = math.log(last["clients"]) / math.log(first["clients"])
    grown = [value(last) / value(first) for _, _, _, value in PANELS]
    return (
        f"{times:.0f} times the clients ({first['clients']:,} to {last['clients']:,}): a client's steps take "
        f"{grown[0]:.2f} times as long and send {grown[1]:.2f} times as much,\n"
        f"the server works {grown[2] * times:.1f} times as long; "
        f"log n grows {logs:.2f} times, n log n {times * logs:.1f} times"
    )


def draw(results: Path, out: Path) -> Path:
    """Write the figure as PNG and SVG; return the PNG's path."""
    document = json.loads(results.read_text(encoding="utf-8"))
    records = sorted(
        (r for r in document["records"] if r["measured"] == "growth"), key=lambda r: r["clients"]
    )
    with mpl.rc_context({**STYLE, "svg.fonttype": "path", "svg.hashsalt": "secagg_scale"}):
        canvas = Canvas(figsize=(10.2, 3.9), layout="constrained")
        canvas.suptitle(finding(records), fontsize=10.5, color=LIGHT["ink"])
        clients = [r["clients"] for r in records]
        anchor = next((r for r in records if r["clients"] >= 1000), records[-1])
        for axes, (label, colour, unit, value) in zip(canvas.subplots(1, 3), PANELS, strict=True):
            logs = [unit * value(anchor) * math.log(n) / math.log(anchor["clients"]) for n in clients]
            axes.plot(clients, logs, "--", color=LIGHT["muted"], label="c · log n")
            axes.plot(clients, [unit * value(r) for r in records], "o-", color=LIGHT[colour])
            for r in records:
                axes.annotate(
                    f"k={r['neighbours']}",
                    (r["clients"], unit * value(r)),
                    xytext=(0, -13),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                    color=LIGHT["muted"],
                )
            axes.set_xscale("log")
            axes.set_xticks(clients, [f"{n:,}" for n in clients])
            axes.minorticks_off()
            axes.set_ylim(bottom=0, top=1.1 * axes.get_ylim()[1])
            axes.set_xlabel("clients")
            axes.set_ylabel(label)
            axes.grid(color=LIGHT["grid"])
            axes.legend(frameon=False, loc="lower right")
        canvas.savefig(out, dpi=180, facecolor="white", metadata={"Software": None})
        canvas.savefig(out.with_suffix(".svg"), facecolor="white", metadata={"Date": None, "Creator": None})
    return out
