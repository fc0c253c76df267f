"""The figures of one run, each with a title computed from its data.

Every figure reads the rounds that the run wrote down and leaves out what they do not hold; a
figure without data is left out as a whole.  ε is drawn by PLD (solid) and RDP (dashed).

    for figure in run_figures(read_run(Path("runs/first"))):
        figure.title, figure.panels[0].body        # a sentence, an inline SVG
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from matplotlib.axes import Axes

from secure_fed_diffusion.dp.realised import SPENT_ASSUMPTION
from secure_fed_diffusion.reporting.plotting import LIGHT, Figure, Key, number_axis, paint_panel
from secure_fed_diffusion.reporting.round_figures import cost_figure, survivors_figure
from secure_fed_diffusion.reporting.run_folder import RunFolder
from secure_fed_diffusion.reporting.series import epsilon_series, marks, merge_equal, round_axis
from secure_fed_diffusion.reporting.server_figure import server_figure
from secure_fed_diffusion.reporting.utility_figures import path_figure, utility_figure
from secure_fed_diffusion.reporting.wording import (
    adversary_name,
    bound,
    colluders,
    delta_text,
    epsilon_text,
    view_name,
)


def run_figures(run: RunFolder) -> tuple[Figure, ...]:
    """Draw every figure for which the run has data."""
    makers: tuple[Callable[[RunFolder], Figure | None], ...] = (
        privacy_figure,
        utility_figure,
        path_figure,
        server_figure,
        cost_figure,
        survivors_figure,
    )
    return tuple(figure for make in makers if (figure := make(run)) is not None)


def privacy_figure(run: RunFolder) -> Figure | None:
    """Draw ε by round and view, with the budget."""
    lines = [
        (view, epsilon_series(run, view, "pld"), epsilon_series(run, view, "rdp")) for view in run.epsilon
    ]
    lines = [line for line in lines if line[1][0] or line[2][0]]
    if not lines:
        return None
    groups = merge_equal(lines)
    ends = [value for _, pld, rdp in lines for series in (pld, rdp) for value in series[1]]
    budget = run.budget
    log = max(ends) > 8 * min(ends) if min(ends) > 0 else False
    colours = [_view_colour(views[0], run.guard_view in views) for views, _, _ in groups]

    def paint(axes: Axes) -> None:
        for (views, pld, rdp), colour in zip(groups, colours, strict=True):
            name = " = ".join(map(view_name, views))
            axes.plot(*pld, color=LIGHT[colour], label=f"{name} (PLD)", **marks(pld))
            dashed: dict[str, Any] = {"linestyle": (0, (4, 2)), "linewidth": 1.1}
            axes.plot(*rdp, color=LIGHT[colour], label=f"{name} (RDP)", **dashed)
        if budget is not None:
            axes.axhline(budget, color=LIGHT["ink"], label="budget", linewidth=1.0, linestyle=(0, (1, 1.5)))
        number_axis(axes, "y", log=log)
        if not log:
            axes.set_ylim(bottom=0)
        axes.set_ylabel(f"ε spent so far, at δ = {delta_text(run.fact('delta'))}")
        round_axis(axes)

    keys = [
        Key(label=" = ".join(view_name(view) for view in views), colour=colour)
        for (views, _, _), colour in zip(groups, colours, strict=True)
    ]
    keys.append(Key(label="the same by RDP", colour="muted", dash="4 2"))
    if budget is not None:
        keys.append(Key(label=f"budget ε = {budget:g}", colour="ink", dash="1 1.5"))
    spent, accountant = bound(run.epsilon, run.guard_view)
    of_budget = f" of the budget of {budget:g}" if budget is not None else ""
    unbounded = [view_name(view) for view in run.epsilon if bound(run.epsilon, view)[0] is None]
    return Figure(
        name="privacy",
        title=(
            f"{_rounds(run)} spent ε = {epsilon_text(spent)}{of_budget}"
            f" against {adversary_name(run.guard_view or '')}"
        ),
        caption=(
            f"ε by {accountant} at {run.terms}; each line is one view. What was spent holds"
            f" {SPENT_ASSUMPTION}. "
            + (f"No guarantee at all for: {', '.join(unbounded)}." if unbounded else "")
        ),
        panels=(paint_panel(paint, title="Privacy spent, by round", keys=tuple(keys)),),
    )


def _view_colour(view: str, guarded: bool) -> str:
    if guarded:
        return "blue"
    if colluders(view) is not None:
        return "green"
    return "vermillion" if view == "raw_update" else "purple"


def _rounds(run: RunFolder) -> str:
    last = int(run.rounds[-1]["round"])
    return "The warm-up release" if last == 0 else f"{last} round{'s' if last > 1 else ''}"
