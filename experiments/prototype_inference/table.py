"""The README's result: what holds on each data set, and one row a setting, from the results alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from experiments.prototype_inference.figure import METHODS, TITLES, Record, gains, interval, verdict
from secure_fed_diffusion.reporting.wording import delta_text

EXACT = "accuracy_prototypes"
NOISY = f"{EXACT}_epsilon_"
SYNTHETIC = f"{EXACT}_synthetic"
Place = tuple[str, str, str]  # data, heterogeneity, method


def markdown(results: Mapping[str, Any]) -> str:
    """Return the findings with what made them, the table, what its columns are, and the figure."""
    records: list[Record] = results["records"]
    places = [place for name in TITLES for place in gains(records) if place[0] == name]
    parts = []
    for name in dict.fromkeys(data for data, _, _ in places):
        said = sentence([r for r in records if r["data"] == name])
        parts.append(f"{said} {made(results['origins'][name])}.")
    noisy = _noisy(records)
    columns = {EXACT: "gain"}
    columns |= {f"{NOISY}{epsilon:g}": f"gain, ε = {epsilon:g}" for epsilon in noisy}
    columns |= {SYNTHETIC: "gain, synthetic"} if any(SYNTHETIC in r for r in records) else {}
    head = ["data", "labels", "method", "head", "prototypes", *columns.values()]
    head += ["bytes of the model, all rounds", "bytes of the prototypes, up + down"]
    rows = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    rows += [_row(place, records, tuple(columns)) for place in places]
    parts += ["\n".join(rows), _note(records, noisy), "![Gain by setting](figure.png)"]
    return "\n\n".join(parts)


def made(origins: Mapping[str, Mapping[str, str]]) -> str:
    """Name the commands that made one data set's records: the first alone, others with their settings."""
    settings: dict[str, list[str]] = {}
    for labels, facts in origins.items():
        line = f"`{facts['command']}` at commit {facts['commit']}, {facts['machine']}"
        settings.setdefault(line, []).append(labels)
    first, *others = settings
    return "; ".join([first, *(f"{', '.join(settings[line])}: {line}" for line in others)])


def sentence(records: list[Record]) -> str:
    """State of one data set where the paper's gain of at least one point holds, and where it does not."""
    exact = gains(records)
    said = []
    for kind, wording in (
        ("holds", "holds in {}"),
        ("loses", "prototypes lose to the head in {}"),
        ("fails", "the gain is below a point, not below zero, in {}"),
        ("open", "the interval leaves it open in {}"),
    ):
        found = [place for place, values in exact.items() if verdict(values) == kind]
        if found or kind == "holds":
            count = f"{len(found)} of {len(exact)} settings" if kind == "holds" else str(len(found))
            where = f" ({_named(found, exact)})" if found else ""
            said.append(wording.format(count) + where)
    for epsilon in _noisy(records)[:1]:
        released = gains(records, f"{NOISY}{epsilon:g}")
        changes = {place: fmean(values) - fmean(exact[place]) for place, values in released.items()}
        most = max(changes, key=lambda place: abs(changes[place]))
        said.append(
            f"the release at ε = {epsilon:g} moves the gain by {median(changes.values()):+.1f} points in the "
            f"median setting, by {changes[most]:+.1f} at the most ({most[1]}, {METHODS[most[2]][0]})"
        )
    return f'**{TITLES[records[0]["data"]]}.** "At least one point" {"; ".join(said)}.'


def _named(found: Sequence[Place], exact: Mapping[Place, list[float]]) -> str:
    """Name the settings by their labels and methods, each with its mean gain."""
    by_skew: dict[str, list[str]] = {}
    for _, skew, method in found:
        by_skew.setdefault(skew, []).append(method)
    data = found[0][0]
    return "; ".join(
        f"{skew}: "
        + ", ".join(f"{METHODS[method][0]} {fmean(exact[data, skew, method]):+.1f}" for method in methods)
        for skew, methods in by_skew.items()
    )


def _noisy(records: Sequence[Record]) -> list[float]:
    return sorted({float(key.removeprefix(NOISY)) for r in records for key in r if key.startswith(NOISY)})


def _row(place: Place, records: Sequence[Record], columns: Sequence[str]) -> str:
    data, skew, method = place
    own = [r for r in records if (r["data"], r["heterogeneity"], r["method"]) == place]
    accuracies = [f"{100 * fmean(r[key] for r in own):.1f} %" for key in ("accuracy_head", EXACT)]
    found = [_gain([r for r in own if key in r], key) for key in columns]
    model, up, down = (
        f"{fmean(r[f'bytes_{what}'] for r in own):,.0f}"
        for what in ("model_all_rounds", "prototypes_up", "prototypes_down")
    )
    cells = [TITLES[data], skew, METHODS[method][0], *accuracies, *found, model, f"{up} + {down}"]
    return f"| {' | '.join(cells)} |"


def _gain(own: list[Record], key: str) -> str:
    if not own:
        return "–"
    (values,) = gains(own, key).values()
    mean, half = interval(values)
    return f"{mean:+.1f}" + (f" ± {half:.1f}" if len(values) > 1 else "")


def _note(records: Sequence[Record], noisy: Sequence[float]) -> str:
    said = [
        "Accuracies and gains are means over the seeds, gains in points over the head of the same model, "
        "± half of the paired 95 % t-interval; each interval stands for itself, none is widened for their "
        "number.",
        "Bytes are a client's, those of the model up and down together: weights as plain float32, as it was "
        "trained here; those of the prototypes are counted in the masked frames.",
    ]
    if noisy:
        terms = {(delta_text(r["delta"]), r["unit"], r["view"]) for r in records}
        said.append(
            "ε is that of the one release of the prototypes: "
            + "; ".join(f"δ = {delta}, unit {unit}, view {view}" for delta, unit, view in sorted(terms))
            + ", add or remove, PLD."
        )
    if any(SYNTHETIC in r for r in records):
        said.append(
            "Synthetic: prototypes of images drawn from the released model of the run that the command "
            "names; their cost is that run's own ε, none of those here."
        )
    return " ".join(said)
