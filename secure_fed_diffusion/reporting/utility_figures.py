"""Draws what a run bought: FID and accuracies, by round and against the ε that they cost.

All of it is measured on public data; a metric that needs private data has no place here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from matplotlib.axes import Axes

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
from secure_fed_diffusion.reporting.run_folder import RunFolder
from secure_fed_diffusion.reporting.series import (
    Series,
    key_series,
    marks,
    round_axis,
    round_series,
    spend_series,
)
from secure_fed_diffusion.reporting.wording import (
    bound,
    delta_text,
    epsilon_text,
    figure_text,
    metric_name,
    percent_text,
    view_name,
)

_ACCURACY_COLOURS = ("green", "purple", "orange", "vermillion")


def utility_figure(run: RunFolder) -> Figure | None:
    """Draw FID with its floor, the accuracies, and the hold-out loss by round."""
    panels = _utility_panels(run, round_series(run), round_axis, "by round")
    loss = key_series(run.rounds, "round", "holdout_loss")
    if loss[0]:

        def paint(axes: Axes) -> None:
            axes.plot(*loss, color=LIGHT["sky"], label="hold-out loss", **marks(loss))
            number_axis(axes, "y")
            axes.set_ylabel("loss on the public hold-out split")
            round_axis(axes)

        panels.append(paint_panel(paint, title="Hold-out loss, by round"))
    if not panels:
        return None
    return Figure(
        name="utility",
        title=_utility_finding(run)
        or f"The hold-out loss went from {figure_text(loss[1][0])} to {figure_text(loss[1][-1])}",
        caption="Measured on public data that no client holds; none of these figures costs privacy. TSTR: a"
        " classifier trained on the samples, tested on real images.",
        panels=tuple(panels),
    )


def path_figure(run: RunFolder) -> Figure | None:
    """Draw utility against the ε of the guarded view: what each unit of privacy bought."""
    view = run.guard_view
    axis_label = f"ε spent, {view_name(view or '')}, at δ = {delta_text(run.fact('delta'))}"

    def spend_axis(axes: Axes) -> None:
        number_axis(axes, "x")
        axes.set_xlabel(axis_label)

    series = spend_series(run)
    panels = _utility_panels(run, series, spend_axis, "against ε")
    lengths = [(key, line) for key, line in series.items() if len(line[0]) > 1]
    if not panels or not lengths:
        return None
    key, (spent, values) = next(((k, s) for k, s in lengths if names.is_accuracy(k)), lengths[0])
    show = percent_text if names.is_accuracy(key) else figure_text
    half = min(range(len(spent)), key=lambda i: abs(spent[i] - spent[-1] / 2))
    gain = values[-1] - values[0]
    early = ""
    if gain and 0 < half < len(spent) - 1:
        share = 100 * (values[half] - values[0]) / gain
        early = f"; {share:.0f} % of that by ε = {epsilon_text(spent[half])}"
    return Figure(
        name="path",
        title=(
            f"From ε = {epsilon_text(spent[0])} to {epsilon_text(spent[-1])},"
            f" {_lower_first(metric_name(key))} went from {show(values[0])} to {show(values[-1])}{early}"
        ),
        caption=(
            f"Each point is an evaluated round. ε spent, by {bound(run.epsilon, view)[1]} at {run.terms},"
            f" view: {view}."
        ),
        panels=tuple(panels),
    )


def _utility_panels(
    run: RunFolder, series: Mapping[str, Series], finish: Callable[[Axes], None], against: str
) -> list[Panel]:
    panels: list[Panel] = []
    fid_key, floor = run.fid_key, run.fid_floor
    if fid_key and fid_key in series:
        fid = series[fid_key]
        least = min([*fid[1], *([floor] if floor else [])])

        def paint_fid(axes: Axes) -> None:
            axes.plot(*fid, color=LIGHT["blue"], label=metric_name(fid_key), **marks(fid))
            if floor is not None:
                axes.axhline(floor, color=LIGHT["muted"], label="floor", linewidth=1.1, linestyle=(0, (4, 2)))
            number_axis(axes, "y", log=least > 0 and max(fid[1]) > 8 * least)
            axes.set_ylabel("FID (lower is better)")
            finish(axes)

        keys = [Key(label=metric_name(fid_key), colour="blue")]
        if floor is not None:
            keys.append(
                Key(label=f"floor {figure_text(floor)}: real against real", colour="muted", dash="4 2")
            )
        panels.append(paint_panel(paint_fid, title=f"FID, {against}", keys=tuple(keys)))
    accuracies = [(key, line) for key, line in series.items() if _moves(key)]
    if accuracies:
        shown = list(zip(accuracies, _ACCURACY_COLOURS, strict=False))  # of prototypes and three classifiers

        def paint_accuracy(axes: Axes) -> None:
            for i, ((key, line), colour) in enumerate(shown):
                style = "-" if i == 0 else (0, (6, 1.5))
                axes.plot(*line, color=LIGHT[colour], linestyle=style, label=metric_name(key), **marks(line))
            axes.set_ylim(0, 1.02)
            percent_axis(axes)
            axes.set_ylabel("accuracy on real test images, %")
            finish(axes)

        keys = [
            Key(label=metric_name(key), colour=c, dash="" if i == 0 else "6 2")
            for i, ((key, _), c) in enumerate(shown)
        ]
        panels.append(paint_panel(paint_accuracy, title=f"Accuracy, {against}", keys=tuple(keys)))
    return panels


def _moves(key: str) -> bool:
    """Whether an accuracy changes from round to round: that of what the warm-up released does not."""
    return names.is_accuracy(key) and key != names.CLASS_MEANS_ACCURACY


def _utility_finding(run: RunFolder) -> str:
    parts = []
    series = round_series(run)
    if run.fid_key and run.fid_key in series:
        values = series[run.fid_key][1]
        times = f", {values[-1] / run.fid_floor:.1f} × its floor" if run.fid_floor else ""
        start = f"went from {figure_text(values[0])} to" if len(values) > 1 else "is"
        parts.append(f"FID {start} {figure_text(values[-1])}{times}")
    parts += [
        f"{_lower_first(metric_name(key))} is {percent_text(line[1][-1])}"
        for key, line in series.items()
        if names.is_accuracy(key)
    ]
    finding = "; ".join(parts)
    return finding[:1].upper() + finding[1:]


def _lower_first(text: str) -> str:
    return text if text[:2].isupper() else text[:1].lower() + text[1:]
