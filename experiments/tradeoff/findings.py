"""What the records of the trade-off say: the curves, gaps paired by seed, and the finding in words."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import ttest_ind_from_stats

from secure_fed_diffusion.reporting.tradeoff import Cell, summarise
from secure_fed_diffusion.reporting.wording import number

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
FEW, CHANCE = "*", "†"  # behind a win that no interval supports: too few runs, or not told apart
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
NOTES = {
    FEW: f"{FEW} too few runs on one side for an interval",
    CHANCE: f"{CHANCE} by mean alone: Welch's test does not tell it from each of them",
}
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

    methods: tuple[tuple[Curve, Cell], ...]
    mode: Curve
    cell: Cell
    chance: frozenset[str]  # labels of the methods that Welch's test does not tell from each of the modes

    def mark(self, curve: Curve, cell: Cell) -> str:
        """Return `FEW` for a win by too few runs, of its own or of the mode's, `CHANCE` for one by chance."""
        if min(cell.repetitions, self.cell.repetitions) < LEAST_REPETITIONS:
            return FEW
        return CHANCE if curve.label in self.chance else ""


def simpler_wins(records: Sequence[Record], fid: str | None = None) -> dict[float, Win]:
    """Return {ε: who wins and against what}, where a simpler method does; not where one side is missing.

    By accuracy on real images; with the name of an FID by that, of the methods that draw images.
    """
    near = home(records)
    wins = {}
    for epsilon in epsilons(near):
        ours, theirs = _ranked(near, DIFFUSION, epsilon, fid), _ranked(near, SIMPLE, epsilon, fid)
        if ours:
            mode, cell = ours[0]
            sign = 1 if fid is None else -1
            if better := tuple(pair for pair in theirs if sign * pair[1].mean > sign * cell.mean):
                chance = frozenset(
                    curve.label
                    for curve, _ in better
                    for other, _ in ours
                    if not _told_apart(*(_values(near, one, epsilon, fid) for one in (curve, other)))
                )
                wins[epsilon] = Win(methods=better, mode=mode, cell=cell, chance=chance)
    return wins


def _values(records: Iterable[Record], curve: Curve, epsilon: float, fid: str | None) -> list[float]:
    """Return what a curve's cell at an ε is the mean of."""
    same = [r for r in records if r["mode"] == curve.mode and number(r.get("epsilon")) == epsilon]
    return [value for r in same if (value := number(r.get(fid or curve.key))) is not None]


def _ranked(
    records: Sequence[Record], curves: Iterable[Curve], epsilon: float, fid: str | None = None
) -> list[tuple[Curve, Cell]]:
    """Return each curve's cell at an ε, the best mean first: the highest accuracy, or the lowest FID."""
    drawing = [curve for curve in curves if fid is None or curve.key == TSTR]
    found = [
        (curve, cell)
        for curve in drawing
        if (cell := summarise(records, curve.mode, epsilon, fid or curve.key))
    ]
    return sorted(found, key=lambda pair: pair[1].mean, reverse=fid is None)


def paired_gaps(records: Sequence[Record], key: str = TSTR) -> dict[tuple[float, int], list[float]]:
    """Return distributed minus local by (ε, clients), one value a seed that both have."""
    by_place: dict[tuple[float, int, int], dict[str, float]] = {}
    for r in records:
        value = number(r.get(key))
        if r["mode"] in ("distributed", "local") and r.get("epsilon") is not None and value is not None:
            place = (float(r["epsilon"]), int(r["clients"]), int(r["repetition"]))
            by_place.setdefault(place, {})[str(r["mode"])] = value
    paired: dict[tuple[float, int], list[float]] = {}
    for (epsilon, clients, _), pair in sorted(by_place.items()):
        if len(pair) == 2:
            paired.setdefault((epsilon, clients), []).append(pair["distributed"] - pair["local"])
    return paired


def gaps(records: Sequence[Record], key: str = TSTR) -> dict[tuple[float, int], Cell]:
    """Return the means of `paired_gaps`, with 95 % t-intervals."""
    return {place: Cell.of(values) for place, values in paired_gaps(records, key).items()}


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
    parts += _of_clients(records)
    parts += _of_simpler(near)
    return "; ".join(parts) if parts else "Too few cells for a comparison"


def _of_clients(records: Sequence[Record]) -> list[str]:
    """Say how the gap to local noise changes with the clients, at the largest ε at which it was repeated."""
    found = {k: v for k, v in paired_gaps(records).items() if len(v) >= LEAST_REPETITIONS}
    for epsilon in sorted({e for e, _ in found}, reverse=True):
        clients = sorted(n for e, n in found if e == epsilon)
        if len(clients) < 2:
            continue
        few, many = (epsilon, clients[0]), (epsilon, clients[-1])
        said = (
            f"from {clients[0]} to {clients[-1]} clients the gap to local noise goes from "
            f"{_points(statistics.fmean(found[few]))} to {_points(statistics.fmean(found[many]))} points"
            f"{_by_chance(found[few], found[many])}"
        )
        in_fid = paired_gaps(records, fid_key(records) or "fid")
        if few in in_fid and many in in_fid:
            ends = [statistics.fmean(in_fid[place]) for place in (few, many)]
            said += f", in FID from {ends[0]:+.1f} to {ends[1]:+.1f}{_by_chance(in_fid[few], in_fid[many])}"
        return [said]
    return []


def _by_chance(few: Sequence[float], many: Sequence[float]) -> str:
    """Return a remark where two means are not told apart."""
    return "" if _told_apart(few, many) else " (which chance may do)"


def _told_apart(one: Sequence[float], other: Sequence[float]) -> bool:
    """Return whether Welch's t-test tells two means apart at 5 %."""
    sizes = [len(one), len(other)]
    if min(sizes) < 2:
        return False
    means, spreads = (
        [statistics.fmean(one), statistics.fmean(other)],
        [statistics.stdev(one), statistics.stdev(other)],
    )
    found = ttest_ind_from_stats(
        means[0], spreads[0], sizes[0], means[1], spreads[1], sizes[1], equal_var=False
    )
    return float(found.pvalue) < 0.05


def _of_simpler(near: Sequence[Record]) -> list[str]:
    """Say which simpler methods beat every mode of their unit, in accuracy and in FID, and at which ε."""
    both = any(_ranked(near, SIMPLE, e) and _ranked(near, DIFFUSION, e) for e in epsilons(near))
    wins, in_fid = simpler_wins(near), simpler_wins(near, fid_key(near) or "fid")
    parts = []
    if wins:
        parts.append(f"more accurate than every mode whose unit is one image: {_where(wins)}")
    elif both:
        parts.append("no simpler method is more accurate at any ε")
    if in_fid:
        parts.append(f"of lower FID than each of them: {_where(in_fid)}")
    if notes := [text for mark, text in NOTES.items() if mark in "".join(parts)]:
        parts[-1] += f" ({'; '.join(notes)})"
    return parts


def _where(wins: Mapping[float, Win]) -> str:
    """Name the methods, each with the ε at which it wins; those that win at the same ε together."""
    at: dict[str, list[str]] = {}
    for epsilon, win in wins.items():
        for curve, cell in win.methods:
            at.setdefault(curve.label, []).append(f"{epsilon:g}{win.mark(curve, cell)}")
    alike: dict[str, list[str]] = {}
    for label, where in at.items():
        alike.setdefault(", ".join(where), []).append(label)
    return ", ".join(f"{' and '.join(labels)} at ε = {where}" for where, labels in alike.items())


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


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"
