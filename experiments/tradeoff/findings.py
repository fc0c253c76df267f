"""What the records of the trade-off say: the curves, gaps paired by seed, and the finding in words."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import t as student_t

from secure_fed_diffusion.reporting.tradeoff import Cell, summarise

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One line of the figure: whose records, which metric, and how it looks."""

    label: str
    mode: str
    key: str
    colour: str
    marker: str
    simple: bool = False  # a method that a user would pick instead


TSTR = "tstr_cnn"
LEAST_REPETITIONS = 3  # of what the title says about the number of clients
MODES = (
    Curve(label="central", mode="central", key=TSTR, colour="blue", marker="o"),
    Curve(label="distributed", mode="distributed", key=TSTR, colour="green", marker="s"),
    Curve(label="local", mode="local", key=TSTR, colour="vermillion", marker="D"),
    Curve(label="client", mode="client", key=TSTR, colour="purple", marker="^"),
)
SIMPLE = (
    Curve(label="DP-MERF", mode="dp_merf", key=TSTR, colour="orange", marker="v", simple=True),
    Curve(
        label="class Gaussians", mode="class_gaussians", key=TSTR, colour="ink", marker="*", simple=True
    ),
    Curve(
        label="class means, moved copies", mode="class_means", key=TSTR, colour="sky", marker="<", simple=True
    ),
    Curve(
        label="class means, nearest", mode="class_means", key="accuracy_nearest_mean", colour="muted",
        marker=">", simple=True,
    ),
    Curve(
        label="DP-SGD classifier", mode="dp_classifier", key="accuracy_classifier", colour="purple",
        marker="x", simple=True,
    ),
)  # fmt: skip
DIFFUSION = MODES[:3]  # the modes whose unit is one image, as the simpler methods' is


def epsilons(records: Iterable[Record]) -> list[float]:
    """Return the finite ε of the records, ascending."""
    return sorted({float(r["epsilon"]) for r in records if r.get("epsilon") is not None})


