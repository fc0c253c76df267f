"""Writes one page for several runs: a table, curves, samples beside each other, differences of settings.

As a run's own report it is one file that opens offline, and shows what the runs wrote without checking it.
What a run's `attacks.json` holds is private and is never on this page.

    write_comparison([Path("runs/a"), Path("runs/b")], Path("comparison.html"))
"""

from __future__ import annotations

import base64
import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import t as student_t

from secure_fed_diffusion.dp.realised import SPENT_ASSUMPTION
from secure_fed_diffusion.reporting import wording
from secure_fed_diffusion.reporting.compare_figures import course_figure, spending_figure
from secure_fed_diffusion.reporting.html import choose_grids
from secure_fed_diffusion.reporting.page import render_page, save_page
from secure_fed_diffusion.reporting.run_set import SEEDS, Member, RunSet, read_runs

_MOST_IMAGES = 90  # of all runs together; a page of more is too heavy for a phone
_MOST_BESIDE = 45


def write_comparison(paths: Sequence[Path], target: Path) -> Path:
    """Write the page of all runs at or below the paths, and return its path.

    Raises: RunError when a path holds no run, or no run can be read.
    """
    return save_page(render_comparison(read_runs(paths)), target)


def render_comparison(found: RunSet) -> str:
    """Return several runs as one HTML document."""
    members = found.members
    metrics = list(dict.fromkeys(key for m in members for key in m.run.metrics))
    promises = _promises(found)
    repeated = any(len(group) > 1 for group in found.groups())
    samples = _samples(found)
    return render_page(
        "compare.html.j2",
        title=_title(found),
        subtitle=_subtitle(members),
        unprotected=_unprotected(members),
        unfinished=[m.label for m in members if not m.run.finished],
        left_out=found.left_out,
        members=members,
        budgets=found.budgets,
        promises=promises,
        largest=max((row["epsilon"] for row in promises), default=None),
        strength=wording.strength(max((row["epsilon"] for row in promises), default=0.0)),
        meaning=_meaning(members) if len(promises) == 1 else None,
        columns=["run", "ε spent", "clients", *map(wording.metric_name, metrics), "sent up", "time"],
        rows=[_row(m, metrics, order) for order, m in enumerate(members)],
        groups=[_group_row(g, metrics, i) for i, g in enumerate(found.groups())] if repeated else [],
        table_caption=_floors(members),
        table_uri=_table_uri(members, metrics),
        spending=spending_figure(found),
        courses=[
            (budget, figure)
            for budget in (found.budgets or ["inf"])
            if (figure := course_figure(found, budget)) is not None
        ],
        samples=samples,
        samples_note=_samples_note(found, len(samples)),
        differences=_differences(found),
    )


def _title(found: RunSet) -> str:
    modes = list(dict.fromkeys(m.run.mode for m in found.members))
    at = f" at ε = {', '.join(found.budgets)}" if found.budgets else ""
    kind = "modes" if len(modes) > 1 else "mode"
    return f"{wording.count_text(len(found.members), 'run')}, {kind} {', '.join(modes)}{at}"


def _subtitle(members: Sequence[Member]) -> str:
    data = dict.fromkeys(m.settings.get("data.name", "") for m in members)
    clients = sorted({m.clients for m in members if m.clients is not None})
    words = [f"data: {', '.join(filter(None, data))}"] if any(data) else []
    words += [f"clients: {', '.join(map(str, clients))}"] if clients else []
    return "; ".join(words)


def _unprotected(members: Sequence[Member]) -> str:
    bare = [m.label for m in members if m.epsilon is None and (m.run.mode == "none" or not m.run.begun_alone)]
    if not bare:
        return ""
    names = "”, “".join(bare[:6]) + (f" and {len(bare) - 6} more" if len(bare) > 6 else "")
    return f"Without any privacy guarantee, as a baseline: {'runs' if len(bare) > 1 else 'run'} “{names}”."


def _promises(found: RunSet) -> list[dict[str, Any]]:
    """Return one row for each budget, unit, relation, view and δ, with the largest ε promised to its runs."""
    rows: dict[tuple[Any, ...], list[Member]] = {}
    for m in found.members:
        if m.guarantee is not None:
            terms = (m.run.fact("unit"), m.run.fact("relation"), m.run.guard_view or "", m.run.fact("delta"))
            rows.setdefault((m.budget_key, *terms), []).append(m)
    return [
        {
            "budget": budget,
            "labels": ", ".join(dict.fromkeys(m.run.mode for m in group)),
            "epsilon": (epsilon := max(m.guarantee or 0.0 for m in group)),
            "unit": unit,
            "relation": relation or "relation not stated",
            "view": view,
            "delta": delta,
            "adversary": wording.adversary(view),
            "guess": wording.guess_text(epsilon, delta),
        }
        for (budget, unit, relation, view, delta), group in sorted(rows.items(), key=_budget_of)
    ]


def _budget_of(row: tuple[tuple[Any, ...], list[Member]]) -> float:
    return float(row[0][0])


def _meaning(members: Sequence[Member]) -> str:
    worst = max((m for m in members if m.guarantee is not None), key=lambda m: m.guarantee or 0.0)
    return wording.meaning(
        worst.guarantee or 0.0,
        delta=worst.run.fact("delta"),
        unit=worst.run.fact("unit"),
        relation=worst.run.fact("relation"),
        view=worst.run.guard_view or "",
    )


def _cell(value: Any, text: str) -> dict[str, Any]:
    return {"value": wording.number(value), "text": text}


def _metric_cell(key: str, value: Any) -> dict[str, Any]:
    return _cell(value, wording.metric_value(key, value))


