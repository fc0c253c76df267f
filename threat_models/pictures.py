"""Pictures for a reader without the field's words: what the server reconstructs, and who was in the data.

    python -m threat_models.pictures             draws the figures from the committed measurements
    python -m threat_models.pictures --measure   runs the attacks first, some ten minutes on two cores

Measurements are `figures/<name>.json`, written by the claims' own stages and attacks
(`staging.picture_data`); figures are `figures/<name>.png`.  Every title states what the data show.

>>> sorted(FIGURES)
['imprint', 'inversion', 'membership', 'poisoning']
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from secure_fed_diffusion.evaluation.membership import Guarantee, roc_curve
from secure_fed_diffusion.reporting.plotting import LIGHT, STYLE

DIRECTORY = Path(__file__).with_name("figures")
_TITLE_SIZE, _NOTE_SIZE = 13, 9.5
_FPR_FLOOR = 1 / 250  # one of the 250 images that were not trained on


def draw_inversion(data: Mapping[str, Any]) -> Figure:
    """One row a network: the image, what is reconstructed without a defence, and at each epsilon."""
    rows = data["rows"]
    heads = ["What the client has", "The server's guess,\nno defence"]
    heads += [f"Its guess at\n{cell['name']}" for cell in rows[0]["cells"][1:]]
    figure = Figure(figsize=(9.2, 2.0 * len(rows) + 1.55))
    grid = figure.add_gridspec(
        len(rows), len(heads), left=0.19, right=0.985, top=1 - 1.05 / (2.0 * len(rows) + 1.55),
        bottom=0.115, wspace=0.1, hspace=0.2,
    )  # fmt: skip
    for i, row in enumerate(rows):
        images = [row["truth"], *(cell["image"] for cell in row["cells"])]
        notes = ["", *(f"{_decibels(cell['psnr_db'])}" for cell in row["cells"])]
        for j, (image, note) in enumerate(zip(images, notes, strict=True)):
            axes = figure.add_subplot(grid[i, j])
            _picture(axes, image)
            axes.set_xlabel(note, fontsize=_NOTE_SIZE, color=LIGHT["muted"], labelpad=3)
            if i == 0:
                axes.set_title(heads[j], fontsize=10.5, color=LIGHT["ink"], pad=6)
            if j == 0:
                label = row["network"].replace(": ", ":\n")
                axes.set_ylabel(
                    _wrapped(label), fontsize=10.5, rotation=0, ha="right", va="center", labelpad=10
                )
    _title(figure, "Without a defence one update is the image; at the ε of a real run nothing is left")
    _note(
        figure,
        f"One update of one image, its masks off (raw view), one round; ε at δ = {data['delta']:g}, one "
        "image added or removed.\ndB: peak signal-to-noise ratio; from 20 on the digit is plain. The "
        "package's runs spend an ε of 10 or less over all their rounds.",
    )
    return figure


def draw_imprint(data: Mapping[str, Any]) -> Figure:
    """Three mosaics: the images of ten clients, those read off the sum under masks alone, and with noise."""
    truth = data["truth"]
    found = {name: sum(_is_found(cell) for cell in data[name]) for name in ("alone", "noised")}
    panels = [
        (f"The {len(truth)} images of ten clients", [{"image": image, "psnr_db": 99.0} for image in truth]),
        (f"Read off their masked sum, no noise:\n{found['alone']} of {len(truth)} images", data["alone"]),
        (f"Read off their masked sum, with noise:\n{found['noised']} of {len(truth)} images", data["noised"]),
    ]
    figure = Figure(figsize=(10.4, 4.1))
    outer = figure.add_gridspec(1, 3, left=0.02, right=0.98, top=0.78, bottom=0.15, wspace=0.08)
    for k, (title, cells) in enumerate(panels):
        frame = figure.add_subplot(outer[k])
        frame.set_title(title, fontsize=10.5, color=LIGHT["ink"], pad=6)
        frame.set_axis_off()
        inner = outer[k].subgridspec(5, 8, wspace=0.08, hspace=0.08)
        for i, cell in enumerate(cells):
            axes = figure.add_subplot(inner[i // 8, i % 8])
            _picture(axes, None if cell is None else cell["image"])
    _title(figure, "Masks alone do not hide images from a server that picks the weights; noise does")
    _note(
        figure,
        "Each place on the right shows the reconstruction that comes nearest to the image there; counted are "
        "those of 20 dB or better.\nNoise: multiplier 1 in each client's share, so ε = 4.4 for one image's "
        "part in one unmasked update (δ = 1e-5, add or remove).",
    )
    return figure


def draw_membership(data: Mapping[str, Any]) -> Figure:
    """ROC curves of the loss threshold, with the bound of every (epsilon, delta) that says anything."""
    figure = Figure(figsize=(7.6, 5.6))
    axes = figure.add_axes((0.1, 0.23, 0.86, 0.65))
    colours = (LIGHT["vermillion"], LIGHT["orange"], LIGHT["blue"], LIGHT["green"])
    dashes = ("-", (0, (6, 1.5)), "-", (0, (2, 1)))
    grid = np.geomspace(_FPR_FLOOR, 1.0, 200)
    for curve, colour, dash in zip(data["curves"], colours, dashes, strict=False):
        tpr = _mean_tpr(curve, grid)
        label = f"{curve['name']}: AUC {np.mean(curve['auc']):.2f}"
        axes.plot(grid, tpr, color=colour, linestyle=dash, linewidth=2.2, label=label)
        if curve["epsilon"] is not None and curve["epsilon"] < 100:
            claim = Guarantee(
                epsilon=curve["epsilon"], delta=data["delta"], unit="example", view=data["view"]
            )
            bound = claim.tpr_bound(grid)
            axes.plot(grid, bound, color=colour, linestyle=":", linewidth=1.8)
            _bound_label(axes, grid, bound, f"no attack passes\nthis at {curve['name']}", colour)
    axes.plot(grid, grid, color=LIGHT["muted"], linewidth=1.0)
    axes.text(0.56, 0.47, "a coin", color=LIGHT["muted"], fontsize=_NOTE_SIZE)
    axes.set_xscale("log")
    axes.set_xlim(_FPR_FLOOR, 1.0)
    axes.set_ylim(0.0, 1.02)
    axes.set_xticks([0.004, 0.01, 0.1, 1.0], ["0.4 %", "1 %", "10 %", "100 %"])
    axes.set_xlabel("other images wrongly called members")
    axes.set_yticks(np.arange(0.0, 1.01, 0.25), ["0 %", "25 %", "50 %", "75 %", "100 %"])
    axes.set_ylabel("members rightly called members")
    axes.legend(loc="center left", bbox_to_anchor=(0.02, 0.5), frameon=True, framealpha=0.9, edgecolor="none")
    n_seeds = len(data["curves"][0]["auc"])
    _title(figure, "Without noise the model gives its training images away; with it, hardly")
    _note(
        figure,
        f"32 training images against 250 others, mean of {n_seeds} trainings of 260 steps. "
        f"View: {data['view']}.\nUnit: {data['unit']}; δ = {data['delta']:g}. At ε = 198 the bound "
        "says nothing.\nDotted: the most that any attack can reach at that ε, all else known to it.",
    )
    return figure


def draw_poisoning(data: Mapping[str, Any]) -> Figure:
    """Two panels of dots: FID and prototype accuracy of each seed, by what stands against the poisoner."""
    figure = Figure(figsize=(9.2, 3.7))
    names = list(data)
    for k, (key, label) in enumerate(
        (("prototype_accuracy", "prototype accuracy"), ("fid", "FID (lower is better)"))
    ):
        axes = figure.add_axes((0.31 + 0.36 * k, 0.2, 0.31, 0.56))
        for i, name in enumerate(names):
            values = np.array(data[name][key])
            colour = LIGHT["blue"] if i == 0 or "median" in name else LIGHT["vermillion"]
            marker = "o" if colour == LIGHT["blue"] else "s"
            axes.plot(values, np.full(len(values), i), marker, color=colour, alpha=0.55, markersize=6)
            axes.plot(values.mean(), i, "|", color=LIGHT["ink"], markersize=16, markeredgewidth=2)
        axes.set_yticks(range(len(names)), names if k == 0 else [""] * len(names))
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlabel(label)
        axes.grid(axis="y", visible=False)
        if key == "fid":
            axes.set_xscale("log")
        else:
            axes.set_xlim(0.0, 1.0)
    _title(figure, "One liar of five ruins the model; only a server without masks could cut its pull")
    n_seeds = len(data[names[0]]["fid"])
    _note(
        figure,
        f"Digits, five clients, {n_seeds} seeds (a dot each, the bar is their mean). The poisoner sends "
        "minus a thousand times\nits honest contribution in every round. The cuts are measured here and are "
        "no part of the package.",
    )
    return figure


FIGURES: Mapping[str, Callable[[Mapping[str, Any]], Figure]] = {
    "inversion": draw_inversion,
    "imprint": draw_imprint,
    "membership": draw_membership,
    "poisoning": draw_poisoning,
}


def draw(directory: Path = DIRECTORY) -> list[Path]:
    """Draw every figure whose measurement is in `directory`; return the files."""
    drawn = []
    for name, paint in FIGURES.items():
        source = directory / f"{name}.json"
        if source.exists():
            with mpl.rc_context(STYLE):
                figure = paint(json.loads(source.read_text(encoding="utf-8")))
                path = source.with_suffix(".png")
                figure.savefig(path, dpi=150, facecolor="white", metadata={"Software": None})
            drawn.append(path)
    return drawn


def measure(directory: Path = DIRECTORY) -> None:
    """Run the attacks whose results the figures show, and write them to `directory`."""
    from threat_models.staging import picture_data

    directory.mkdir(exist_ok=True)
    sources: dict[str, Callable[[], Any]] = {
        "inversion": picture_data.inversion,
        "imprint": picture_data.imprint,
        "membership": picture_data.roc,
        "poisoning": picture_data.poisoning,
    }
    for name, source in sources.items():
        text = json.dumps(source(), ensure_ascii=False)
        (directory / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def _picture(axes: Axes, image: Any) -> None:
    """Show an image in [0, 1], ink dark on white; a place without one is hatched."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    for side in axes.spines.values():
        side.set_visible(True)
        side.set_color(LIGHT["grid"])
    if image is None:
        axes.set_facecolor(LIGHT["grid"])
        return
    axes.imshow(np.asarray(image), cmap="gray_r", vmin=0.0, vmax=1.0, interpolation="nearest", aspect="equal")


