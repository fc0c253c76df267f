"""Draws several runs in one figure: what each bought for its ε, and how it got there by round.

A line is one setting (mode and whatever else differs, but ε and seeds): the mean over its repetitions, each
run as a point.  Lines differ in colour, in dash and in marker.  ε of different modes are for different views
and units: the captions say so, and no figure ranks runs whose units differ.

    figure = spending_figure(read_runs([Path("runs/a"), Path("runs/b")]))
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from secure_fed_diffusion.evaluation import names
from secure_fed_diffusion.reporting.plotting import (
    LIGHT,
    Figure,
    Key,
    Panel,
    number_axis,
    paint_panel,
    percent_axis,
)
from secure_fed_diffusion.reporting.run_set import Member, RunSet, series_label
from secure_fed_diffusion.reporting.series import Series, epsilon_series, round_axis, round_series
from secure_fed_diffusion.reporting.wording import figure_text, is_share, metric_name, percent_text

_COLOURS = ("blue", "vermillion", "green", "purple", "orange", "sky", "ink")
_DASHES = ("", "6 2", "2 1.6", "7 2 2 2", "10 2")
_MARKERS = "osD^vPX"
_MOST_LINES = 21
_MOST_METRICS = 4
_OTHER_PROMISES = "An ε of another unit or view is another promise: the table below names both."

Line = tuple[str, tuple[Member, ...]]


def spending_figure(found: RunSet) -> Figure | None:
    """Draw each metric against the ε that was spent, the baseline as a level."""
    lines = _lines(found)
    keys = _metric_keys(found.members)
    panels = tuple(panel for key in keys if (panel := _spending_panel(lines, key)) is not None)
    if not panels:
        return None
    cut = len(found.groups(over_epsilon=True)) - len(lines)
    at = (
        " at the ε that it spent in its own guarded view; a line joins the means of one setting's budgets"
        " (the table of settings has what else goes with ε), a level is a run without privacy"
        if len(found.budgets) > 1
        else ""
    )
    return Figure(
        name="utility_by_epsilon",
        title=finding(found, keys),
        caption=f"Each point is a run{at}. {_OTHER_PROMISES}{_cut(cut)}",
        panels=panels,
    )


def course_figure(found: RunSet, budget: str) -> Figure | None:
    """Draw each metric and ε by round for the runs of one budget, with the baseline."""
    lines = [
        (label, kept)
        for label, members in _lines(found)
        if (kept := tuple(m for m in members if m.budget_key in (budget, "inf")))
    ]
    if all(m.budget_key == "inf" for _, members in lines for m in members) and budget != "inf":
        return None
    panels = []
    for key in _metric_keys(found.members):
        series = {label: _mean([round_series(m.run).get(key, ([], [])) for m in ms]) for label, ms in lines}
        panel = _course_panel(found, series, metric_name(key), share=is_share(key))
        panels += [panel] if panel else []
    spent = {
        label: _mean([_guarded(m) for m in ms])
        for label, ms in lines
        if all(m.run.mode != "none" for m in ms)
    }
    panel = _course_panel(found, spent, "ε spent in the guarded view", share=False)
    panels += [panel] if panel else []
    if not panels:
        return None
    at = "Round by round" if budget == "inf" else f"Round by round, runs with a budget of ε = {budget}"
    most = max((len(ms) for _, ms in lines), default=1)
    means = " Lines are means over repetitions." if most > 1 else ""
    return Figure(
        name=f"rounds_{budget}",
        title=at,
        caption=f"A round of one mode may be one step, of another a whole local epoch.{means}",
        panels=tuple(panels),
    )


def finding(found: RunSet, keys: Sequence[str]) -> str:
    """Say what the runs reached, by their first metric, at the largest budget; no more than five of them."""
    key = keys[0]
    budget = found.budgets[-1] if found.budgets else "inf"
    parts = []
    for label, members in _lines(found):
        values = _values([m for m in members if m.budget_key in (budget, "inf")], key)
        if values:
            mean = statistics.fmean(values)
            parts.append(f"{label} {percent_text(mean) if is_share(key) else figure_text(mean)}")
    more = f" and {len(parts) - 5} more" if len(parts) > 5 else ""
    at = "" if budget == "inf" else f" at ε ≤ {budget}"
    return f"{metric_name(key)}{at}: {', '.join(parts[:5])}{more}"


def _lines(found: RunSet) -> list[Line]:
    groups = found.groups(over_epsilon=True)[:_MOST_LINES]
    return [(series_label(group[0], found), group) for group in groups]


def _cut(number: int) -> str:
    return f" {number} more settings are in the table alone." if number > 0 else ""


def _metric_keys(members: Sequence[Member]) -> list[str]:
    """Return at most four metrics of the runs, the accuracy of a classifier trained on samples first."""
    keys = dict.fromkeys(key for member in members for key in member.run.metrics)
    order = ("tstr", names.PROTOTYPE_ACCURACY, "fid", "kid")
    return sorted(keys, key=lambda key: _place(order, names.family(key)))[:_MOST_METRICS]


def _place(order: Sequence[str], family: str | None) -> int:
    return order.index(family) if family in order else len(order)


def _values(members: Sequence[Member], key: str) -> list[float]:
    return [member.run.metrics[key] for member in members if key in member.run.metrics]


def _style(index: int) -> dict[str, Any]:
    dash = _DASHES[index % len(_DASHES)]
    return {
        "color": LIGHT[_COLOURS[index % len(_COLOURS)]],
        "linestyle": (0, tuple(float(part) for part in dash.split())) if dash else "-",
    }


def _key(label: str, index: int) -> Key:
    return Key(
        label=label,
        colour=_COLOURS[index % len(_COLOURS)],
        dash=_DASHES[index % len(_DASHES)],
        marker=_marker(index),
    )


def _marker(index: int) -> str:
    return _MARKERS[index % len(_MARKERS)]


def _spending_panel(lines: Sequence[Line], key: str) -> Panel | None:
    drawn = [(i, label, members) for i, (label, members) in enumerate(lines) if _values(members, key)]
    if not drawn:
        return None
    budgets = sorted({float(m.budget_key) for _, _, ms in drawn for m in ms if m.budget_key != "inf"})
    keys = tuple(_key(label, index) for index, label, _ in drawn)
    name = metric_name(key)
    if len(budgets) < 2:
        return paint_panel(lambda axes: _paint_row(axes, drawn, key), title=name, keys=keys)

    def paint(axes: Axes) -> None:
        for index, label, members in drawn:
            _paint_line(axes, index, label, [m for m in members if key in m.run.metrics], key)
        axes.set_xscale("log")
        axes.set_xlim(budgets[0] / 1.6, budgets[-1] * 1.3)
        axes.set_xticks(budgets, [f"{budget:g}" for budget in budgets])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("ε spent")
        _value_axis(axes, key)

    return paint_panel(paint, title=f"{name}, against ε", keys=keys)


def _paint_row(axes: Axes, drawn: Sequence[tuple[int, str, tuple[Member, ...]]], key: str) -> None:
    """Draw settings of one budget side by side: their ε are equal, so no axis is spent on it."""
    for at, (index, label, members) in enumerate(drawn):
        values = _values(members, key)
        colour = LIGHT[_COLOURS[index % len(_COLOURS)]]
        axes.plot([at] * len(values), values, _marker(index), color=colour, label=label, markersize=7.5)
    axes.set_xlim(-0.6, len(drawn) - 0.4)
    axes.set_xticks([])
    axes.set_xlabel("settings, in the order of the legend")
    _value_axis(axes, key)


def _paint_line(axes: Axes, index: int, label: str, members: Sequence[Member], key: str) -> None:
    style = _style(index)
    private = [m for m in members if m.epsilon is not None]
    if not private:
        level = statistics.fmean(_values(members, key))
        axes.axhline(level, label=label, linewidth=1.2, **style)
        return
    by_budget: dict[str, list[tuple[float, float]]] = {}
    for m in private:
        by_budget.setdefault(m.budget_key, []).append((m.epsilon or 0.0, m.run.metrics[key]))
    means = [tuple(map(statistics.fmean, zip(*group, strict=True))) for group in by_budget.values()]
    if len(means) > 1:
        axes.plot(*zip(*sorted(means), strict=True), label="_mean", linewidth=1.4, **style)
    points = [point for group in by_budget.values() for point in group]
    marker = _marker(index)
    axes.plot(*zip(*points, strict=True), marker, color=style["color"], label=label, markersize=6.5)


def _course_panel(found: RunSet, series: Mapping[str, Series], name: str, *, share: bool) -> Panel | None:
    order = [label for label, _ in _lines(found)]  # one setting has one look in all figures
    drawn = {label: line for label, line in series.items() if line[0]}
    if not drawn:
        return None

    def paint(axes: Axes) -> None:
        for label, line in drawn.items():
            index = order.index(label)
            few = {"marker": _marker(index)} if len(line[0]) <= 25 else {}
            axes.plot(*line, label=label, **_style(index), **few)
        round_axis(axes)
        if share:
            axes.set_ylim(0, 1.02)
            percent_axis(axes)
            axes.set_ylabel(f"{name}, %")
        else:
            values = [value for line in drawn.values() for value in line[1]]
            number_axis(axes, "y", log=min(values) > 0 and max(values) > 8 * min(values))
            axes.set_ylabel(name)

    keys = tuple(_key(label, order.index(label)) for label in drawn)
    return paint_panel(paint, title=f"{name}, by round", keys=keys)


def _value_axis(axes: Axes, key: str) -> None:
    if is_share(key):
        axes.set_ylim(0, 1.02)
        percent_axis(axes)
        axes.set_ylabel(f"{metric_name(key)}, %")
    else:
        low, high = axes.dataLim.intervaly  # the limits have a margin, which may lie below zero
        number_axis(axes, "y", log=low > 0 and high > 8 * low)
        kind = names.WORDS.get(names.family(key) or "", metric_name(key))
        axes.set_ylabel(f"{kind} (lower is better)" if names.is_distance(key) else kind)


def _guarded(member: Member) -> Series:
    view = member.run.guard_view or ""
    tight = epsilon_series(member.run, view, "pld")
    return tight if tight[0] else epsilon_series(member.run, view, "rdp")


def _mean(lines: Sequence[Series]) -> Series:
    """Return the mean of lines over the rounds that all of them have; those without any are left out."""
    full = [dict(zip(*line, strict=True)) for line in lines if line[0]]
    if not full:
        return [], []
    rounds = sorted(set.intersection(*(set(line) for line in full)))
    return rounds, [statistics.fmean(line[x] for line in full) for x in rounds]
