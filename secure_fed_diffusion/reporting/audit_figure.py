"""Draws an audit: the upper bound of each round over the lower bound, and the evidence of too little noise.

`audit_figure` draws what a run wrote into `metrics.jsonl`, for its report; `plot_audit` draws what
`sfd audit` found, into one SVG file.  Both bounds are of the view of the sum; neither is an estimate of
what leaked, which lies between them.

    plot_audit(audit_folder(Path("runs/first")), Path("runs/first/audit.svg"))
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, NullFormatter

from secure_fed_diffusion.audit.report import FolderAudit
from secure_fed_diffusion.reporting.plotting import LIGHT, STYLE, Figure, Key, number_axis, paint_panel
from secure_fed_diffusion.reporting.run_folder import RunFolder
from secure_fed_diffusion.reporting.series import Series, epsilon_series, marks, round_axis
from secure_fed_diffusion.reporting.wording import delta_text, epsilon_text, number, percent_text

_DASHED = (0, (4, 2))


def lower_text(epsilon: float) -> str:
    """Format a lower bound, rounded down."""
    return f"{math.floor(100 * epsilon) / 100:.2f}"


def paint_bounds(axes: Axes, upper: Series, realised: Series, lower: Series, delta: Any) -> None:
    """Draw ε by round: at most, at most with the noise that was there, at least."""
    axes.plot(*upper, color=LIGHT["blue"], **marks(upper))
    axes.plot(*realised, color=LIGHT["sky"], linestyle=_DASHED, linewidth=1.2)
    axes.plot(*lower, color=LIGHT["vermillion"], **marks(lower))
    axes.fill_between(*lower, color=LIGHT["vermillion"], alpha=0.12, linewidth=0)
    number_axis(axes, "y")
    axes.set_ylim(bottom=0)
    axes.set_ylabel(f"ε spent so far, at δ = {delta_text(delta)}")
    round_axis(axes)


def paint_evidence(axes: Axes, evidence: Series, alarm: float) -> None:
    """Draw the running e-value of A6 by round, logarithmic, with the level at which it accuses."""
    axes.plot(*evidence, color=LIGHT["green"], **marks(evidence))
    axes.axhline(alarm, color=LIGHT["ink"], linewidth=1.0, linestyle=(0, (1, 1.5)))
    axes.set_yscale("log")
    low = min([0.1, *evidence[1]])
    axes.set_ylim(max(1e-12, low / 3), max([alarm, *(min(value, 1e12) for value in evidence[1])]) * 5)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("e-value so far")
    round_axis(axes)


def audit_figure(run: RunFolder) -> Figure | None:
    """Draw the bounds that a run with canaries wrote down, or nothing for a run without."""
    entries = [(float(line["round"]), line["epsilon_lower"]) for line in run.rounds if _has_bound(line)]
    if not entries:
        return None
    _, last = entries[-1]
    lower = [number for number, _ in entries], [float(entry["value"]) for _, entry in entries]
    upper = epsilon_series(run, str(last["upper_view"]), "pld")
    delta, sure = run.fact("delta"), percent_text(last["confidence"])
    keys = (
        Key(label="at most: PLD, at the plan's fewest survivors", colour="blue"),
        Key(label=f"at least: {last['auditor']}, {sure} confidence", colour="vermillion"),
    )

    def paint(axes: Axes) -> None:
        paint_bounds(axes, upper, ([], []), lower, delta)
        for line, name in zip(axes.get_lines(), ("at most (PLD)", "", "at least"), strict=True):
            line.set_label(name or "_none")

    found = run.summary.get("audit")
    accused = isinstance(found, Mapping) and bool(found["accused"])
    return Figure(
        name="audit",
        title="This run does NOT do what its plan says: its canaries show it"
        if accused
        else _title(lower[1][-1], upper[1][-1] if upper[1] else None, last["confidence"]),
        caption=_caption(found, last),
        panels=(paint_panel(paint, title="What the sums give away, by round", keys=keys),),
    )


def _title(lower: float, upper: float | None, confidence: Any) -> str:
    """Say what both bounds say; never that both hold where the lower one is the higher."""
    sure = percent_text(confidence)
    if upper is not None and lower > upper:
        return (
            f"The {sure} lower bound ({lower_text(lower)}) lies above the ledger's ({epsilon_text(upper)}), "
            f"as it may in up to {percent_text(1.0 - float(confidence))} of correct runs; "
            "sfd audit asks at a higher confidence"
        )
    most = "without an upper bound" if upper is None else f"by the ledger at most {epsilon_text(upper)}"
    least = f"whoever sees the sums learned at least ε = {lower_text(lower)} of a canary"
    return f"With {sure} confidence {least}, {most}"


def _has_bound(line: Mapping[str, Any]) -> bool:
    entry = line.get("epsilon_lower")
    return isinstance(entry, Mapping) and number(entry.get("value")) is not None


def _caption(audit: Any, last: Mapping[str, Any]) -> str:
    told = f"Conditional on: {last['conditional_on']}. " if last.get("conditional_on") else ""
    caption = (
        "Synthetic records with secret coins passed the real sampler, clip, rounding, noise and masks on "
        "coordinates of their own. Both bounds are of the view of the sum, not of the released model; each "
        f"round's lower bound holds by itself. {told}"
        "Rounds of the warm-up carry no canaries and count in the upper bound alone."
    )
    return f"{caption} {_verdict(audit)}" if isinstance(audit, Mapping) else caption


def _verdict(audit: Mapping[str, Any]) -> str:
    """Say what the conformance tests found, and the smallest violation that they could have seen."""
    if audit["accused"]:
        return f"This run does NOT do what its plan says; accused by {', '.join(audit['accused'])}."
    smallest = audit["smallest_violation"]
    noise, rate = number(smallest["noise_shortfall"]), number(smallest["oversampling"])
    parts = [f"noise {percent_text(noise)} too small"] if noise is not None else []
    parts += [f"a sampling rate {percent_text(rate)} too high"] if rate is not None else []
    return (
        f"The conformance tests (A0, A6) accuse nothing; with probability {percent_text(smallest['power'])} "
        f"they would have seen {' or '.join(parts) or 'nothing'}."
    )


def plot_audit(audit: FolderAudit, path: Path) -> Path:
    """Draw an audit with canaries into the SVG file `path` and return it."""
    view = audit.upper_view
    upper = _series({r.number: r.upper.get(view, {}).get("pld") for r in audit.rounds})
    realised = _series({r.number: r.realised for r in audit.rounds})
    lower = _series({r.number: None if r.lower is None else r.lower.epsilon for r in audit.rounds})
    evidence = _series({r.number: r.evidence.e_value for r in audit.rounds if r.evidence})
    alarm = audit.last.evidence.alarm if audit.last and audit.last.evidence else 1.0
    with mpl.rc_context({**STYLE, "svg.fonttype": "path", "svg.hashsalt": "audit"}):
        canvas = Canvas(figsize=(10.4, 4.6), layout="constrained")
        left, right = canvas.subplots(1, 2)
        paint_bounds(left, upper, realised, lower, audit.ledger.terms.delta)
        left.set_title("ε against whoever sees the sums", loc="left", fontsize=10, fontweight="bold")
        sure = f" ({100 * audit.terms.confidence:g} % confidence)" if audit.terms else ""
        left.plot([], [], color=LIGHT["blue"], label="at most, by the plan")
        left.plot([], [], color=LIGHT["sky"], linestyle=_DASHED, label="at most, by the noise that was there")
        left.plot([], [], color=LIGHT["vermillion"], label=f"at least{sure}")
        left.legend(frameon=False, fontsize=8.5, loc="upper left")
        left.set_ylim(top=1.4 * max([*upper[1], *lower[1], 1e-3]))  # room for the legend
        paint_evidence(right, evidence, alarm)
        right.set_title("Evidence of too little noise (A6)", loc="left", fontsize=10, fontweight="bold")
        right.annotate(
            f"alarm at {alarm:,.0f}",
            (1.0, alarm),
            xycoords=("axes fraction", "data"),
            xytext=(0, 4),
            textcoords="offset points",
            ha="right",
            fontsize=8.5,
        )
        canvas.suptitle(textwrap.fill(audit.finding, 100), x=0.012, ha="left", fontsize=12, fontweight="bold")
        canvas.supxlabel(
            textwrap.fill(" ".join(audit.sentences), 170),
            x=0.012,
            ha="left",
            fontsize=8,
            color=LIGHT["muted"],
        )
        canvas.savefig(path, facecolor="white", metadata={"Date": None, "Creator": None})
    return path


def _series(values: Mapping[int, float | None]) -> Series:
    found = [(float(x), y) for x, y in values.items() if y is not None and math.isfinite(y)]
    return [x for x, _ in found], [y for _, y in found]