def home(records: Sequence[Record]) -> list[Record]:
    """Return the records of the curves: the number of clients that most cells have, and the baselines."""
    counts = [int(r["clients"]) for r in records if r.get("clients") is not None]
    usual = statistics.mode(counts) if counts else None
    return [r for r in records if r.get("clients") in (usual, None)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Win:
    """The simpler methods that beat the best diffusion mode at one ε, by mean, the best first."""

    methods: tuple[tuple[Curve, float], ...]
    mode: str
    accuracy: float


def simpler_wins(records: Sequence[Record]) -> dict[float, Win]:
    """Return {ε: who wins and against what}, where a simpler method does; not where one side is missing."""
    near = home(records)
    wins = {}
    for epsilon in epsilons(near):
        ours, theirs = _means(near, DIFFUSION, epsilon), _means(near, SIMPLE, epsilon)
        if ours:
            mode, accuracy = ours[0]
            if better := tuple(pair for pair in theirs if pair[1] > accuracy):
                wins[epsilon] = Win(methods=better, mode=mode.label, accuracy=accuracy)
    return wins


def _means(records: Sequence[Record], curves: Iterable[Curve], epsilon: float) -> list[tuple[Curve, float]]:
    """Return each curve's mean at an ε, highest first."""
    found = [
        (curve, cell.mean) for curve in curves if (cell := summarise(records, curve.mode, epsilon, curve.key))
    ]
    return sorted(found, key=lambda pair: -pair[1])


def gaps(records: Sequence[Record], key: str = TSTR) -> dict[tuple[float, int], Cell]:
    """Return distributed minus local by (ε, clients), paired by seed, with a 95 % t-interval."""
    by_place: dict[tuple[float, int, int], dict[str, float]] = {}
    for r in records:
        if r["mode"] in ("distributed", "local") and r.get("epsilon") is not None and r.get(key) is not None:
            place = (float(r["epsilon"]), int(r["clients"]), int(r["repetition"]))
            by_place.setdefault(place, {})[str(r["mode"])] = float(r[key])
    paired: dict[tuple[float, int], list[float]] = {}
    for (epsilon, clients, _), pair in sorted(by_place.items()):
        if len(pair) == 2:
            paired.setdefault((epsilon, clients), []).append(pair["distributed"] - pair["local"])
    return {place: _interval(values) for place, values in paired.items()}


def finding(records: Sequence[Record]) -> str:
    """State what the numbers say: sharing against central and local noise, clients, and simpler methods."""
    near = home(records)
    parts = []
    for epsilon in reversed(epsilons(near)):
        cells = [summarise(near, curve.mode, epsilon, TSTR) for curve in DIFFUSION]
        if all(cells):
            central, shared, local = (cell.mean for cell in cells if cell)
            parts.append(
                f"At ε = {epsilon:g} shared noise gives {shared:.1%} TSTR accuracy, a trusted server "
                f"{central:.1%}, local noise {local:.1%}{_in_fid(near, epsilon)}"
            )
            break
    found = gaps(records)
    for epsilon in sorted({e for e, _ in found}, reverse=True):
        repeated = {place: cell for place, cell in found.items() if cell.repetitions >= LEAST_REPETITIONS}
        of_clients = {n: cell for (e, n), cell in repeated.items() if e == epsilon}
        if len(of_clients) > 1:
            few, many = of_clients[min(of_clients)], of_clients[max(of_clients)]
            of_fid = gaps(records, fid_key(records) or "fid")
            in_fid = [
                of_fid[epsilon, n].mean for n in (min(of_clients), max(of_clients)) if (epsilon, n) in of_fid
            ]
            parts.append(
                f"from {min(of_clients)} to {max(of_clients)} clients the gap to local noise goes from "
                f"{_points(few.mean)} to {_points(many.mean)} points"
                + (f" ({in_fid[0]:+.1f} to {in_fid[1]:+.1f} in FID)" if len(in_fid) == 2 else "")
                + (", too little for its intervals" if _overlap(few, many) else "")
            )
            break
    parts += _of_simpler(near)
    return "; ".join(parts) if parts else "Too few cells for a comparison"


def _of_simpler(near: Sequence[Record]) -> list[str]:
    """Say which simpler methods beat every mode and at which ε, or that none does."""
    wins = simpler_wins(near)
    curves = [curve for curve in SIMPLE if any(curve is c for win in wins.values() for c, _ in win.methods)]
    said: dict[str, list[str]] = {}
    for curve in curves:
        at = [epsilon for epsilon, win in wins.items() if any(curve is c for c, _ in win.methods)]
        cells = [summarise(near, curve.mode, epsilon, curve.key) for epsilon in at]
        few = any(cell is None or cell.repetitions < LEAST_REPETITIONS for cell in cells)
        where = ", ".join(f"{epsilon:g}" for epsilon in at) + (
            " (too few runs for an interval)" if few else ""
        )
        said.setdefault(where, []).append(curve.label)
    if said:
        named = ", ".join(f"{' and '.join(labels)} at ε = {where}" for where, labels in said.items())
        return [f"more accurate than every mode: {named}"]
    both = any(_means(near, SIMPLE, e) and _means(near, DIFFUSION, e) for e in epsilons(near))
    return ["no simpler method is more accurate at any ε"] if both else []


def _overlap(one: Cell, other: Cell) -> bool:
    """Say whether two 95 % intervals have a value in common."""
    return abs(one.mean - other.mean) <= (one.half_width or 0.0) + (other.half_width or 0.0)


def fid_key(records: Iterable[Record]) -> str | None:
    """Return the name of the first FID that the records hold, not its floor."""
    return next((key for r in records for key in r if key.startswith("fid_") and "floor" not in key), None)


def _in_fid(records: Sequence[Record], epsilon: float) -> str:
    """Return the FID of shared noise, the trusted server and local noise, in that order."""
    key = fid_key(records)
    shown = [
        f"{cell.mean:.1f}"
        for mode in ("distributed", "central", "local")
        if key is not None and (cell := summarise(records, mode, epsilon, key))
    ]
    return f" (FID {', '.join(shown)})" if len(shown) == 3 else ""


def _interval(values: Sequence[float]) -> Cell:
    half = None
    if len(values) > 1:
        spread = statistics.stdev(values) / math.sqrt(len(values))
        half = float(student_t.ppf(0.975, len(values) - 1)) * spread
    return Cell(mean=statistics.fmean(values), half_width=half, repetitions=len(values))


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"