def _sent(member: Member) -> float | None:
    total = wording.number(member.run.summary.get("bytes_up"))
    lines = [wording.number(line.get("bytes_up")) for line in member.run.rounds]
    known = [value for value in lines if value is not None]
    return total if total is not None else sum(known) if known else None


def _epsilon_cell(value: float | None) -> dict[str, Any]:
    # no guarantee sorts above every ε
    return {"value": 1e99 if value is None else value, "text": wording.epsilon_text(value)}


def _row(member: Member, metrics: Sequence[str], order: int) -> dict[str, Any]:
    seconds, sent = member.run.fact("seconds"), _sent(member)
    seconds = seconds if wording.number(seconds) is not None else None
    cells = [_epsilon_cell(member.epsilon), _cell(member.clients, str(member.clients or "–"))]
    cells += [_metric_cell(key, member.run.metrics.get(key)) for key in metrics]
    cells += [_cell(sent, wording.bytes_text(sent)), _cell(seconds, wording.minutes_text(seconds))]
    notes = [] if member.place == member.run.mode else [member.place]
    notes += [] if member.run.finished else ["not finished"]
    notes += [member.run.alarm] if member.run.alarm else []
    return {
        "label": member.label,
        "note": ", ".join(notes),
        "budget": member.budget_key,
        "order": order,
        "cells": cells,
    }


def _group_row(group: Sequence[Member], metrics: Sequence[str], order: int) -> dict[str, Any]:
    first = group[0]
    spent = [m.epsilon for m in group if m.epsilon is not None]
    cells = [
        _epsilon_cell(max(spent) if len(spent) == len(group) else None),
        _cell(first.clients, str(first.clients or "–")),
    ]
    for key in metrics:
        mean, half = _mean_interval([m.run.metrics[key] for m in group if key in m.run.metrics])
        cell = _metric_cell(key, mean)
        if half is not None:
            text = f"{100 * half:.1f}" if wording.is_share(key) else wording.figure_text(half)
            cell["text"] = (
                f"{cell['text'].removesuffix(' %')} ± {text}{' %' if wording.is_share(key) else ''}"
            )
        cells.append(cell)
    for values, show in (
        ([_sent(m) for m in group], wording.bytes_text),
        ([wording.number(m.run.fact("seconds")) for m in group], wording.minutes_text),
    ):
        mean, _ = _mean_interval([value for value in values if value is not None])
        cells.append(_cell(mean, show(mean)))
    label = " · ".join(
        part for part in first.label.split(" (")[0].split(" · ") if not part.startswith("seed ")
    )
    return {
        "label": label,
        "note": wording.count_text(len(group), "run"),
        "budget": first.budget_key,
        "order": order,
        "cells": cells,
    }


def _mean_interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the mean and half of its 95 % t-interval, None where there is none."""
    if len(values) < 2:
        return (values[0] if values else None), None
    spread = statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values), float(student_t.ppf(0.975, len(values) - 1)) * spread


def _floors(members: Sequence[Member]) -> str:
    floors = {
        m.run.fid_key: m.run.fid_floor for m in members if m.run.fid_key and m.run.fid_floor is not None
    }
    words = [f"{wording.metric_name(str(key))} {wording.figure_text(value)}" for key, value in floors.items()]
    told = f" Floors, real images against real ones: {', '.join(words)}." if words else ""
    return f"ε in each run's guarded view, {SPENT_ASSUMPTION}; time on each run's own machine.{told}"


def _table_uri(members: Sequence[Member], metrics: Sequence[str]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    terms = ["mode", "budget", "epsilon", "delta", "unit", "relation", "view", "clients", "finished"]
    writer.writerow(["run", *terms, *metrics, "bytes_up", "seconds"])
    for m in members:
        said = [m.run.mode, m.budget_key, m.epsilon, *map(m.run.fact, ("delta", "unit", "relation"))]
        said += [m.run.guard_view, m.clients, m.run.finished]
        measured = [m.run.metrics.get(key) for key in metrics]
        writer.writerow([m.label, *said, *measured, _sent(m), wording.number(m.run.fact("seconds"))])
    return f"data:text/csv;base64,{base64.b64encode(stream.getvalue().encode()).decode()}"


def _samples(found: RunSet) -> list[dict[str, Any]]:
    """Return the grids of the runs; of repeated settings the first run's alone where all are too many."""
    drawn = [m for m in found.members if m.run.samples]
    if len(drawn) > _MOST_BESIDE:
        firsts = {group[0].label for group in found.groups()}
        drawn = [m for m in drawn if m.label in firsts][:_MOST_BESIDE]
    each = max(1, min(24, _MOST_IMAGES // max(1, len(drawn))))
    return [{"label": m.label, "budget": m.budget_key, "grids": choose_grids(m.run, each)} for m in drawn]


def _samples_note(found: RunSet, shown: int) -> str:
    have = sum(1 for m in found.members if m.run.samples)
    return f"{shown} of the {have} runs with samples are shown." if shown < have else ""


def _differences(found: RunSet) -> Mapping[str, Any]:
    """Return the differing settings as a table, its longer side downwards."""
    keys = [key for key in found.differing if key not in SEEDS] + [k for k in found.differing if k in SEEDS]
    members = found.members
    everything = {key for m in members for key in m.settings}
    facts = {"n_keys": len(keys), "all_keys": len(everything)}
    if len(keys) > len(members):
        rows = [[key, *(m.settings.get(key, "–") for m in members)] for key in keys]
        return {"columns": ["key", *(m.label for m in members)], "rows": rows, **facts}
    rows = [[m.label, *(m.settings.get(key, "–") for key in keys)] for m in members] if keys else []
    return {"columns": ["run", *keys], "rows": rows, **facts}
