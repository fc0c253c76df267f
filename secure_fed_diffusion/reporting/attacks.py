"""The report's section on attacks: figures of PRIVATE data, outside ε, shown only where a run wrote them.

`attacks.json` exists only if the run asked for it (`evaluation.attacks`).  A page with this section is for
the owner of the data, as the file is: whoever deletes the file and writes the report again has a page that
may be shown.  No image is drawn: a suspicious pair would show a private record.

    attacks = read_attacks(Path("runs/first"))     # None where there is no attacks.json
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from secure_fed_diffusion.errors import RunError
from secure_fed_diffusion.evaluation.membership import Guarantee
from secure_fed_diffusion.reporting.plotting import (
    LIGHT,
    Figure,
    Key,
    paint_panel,
    percent_axis,
)
from secure_fed_diffusion.reporting.wording import (
    adversary_name,
    delta_text,
    epsilon_text,
    number,
    percent_text,
)

FILE_NAME = "attacks.json"
_NAMES = {"loss_threshold": "Loss\u00a0threshold", "sima": "SimA"}
_COLOURS = ("blue", "vermillion", "green", "purple")
_DASHES = ("", "5 2", "2 2", "7 2 2 2")
_CHANCE = 0.5
_ONE_SIDED = 0.025  # how often an interval of 95 % lies above a chance that is the truth


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackSection:
    """What the template shows: a figure, and the rows of two tables."""

    warning: str
    figure: Figure
    bound: str
    membership: tuple[Mapping[str, str], ...]
    memorization: tuple[Mapping[str, str], ...]
    n_images: str


def read_attacks(run_dir: Path) -> AttackSection | None:
    """Return the section of a run's report, or None where the run was not attacked.

    Raises: RunError when the file is there and cannot be read.
    """
    path = run_dir / FILE_NAME
    if not path.is_file():
        return None
    try:
        return make_section(json.loads(path.read_bytes()))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise RunError(f"{path}: no attack figures: {error!r}") from error


def make_section(content: Mapping[str, Any]) -> AttackSection:
    """Return the section of what `attacks.json` holds."""
    found, copies, guarantee = content["membership"], content["memorization"], _guarantee(content["bound"])
    if not found:
        raise ValueError("expected at least one attack")
    first = next(iter(found.values()))
    return AttackSection(
        warning=str(content["warning"]),
        figure=_figure(found, guarantee),
        bound=_bound_text(guarantee),
        membership=tuple(_membership_row(_name(key), entry) for key, entry in found.items()),
        memorization=tuple(_memorization_row(key, entry) for key, entry in copies.items()),
        n_images=f"{int(first['members'])} training images and {int(first['non_members'])} held-out ones",
    )


def _name(key: str) -> str:
    return _NAMES.get(key, key)


def _guarantee(bound: Mapping[str, Any] | None) -> Guarantee | None:
    if bound is None:
        return None
    return Guarantee(
        epsilon=float(bound["epsilon"]),
        delta=float(bound["delta"]),
        unit=str(bound["unit"]),
        view=str(bound["view"]),
    )


def _bound_text(guarantee: Guarantee | None) -> str:
    if guarantee is None:
        return "This run claims no ε, so nothing bounds any attack."
    epsilon, delta = guarantee.for_one_image()
    of_image = (
        ""
        if guarantee.unit == "example"
        else f" (for one image of a {guarantee.unit}: ε = {epsilon_text(epsilon)}, δ = {delta_text(delta)})"
    )
    return (
        f"What ε = {epsilon_text(guarantee.epsilon)}, δ = {delta_text(guarantee.delta)} in the view"
        f" {guarantee.view}{of_image} allows any attack by {adversary_name(guarantee.view)}:"
        f" an AUC of at most {_ceiling(guarantee.auc_bound())}."
    )


def _ceiling(value: float) -> str:
    """Format an upper bound, rounded up."""
    return f"{math.ceil(value * 1e5) / 1e5:.5f}" if value > 0.99 else f"{math.ceil(value * 1e3) / 1e3:.3f}"


def _share(value: Any) -> str:
    measured = number(value)
    return "–" if measured is None else f"{measured:.3f}"


def _interval(ends: Any, *, percent: bool = False) -> str:
    low, high = (number(end) for end in ends)
    if low is None or high is None:
        return "–"
    return f"{100 * low:.1f}–{100 * high:.1f} %" if percent else f"{low:.3f}–{high:.3f}"


def _membership_row(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "auc": _share(entry["auc"]),
        "interval": _interval(entry["auc_interval"]),
        "control": f"{_share(entry['control_auc'])} ({_interval(entry['control_interval'])})",
        "points": [
            {
                "fpr": f"{100 * float(point['fpr']):g} %",
                "tpr": percent_text(point["tpr"]),
                "interval": _interval(point["tpr_interval"], percent=True),
                "false_positives": str(int(point["false_positives"])),
                "reached": _interval(point["fpr_interval"], percent=True),
                "bound": f"{math.ceil(1000 * point['bound'] - 1e-9) / 10:.1f} %"
                if "bound" in point
                else "no bound",
            }
            for point in entry["tpr_at_fpr"]
        ],
    }


def _memorization_row(space: str, entry: Mapping[str, Any]) -> dict[str, str]:
    train, held_out = entry["nearest"]["train"], entry["nearest"]["held_out"]
    return {
        "space": space if space == "pixels" else f"{space} features",
        "share": _share(entry["share_closer_to_train"]),
        "interval": _interval(entry["share_interval"]),
        "control": f"{_share(entry['control_share'])} ({_interval(entry['control_interval'])})",
        "distance": _distance(train),
        "distance_held_out": _distance(held_out),
        "copies": f"{percent_text(train['copies'])} ({_interval(train['copies_interval'], percent=True)})",
        "copies_held_out": percent_text(held_out["copies"]),
        "references": str(int(entry["references"])),
        "samples": str(int(entry["samples"])),
        "held_out": str(entry["held_out"]),
    }


def _distance(entry: Mapping[str, Any]) -> str:
    value = number(entry["distance_median"])
    return "–" if value is None else f"{value:.3g}"


def _figure(found: Mapping[str, Any], guarantee: Guarantee | None) -> Figure:
    curves = {key: _curve(entry["roc"]) for key, entry in found.items()}
    fewest = min(int(entry["non_members"]) for entry in found.values())
    keys = [
        Key(label=_name(key), colour=colour, dash=dash)
        for key, colour, dash in zip(curves, _COLOURS, _DASHES, strict=False)
    ]
    if guarantee is not None:
        keys.append(
            Key(label=f"most that ε = {epsilon_text(guarantee.epsilon)} allows", colour="ink", dash="1 1.5")
        )
    keys.append(Key(label="a coin", colour="muted", dash="4 2"))

    def lines(axes: Axes, grid: npt.NDArray[np.float64]) -> None:
        axes.plot(grid, grid, color=LIGHT["muted"], linewidth=1.0, linestyle=(0, (4, 2)))
        for key, (fpr, tpr) in curves.items():
            index = list(curves).index(key) % len(_COLOURS)
            dash = tuple(float(part) for part in _DASHES[index].split())
            # on logarithmic axes what lies at 0 is drawn at the edge
            axes.plot(
                np.maximum(fpr, grid[0]),
                np.maximum(tpr, grid[0]),
                color=LIGHT[_COLOURS[index]],
                linewidth=1.6,
                linestyle=(0, dash) if dash else "-",
                label=_name(key),
            )
        if guarantee is not None:
            most = guarantee.tpr_bound(grid)
            axes.plot(
                grid, most, color=LIGHT["ink"], linewidth=1.3, linestyle=(0, (1, 1.5)), label="most by ε"
            )
        axes.set_xlabel("held-out images called members, %")
        axes.set_ylabel("members found, %")

    def whole(axes: Axes) -> None:
        lines(axes, np.linspace(0, 1, 501))
        axes.set_xlim(-0.01, 1.05)
        axes.set_ylim(-0.01, 1.03)
        percent_axis(axes, "x")
        percent_axis(axes, "y")

    least = 1 / (2 * fewest)

    def corner(axes: Axes) -> None:
        lines(axes, np.geomspace(least, 1, 400))
        axes.set_xlim(least, 1.5)
        axes.set_ylim(least, 1.2)
        _log_percent_axes(axes)

    return Figure(
        name="attacks",
        title=_title(found),
        caption=(
            "An attack calls an image a member of the training data if its score passes a threshold; each"
            " point of a line is one threshold. The control is the same attack before training; it"
            " should find nothing, and if it finds something, the two sets of images differ by themselves."
            " Intervals are of 95 %, over images (DeLong; Clopper-Pearson), for this one model, each for"
            f" itself: of {len(found)} attacks that find nothing, one or more seems to find something in up"
            f" to {percent_text(_ONE_SIDED * len(found))} of models. One set of images may be easier than the"
            " other for a trained network, which the control need not show: on MNIST, whose held-out images"
            " are the easier ones, the AUC of a loss is too low by up to .02."
        ),
        panels=(
            paint_panel(whole, title="ROC curve", keys=tuple(keys)),
            paint_panel(corner, title="The same on logarithmic axes: few false alarms", keys=tuple(keys)),
        ),
    )


def _log_percent_axes(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda v, _: f"{100 * v:g}"))
        axis.set_minor_formatter(NullFormatter())


def _curve(roc: Mapping[str, Any]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    fpr, tpr = (np.array(roc[side], dtype=np.float64) for side in ("fpr", "tpr"))
    if fpr.shape != tpr.shape or fpr.ndim != 1 or not (np.isfinite(fpr).all() and np.isfinite(tpr).all()):
        raise ValueError("expected an ROC curve of finite points")
    return fpr, tpr


def _title(found: Mapping[str, Any]) -> str:
    """State what the intervals show, and nothing where a control failed."""
    said = {
        key: f"{_name(key)} AUC\u00a0{_share(entry['auc'])} ({_interval(entry['auc_interval'])})"
        for key, entry in found.items()
    }
    broken = [_name(key) for key, entry in found.items() if not _holds_chance(entry["control_interval"])]
    if broken:
        return f"Not to be read as a leak: before training, {' and '.join(broken)} already found a difference"
    caught = [key for key, entry in found.items() if float(entry["auc_interval"][0]) > _CHANCE]
    if len(caught) == len(found):
        return f"Attacks tell training images from others: {', '.join(said.values())}"
    if caught:
        others = ", ".join(said[key] for key in found if key not in caught)
        return (
            f"{len(caught)} of {len(found)} attacks tell training images from others: "
            f"{', '.join(said[key] for key in caught)}; not so {others}"
        )
    return f"These attacks do not tell training images from others: {', '.join(said.values())}"


def _holds_chance(ends: Any) -> bool:
    low, high = ends
    return float(low) <= _CHANCE <= float(high)
