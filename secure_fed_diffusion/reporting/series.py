"""Picks the lines of a figure out of a run's rounds.

A value that is missing, null or not finite is left out of its line; nothing is interpolated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from secure_fed_diffusion.reporting.run_folder import RunFolder, is_metric
from secure_fed_diffusion.reporting.wording import bound, number, pick

Series = tuple[list[float], list[float]]
"""Two lists of one length: x (a round or an ε) and y."""


def key_series(lines: Sequence[Mapping[str, Any]], x: str, y: str) -> Series:
    """Return the finite values of one key against another."""
    pairs = [(float(line[x]), value) for line in lines if (value := number(line.get(y))) is not None]
    return [a for a, _ in pairs], [b for _, b in pairs]


def epsilon_series(run: RunFolder, view: str, accountant: str) -> Series:
    """Return the ε of one view by round."""
    pairs = [
        (float(line["round"]), value)
        for line in run.rounds
        if (value := pick(line.get("epsilon"), view, accountant)) is not None
    ]
    return [a for a, _ in pairs], [b for _, b in pairs]


def round_series(run: RunFolder) -> dict[str, Series]:
    """Return each metric by round."""
    keys = dict.fromkeys(key for line in run.rounds for key in line if is_metric(key))
    return {key: s for key in keys if (s := key_series(run.rounds, "round", key))[0]}


def spend_series(run: RunFolder) -> dict[str, Series]:
    """Return each metric against the ε of the guarded view, where both are known."""
    found: dict[str, Series] = {}
    for line in run.rounds:
        spent, _ = bound(line.get("epsilon"), run.guard_view)
        for key in filter(is_metric, line):
            value = number(line[key])
            if spent is not None and value is not None:
                xs, ys = found.setdefault(key, ([], []))
                xs.append(spent)
                ys.append(value)
    return found


def merge_equal(lines: list[tuple[str, Series, Series]]) -> list[tuple[list[str], Series, Series]]:
    """Put views of the same cost on one line, which would otherwise hide each other."""
    groups: list[tuple[list[str], Series, Series]] = []
    for view, pld, rdp in lines:
        for views, other, other_rdp in groups:
            mine, theirs = pld if pld[0] else rdp, other if other[0] else other_rdp
            if mine[0] == theirs[0] and all(
                abs(a - b) <= 0.005 * max(a, b) for a, b in zip(mine[1], theirs[1], strict=True)
            ):
                views.append(view)
                break
        else:
            groups.append(([view], pld, rdp))
    return groups


def marks(series: Series) -> dict[str, Any]:
    """Return the style that shows single points where there are few."""
    return {"marker": "o"} if len(series[0]) <= 15 else {}


def round_axis(axes: Axes) -> None:
    """Count rounds along the x axis, in whole ones."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10]))
    axes.set_xlabel("round")
