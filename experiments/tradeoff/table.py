"""The results as a table in the README, and in words: every method at every ε, and who is best there.

python -m experiments.tradeoff.table      # writes the README's tables again, from the results alone
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.results import into_readme
from experiments.tradeoff.findings import (
    CHANCE,
    FEW,
    LEAST_REPETITIONS,
    MODES,
    SIMPLE,
    TSTR,
    Curve,
    Record,
    epsilons,
    fid_key,
    finding,
    gaps,
    home,
    simpler_wins,
)
from secure_fed_diffusion.reporting.tradeoff import Cell, summarise

HERE = Path(__file__).parent
PROTOTYPES = "prototype_accuracy"


def markdown(results: Mapping[str, Any]) -> str:
    """Return the tables and the sentences that the records support."""
    records: Sequence[Record] = results["records"]
    near, columns = home(records), epsilons(home(records))
    curves = [curve for curve in (*MODES, *SIMPLE) if any(r["mode"] == curve.mode for r in near)]
    lines = [
        f"{finding(records)}.",
        "",
        f"`{results['command']}` at commit {results['commit']}, {results['machine']}: "
        f"{results['minutes_of_all_cells_one_after_another']:.0f} minutes of computing, "
        "all cells one after another.",
        "",
        "| accuracy on real test images | unit | view | "
        + " | ".join(f"ε = {e:g}" for e in columns)
        + " | ε = ∞ |",
        "|---|---|---|" + "---|" * (len(columns) + 1),
    ]
    tops = {
        e: max((c.mean for curve in curves if (c := _cell(near, curve, e))), default=None) for e in columns
    }
    for curve in curves:
        shown = []
        for epsilon in columns:
            cell = _cell(near, curve, epsilon)
            text = _share(cell)
            shown.append(f"**{text}**" if cell and cell.mean == tops[epsilon] else text)
        facts = next(r for r in near if r["mode"] == curve.mode)
        lines.append(
            f"| {curve.label}{'' if curve.simple else ', TSTR'} | {facts['unit']} | {facts['view']} | "
            + " | ".join([*shown, _share(_cell(near, curve, None))])
            + " |"
        )
    none = summarise([r for r in near if r["mode"] == "none"], "none", None, TSTR)
    lines.append("| none, TSTR | – | – | " + " | ".join(["–"] * len(columns) + [_share(none)]) + " |")
    lines += ["", "Bold: the best at that ε. Means, ± half of a 95 % t-interval where a cell was repeated."]
    lines += ["", *_other_figures(near, curves, columns)]
    lines += _simpler(records)
    found = gaps(records)
    if len({n for _, n in found}) > 1:
        lines += [
            "",
            "| distributed minus local | ε | TSTR, points | FID | seeds |",
            "|---|---|---|---|---|",
        ]
        of_fid = gaps(records, fid_key(records) or "fid")
        lines += [
            f"| {n} clients | {epsilon:g} | {_signed(cell, 100)} | {_signed(of_fid.get((epsilon, n)))} | "
            f"{cell.repetitions} |"
            for (epsilon, n), cell in found.items()
        ]
    return "\n".join(lines)


def _simpler(records: Sequence[Record]) -> list[str]:
    """Return a line an ε at which a simpler method has the better mean, in accuracy or in FID."""
    wins, in_fid = simpler_wins(records), simpler_wins(records, fid_key(records) or "fid")
    lines, marks = [], ""
    for epsilon in sorted({*wins, *in_fid}):
        said = []
        for found, wording, form in (
            (wins.get(epsilon), "simpler is more accurate", ".1%"),
            (in_fid.get(epsilon), "simpler has the lower FID", ".1f"),
        ):
            if found:
                marks += "".join(found.mark(curve, cell) for curve, cell in found.methods)
                methods = ", ".join(
                    f"{curve.label} {cell.mean:{form}}{found.mark(curve, cell)}"
                    for curve, cell in found.methods
                )
                said.append(f"{wording}: {methods}; best mode: {found.mode.label} {found.cell.mean:{form}}")
        lines += ["", f"At ε = {epsilon:g} {'. And '.join(said)}."]
    notes = {
        FEW: f"\\{FEW} fewer than {LEAST_REPETITIONS} runs of the method or of the mode: no interval.",
        CHANCE: f"{CHANCE} the better mean alone: Welch's test does not tell the method from each of "
        "the modes central, distributed and local at 5 % (each comparison for itself).",
    }
    for mark in notes:
        if mark in marks:
            lines += ["", notes[mark]]
    return lines


def _other_figures(records: Sequence[Record], curves: Sequence[Curve], columns: Sequence[float]) -> list[str]:
    """Return what else was measured: images, prototypes, and what attacks on the released models found."""
    lines = [
        "| images of | ε | FID | nearest prototype | membership AUC | audited lower bound of ε |",
        "|---|---|---|---|---|---|",
    ]
    fid = fid_key(records) or "fid"
    drawn = [(curve.label, curve.mode, e) for curve in curves if curve.key == TSTR for e in (*columns, None)]
    for label, mode, epsilon in [*drawn, ("none", "none", None)]:
        same = [r for r in records if r["mode"] == mode and r["epsilon"] == epsilon]
        if not same:
            continue
        found, prototypes = summarise(same, mode, epsilon, fid), summarise(same, mode, epsilon, PROTOTYPES)
        shown = [
            label,
            "∞" if epsilon is None else f"{epsilon:g}",
            _plain(found),
            _share(prototypes),
            ", ".join(map(_auc, filter(_attacked, same))) or "–",
            ", ".join(map(_bound, filter(_audited, same))) or "–",
        ]
        lines.append(f"| {' | '.join(shown)} |")
    return [
        *lines,
        "",
        "Membership AUC: the loss-threshold attack on one released model, 95 % interval over images; 0.5 is "
        "chance. Audited: what a run's canaries prove, with the confidence and in the view named, of the ε "
        "spent in the view of its mode (table above), which bounds the audited view too. 0 proves nothing.",
    ]


def _attacked(record: Record) -> bool:
    return record.get("membership_auc") is not None


def _auc(record: Record) -> str:
    low, high = record["membership_auc_low"], record["membership_auc_high"]
    return f"{record['membership_auc']:.2f} ({low:.2f} to {high:.2f})"


def _audited(record: Record) -> bool:
    return record.get("audited_epsilon") is not None


def _bound(record: Record) -> str:
    confidence = f"{record['audited_confidence']:.0%}, {record['audited_view']}"
    return f"{record['audited_epsilon']:.2f} of {record['epsilon_spent']:.2f} ({confidence})"


def _signed(cell: Cell | None, unit: float = 1.0) -> str:
    if cell is None:
        return "–"
    spread = "" if cell.half_width is None else f" ± {unit * cell.half_width:.1f}"
    return f"{unit * cell.mean:+.1f}{spread}"


def _plain(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    return f"{cell.mean:.1f}" + ("" if cell.half_width is None else f" ± {cell.half_width:.1f}")


def _cell(records: Sequence[Record], curve: Curve, epsilon: float | None) -> Cell | None:
    return summarise(records, curve.mode, epsilon, curve.key)


def _share(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    spread = "" if cell.half_width is None else f" ± {100 * cell.half_width:.1f}"
    return f"{100 * cell.mean:.1f} %{spread}"


if __name__ == "__main__":
    for mark, name in (("results", "results.json"), ("quick", "quick_results.json")):
        if (HERE / name).exists():
            results = json.loads((HERE / name).read_text(encoding="utf-8"))
            into_readme(HERE / "README.md", mark, markdown(results))
