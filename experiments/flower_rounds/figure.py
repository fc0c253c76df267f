"""Draw the seconds of a round by part, one panel a workload, from `results.json` alone."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure as Canvas

from secure_fed_diffusion.reporting.plotting import LIGHT, STYLE

NAMES = {
    "plain": "plain FedAvg",
    "secagg_plus": "Flower's SecAgg+",
    "one_round": "ours, one round a set-up",
    "multi_round": "ours, many rounds a set-up",
    "multi_round_active": "the same, active",
}
PARTS = (
    ("compute", "training", "blue", ("compute_seconds",)),
    ("start", "Flower starts a process", "orange", ("start_seconds",)),
    ("wait", "polling and waiting", "sky", ("wait_down_seconds", "wait_up_seconds")),
    ("crypto", "client's mod", "vermillion", ("crypto_seconds",)),
    ("server", "server: its steps, pushing", "green", ("server_seconds", "push_seconds")),
    ("setup", "share of the key set-up", "purple", ("setup_share_seconds",)),
)
WORKLOADS = {"heavy": "a client trains for 6 s", "light": "a client trains for one short epoch"}
Document = dict[str, Any]


def summary(document: Document, workload: str, variant: str) -> dict[str, float] | None:
    """Return the mean parts of a round, with its share of the set-up, and the least and largest whole."""
    chosen = [r for r in document["records"] if (r["workload"], r["variant"]) == (workload, variant)]
    if not chosen:
        return None
    ours = [r for r in document["records"] if r["variant"] == variant]
    setups = [r["setup_seconds"] for r in ours if r["setup_exchanges"]]
    share = mean(setups) / document["setup_rounds"] if setups else 0.0
    rows = [{**r, "setup_share_seconds": share} for r in chosen]
    walls = [r["wall_seconds"] + share for r in rows]
    parts = {part: mean(sum(r[key] for key in keys) for r in rows) for part, _, _, keys in PARTS}
    return {**parts, "whole": mean(walls), "least": min(walls), "largest": max(walls), "rounds": len(walls)}


def ratios(document: Document) -> list[str]:
    """Say for each workload what each variant takes, against plain FedAvg."""
    said = []
    for workload in WORKLOADS:
        plain = summary(document, workload, "plain")
        for variant, name in NAMES.items():
            found = summary(document, workload, variant)
            if found and plain:
                seconds = f"{found['whole']:.1f} s ({found['least']:.1f} to {found['largest']:.1f})"
                times = f"{found['whole'] / plain['whole']:.2f} times plain FedAvg"
                said.append(f"{workload}: {name}: {seconds}, {times}")
    return said


def finding(document: Document) -> str:
    """Say what the multi-round profile costs against plain FedAvg and against SecAgg+."""
    said = []
    for workload, words in WORKLOADS.items():
        plain, ours, theirs = (
            summary(document, workload, v) for v in ("plain", "multi_round", "secagg_plus")
        )
        if plain and ours and theirs:
            times = [one["whole"] / plain["whole"] for one in (ours, theirs)]
            said.append(
                f"Where {words}, a secure round takes {times[0]:.2f} times plain FedAvg, "
                f"SecAgg+ {times[1]:.2f} times"
            )
    return "\n".join(said)


def draw(results: Path, out: Path) -> Path:
    """Write the figure as PNG and SVG; return the PNG's path."""
    document = json.loads(results.read_text(encoding="utf-8"))
    workloads = [w for w in WORKLOADS if any(r["workload"] == w for r in document["records"])]
    with mpl.rc_context({**STYLE, "svg.fonttype": "path", "svg.hashsalt": "flower_rounds"}):
        canvas = Canvas(figsize=(10.2, 3.9), layout="constrained")
        canvas.suptitle(finding(document), fontsize=10.5, color=LIGHT["ink"])
        panels = canvas.subplots(1, len(workloads), sharey=True, squeeze=False)[0]
        for axes, workload in zip(panels, workloads, strict=True):
            rows = [(name, s) for v, name in NAMES.items() if (s := summary(document, workload, v))]
            left = [0.0] * len(rows)
            for part, label, colour, _ in PARTS:
                widths = [s[part] for _, s in rows]
                axes.barh(
                    [n for n, _ in rows], widths, left=left, color=LIGHT[colour], label=label, height=0.62
                )
                left = [a + b for a, b in zip(left, widths, strict=True)]
            whole = [s["whole"] for _, s in rows]
            errors = [
                [s["whole"] - s["least"] for _, s in rows],
                [s["largest"] - s["whole"] for _, s in rows],
            ]
            axes.errorbar(whole, range(len(rows)), xerr=errors, fmt="none", ecolor=LIGHT["ink"], capsize=2)
            axes.invert_yaxis()
            axes.set_xlim(left=0)
            axes.set_xlabel(f"seconds a round; {WORKLOADS[workload]}")
            axes.grid(axis="x", color=LIGHT["grid"])
            axes.set_axisbelow(True)
        handles, labels = panels[0].get_legend_handles_labels()
        canvas.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
        canvas.savefig(out, dpi=180, facecolor="white", metadata={"Software": None})
        canvas.savefig(out.with_suffix(".svg"), facecolor="white", metadata={"Date": None, "Creator": None})
    return out