def _mean_tpr(curve: Mapping[str, Any], grid: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the mean over trainings of the TPR at each FPR, a step function each."""
    rates = []
    for members, others in zip(curve["members"], curve["others"], strict=True):
        fpr, tpr = roc_curve(np.array(members), np.array(others))
        rates.append([tpr[fpr <= rate + 1e-12].max() for rate in grid])
    return np.mean(rates, axis=0)


def _bound_label(axes: Axes, grid: Any, bound: Any, text: str, colour: str) -> None:
    """Write beside the bound where it rises, or under it where it lies at the top."""
    if bound[0] > 0.9:
        axes.text(0.2, bound[0] - 0.02, text, ha="center", va="top", fontsize=_NOTE_SIZE, color=colour)
        return
    place = int(np.argmin(np.abs(np.asarray(bound) - 0.55)))
    axes.annotate(
        text, (grid[place], bound[place]), xytext=(-6, 4), textcoords="offset points", ha="right",
        va="bottom", fontsize=_NOTE_SIZE, color=colour,
    )  # fmt: skip


def _is_found(cell: Mapping[str, Any] | None) -> bool:
    return cell is not None and cell["psnr_db"] >= 20.0


def _decibels(value: float) -> str:
    return "exact" if value >= 60.0 else f"{value:.0f} dB"


def _wrapped(text: str) -> str:
    import textwrap

    return "\n".join(line for part in text.split("\n") for line in textwrap.wrap(part, 20))


def _title(figure: Figure, text: str) -> None:
    figure.suptitle(text, x=0.015, y=0.985, ha="left", va="top", fontsize=_TITLE_SIZE, weight="bold")


def _note(figure: Figure, text: str) -> None:
    figure.text(0.015, 0.012, text, ha="left", va="bottom", fontsize=_NOTE_SIZE, color=LIGHT["muted"])


if __name__ == "__main__":
    if "--measure" in sys.argv[1:]:
        measure()
    for written in draw():
        print(written.name)
