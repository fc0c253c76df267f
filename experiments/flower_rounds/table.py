"""The README's result: its finding, its table and its figure, from `results.json` alone."""

from __future__ import annotations

from statistics import mean
from typing import Any

from experiments.flower_rounds import figure

SPREAD_OVER = (10, 15, 20, 50)
HEAD = (
    "| workload | variant | exchanges | seconds (least–largest) | times plain | training | Flower's start "
    "| waiting | mod | server | set-up's share | kB down, up |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|\n"
)


def rows(document: dict[str, Any]) -> str:
    """Return the table: means over the repetitions, seconds along the last client of each exchange."""
    written = HEAD
    for workload in figure.WORKLOADS:
        plain = figure.summary(document, workload, "plain")
        for variant, name in figure.NAMES.items():
            found = figure.summary(document, workload, variant)
            if not found or not plain:
                continue
            records = [r for r in document["records"] if (r["workload"], r["variant"]) == (workload, variant)]
            clients = records[0]["clients"]
            cells = [
                workload,
                name,
                str(records[0]["exchanges"]),
                f"{found['whole']:.1f} ({found['least']:.1f}–{found['largest']:.1f})",
                f"{found['whole'] / plain['whole']:.2f}",
                *(f"{found[part]:.1f}" for part in ("compute", "start", "wait")),
                *(f"{found[part]:.2f}" for part in ("crypto", "server", "setup")),
                ", ".join(
                    f"{mean(r[key] for r in records) / clients / 1000:.0f}"
                    for key in ("bytes_down", "bytes_up")
                ),
            ]
            written += f"| {' | '.join(cells)} |\n"
    return written


def amortised(document: dict[str, Any]) -> str:
    """Say what the multi-round profile takes where a set-up pays for more rounds, or for none."""
    said = []
    for workload in figure.WORKLOADS:
        plain, ours = (figure.summary(document, workload, variant) for variant in ("plain", "multi_round"))
        if not (plain and ours):
            continue
        setup = ours["setup"] * document["setup_rounds"]
        times = (
            f"{(ours['whole'] - ours['setup'] + setup / n) / plain['whole']:.2f} at {n}" for n in SPREAD_OVER
        )
        said.append(f"{workload}: {', '.join(times)}")
    rounds = "Times plain FedAvg, by the number of rounds that one set-up pays for"
    return f"{rounds} (its {setup:.1f} s were measured, the share is arithmetic): {'; '.join(said)}.\n"


def markdown(document: dict[str, Any]) -> str:
    """Return the finding, the table, what a set-up costs over more rounds, and the figure."""
    said = figure.finding(document).replace("\n", ".\n")
    parts = [
        f"**Result.** {said}.\n",
        rows(document),
        amortised(document),
        "![Seconds by part](figure.png)\n",
    ]
    return "\n".join(parts)
