"""The scenarios as a table in the README, from the results alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.federated_scenarios.figure import (
    PROTOTYPES,
    TSTR,
    Line,
    Record,
    finding,
    key_of,
    lines,
)
from secure_fed_diffusion.reporting.tradeoff import Cell


def markdown(results: Mapping[str, Any], picture: str) -> str:
    """Return the finding, how it was measured, one row a scenario, and the figure."""
    records: Sequence[Record] = results["records"]
    fid = key_of(records, "fid") or "fid"
    floors = [float(r[key]) for r in records for key in [fid.replace("fid_", "fid_floor_")] if r.get(key)]
    floor = f"; real images {floors[0]:.3g}" if floors else ""
    rows = [_row(line, fid) for line in lines(records)]
    return "\n".join(
        [
            f"{finding(records)}.",
            "",
            f"`{results['command']}` at commit {results['commit']}, {results['machine']}: "
            f"{results['minutes_of_all_cells_one_after_another']:.0f} minutes of computing, "
            "all cells one after another.",
            "",
            f"| what it shows | scenario | runs | TSTR, CNN | nearest prototype | FID "
            f"({fid.removeprefix('fid_')}{floor}) | MB moved | minutes |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            "Means over seeds, ± half of a 95 % t-interval where there are several; of hospitals alone, "
            "the mean over the measured ones.",
            "",
            f"![One line a scenario]({picture})",
        ]
    )


def _row(line: Line, fid: str) -> str:
    cells = [
        _text(line.cell(TSTR), 100, " %"),
        _text(line.cell(PROTOTYPES), 100, " %"),
        _text(line.cell(fid), 1, ""),
        f"{line.megabytes:.0f}",
        f"{line.minutes:.1f}",
    ]
    return f"| {line.group} | {line.label} | {len(line.records)} | {' | '.join(cells)} |"


def _text(cell: Cell | None, factor: float, unit: str) -> str:
    if cell is None:
        return "–"
    spread = "" if cell.half_width is None else f" ± {factor * cell.half_width:.1f}"
    return f"{factor * cell.mean:.1f}{unit}{spread}"
