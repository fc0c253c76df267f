"""The words and number formats that the terminal, the report and the figures share.

An ε is an upper bound, so it is rounded up, never to the nearest.  A missing or infinite ε is
"no guarantee", never zero and never blank.

>>> epsilon_text(9.9712), epsilon_text(None)
('9.98', 'no guarantee')
>>> adversary("sum_c1")
'the server together with 1 colluding client, which subtracts its own noise share'
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from secure_fed_diffusion.evaluation import names

NO_GUARANTEE = "no guarantee"

MODES = {
    "none": "federated averaging without noise",
    "central": "one DP-SGD step a round, noise added by a trusted server",
    "local": "local DP-SGD, every client adds the full noise itself",
    "distributed": "one DP-SGD step a round, noise in shares, summed under masks",
    "client": "whole client updates, noise in shares, summed under masks",
}

_ALL_ADD = "where noise is in shares, every survivor's counts, so this holds if every survivor adds its own"

_UNITS = {
    "example": "one image",
    "client": "one institution's whole data set",
    "person": "all images of one person at one institution",
}
_RELATIONS = {
    "add_remove": "been added to or taken out of the training data",
    "zero_out": "been replaced by zeros (that it took part stays visible)",
    "replace_one": "been replaced by any other",
}


def number(value: Any) -> float | None:
    """Return a finite float, or None for anything else (null, NaN, infinity, text, booleans)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def pick(epsilon: Mapping[str, Any] | None, view: str | None, accountant: str) -> float | None:
    """Return one ε out of `{view: {"pld", "rdp"}}`, or None where there is no guarantee."""
    entry = (epsilon or {}).get(view or "")
    return number(entry.get(accountant)) if isinstance(entry, Mapping) else None


def bound(epsilon: Mapping[str, Any] | None, view: str | None) -> tuple[float | None, str]:
    """Return the ε of a view and its accountant: PLD where it was computed, else RDP."""
    tight = pick(epsilon, view, "pld")
    if tight is not None:
        return tight, "PLD"
    loose = pick(epsilon, view, "rdp")
    return loose, "RDP" if loose is not None else "–"


def epsilon_text(value: Any) -> str:
    """Format an ε, rounded up."""
    epsilon = number(value)
    if epsilon is None:
        return NO_GUARANTEE
    digits = 2 if epsilon < 100 else 0
    return f"{math.ceil(epsilon * 10**digits - 1e-6) / 10**digits:,.{digits}f}"


def delta_text(value: Any) -> str:
    """Format a δ without padding zeros: 1e-5."""
    delta = number(value)
    return "not stated" if delta is None else re.sub(r"e([-+])0+", r"e\1", f"{delta:g}")


def figure_text(value: Any) -> str:
    """Format a measured figure to three significant digits."""
    measured = number(value)
    if measured is None:
        return "–"
    if measured == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(measured))))
    return f"{measured:,.{min(digits, 6)}f}"


def count_text(n: int, what: str) -> str:
    """Return how many there are of something whose plural is in -s."""
    return f"{n} {what}{'' if n == 1 else 's'}"


def percent_text(value: Any) -> str:
    """Format a share in [0, 1] as a percentage."""
    share = number(value)
    return "–" if share is None else f"{100 * share:.1f} %"


def bytes_text(value: Any) -> str:
    """Format a number of bytes in decimal units."""
    size = number(value)
    if size is None:
        return "–"
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.0f} B" if unit == "B" else f"{size:.3g} {unit}"


def duration_text(value: Any) -> str:
    """Format seconds as a person would say them."""
    seconds = number(value)
    if seconds is None:
        return "–"
    return f"{seconds:.1f} s" if seconds < 120 else minutes_text(seconds)


def minutes_text(value: Any) -> str:
    """Format seconds in whole minutes: a run's own time is written down no finer."""
    seconds = number(value)
    if seconds is None:
        return "–"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def metric_name(key: str) -> str:
    """Return the words for a metric's key; what looks through features always carries its extractor."""
    return names.name(key)


def is_share(key: str) -> bool:
    """Return whether a metric is a share in [0, 1], shown as a percentage."""
    return names.is_accuracy(key) or names.family(key) in ("precision", "recall", "coverage")


def metric_value(key: str, value: Any) -> str:
    """Format a metric's value, or that of its floor, as its kind asks for."""
    return percent_text(value) if is_share(key) else figure_text(value)


def colluders(view: str) -> int | None:
    """Return c of a view called `sum_c<c>`, or None for any other view."""
    match = re.fullmatch(r"sum_c(\d+)", view)
    return int(match[1]) if match else None


def view_name(view: str) -> str:
    """Return a short name of what is seen."""
    c = colluders(view)
    if c is not None:
        return "the sum" if c == 0 else f"the sum, {c} colluder{'s' if c > 1 else ''}"
    return {"raw_update": "one client's update", "released_model": "the released model"}.get(view, view)


def adversary(view: str) -> str:
    """Return who sees a view, in words."""
    c = colluders(view)
    if c == 0:
        return f"the server alone, which sees the sum; {_ALL_ADD}"
    if c is not None:
        who = (
            "1 colluding client, which subtracts its"
            if c == 1
            else f"{c} colluding clients, which subtract their"
        )
        return f"the server together with {who} own noise share{'s' if c > 1 else ''}"
    return {
        "raw_update": "someone who sees one client's contribution without its mask"
        " (all other clients collude, or the masks' key agreement is broken)",
        "released_model": f"anyone who is given the model, any checkpoint of it, or its samples; {_ALL_ADD}",
    }.get(view, f"whoever sees {view}")


def adversary_name(view: str) -> str:
    """Return who sees a view, short enough for a title."""
    c = colluders(view)
    if c is not None:
        return "the server alone" if c == 0 else f"the server and {c} colluding client{'s' if c > 1 else ''}"
    return {
        "raw_update": "whoever sees one client's update",
        "released_model": "whoever has the released model",
    }.get(view, f"whoever sees {view}")


def unit_text(unit: Any) -> str:
    """Return what the unit of privacy is, in words."""
    return _UNITS.get(str(unit), str(unit or "a unit that was not stated"))


def terms(delta: Any, unit: Any, relation: Any) -> str:
    """Return what an ε means nothing without, beside its view and accountant."""
    return f"δ = {delta_text(delta)}, unit: {unit or 'not stated'}, relation: {relation or 'not stated'}"


def meaning(epsilon: float, *, delta: Any, unit: Any, relation: Any, view: str) -> str:
    """Say what (ε, δ) promises, for a reader who knows odds but no differential privacy.

    `epsilon` is a guarantee, the plan's; what was spent promises nothing (`dp.SPENT_ASSUMPTION`).
    The right answers of a guesser with even prior odds are at most (e^ε + δ)/(1 + e^ε) (Kairouz,
    Oh, Viswanath 2015, theorem 2.1, at the point of equal errors).
    """
    spread = math.exp(min(epsilon, 600.0))
    change = _RELATIONS.get(str(relation), f"changed under the relation {relation}")
    return (
        f"The adversary here is {adversary(view)}. Had {unit_text(unit)} {change}, the odds of"
        f" anything that it concludes would have changed by a factor of at most"
        f" e^ε = {_factor_text(spread)}, but for a slack of δ = {delta_text(delta)}. A guesser who must say"
        f" whether it was there, with even odds to begin with, {guess_text(epsilon, delta)}."
        f" {strength(epsilon)}"
    )


def guess_text(epsilon: float, delta: Any) -> str:
    """Say how often a guesser with even prior odds may be right, as `meaning` has it."""
    spread = math.exp(min(epsilon, 600.0))
    right = (spread + (number(delta) or 0.0)) / (1 + spread)
    if right < 0.999:
        return f"is right at most {math.ceil(1000 * right) / 10:.1f} % of the time (a coin: 50 %)"
    if spread < 1e9:
        return f"may, as far as this bound goes, be wrong only once in {math.floor(1 + spread):,} times"
    return "is not held back by this bound at all"


def strength(epsilon: float) -> str:
    """Judge an ε in a sentence."""
    if epsilon <= 1:
        return "That is a strong bound."
    if epsilon <= 4:
        return "That is a moderate bound."
    return (
        "That is a weak worst-case bound: attacks known today usually do far worse than it allows, but"
        " nothing proves that all must."
    )


def _factor_text(factor: float) -> str:
    if factor < 100:
        return f"{math.ceil(10 * factor) / 10:.1f}"
    return f"{math.ceil(factor):,}" if factor < 1e9 else f"10^{math.ceil(math.log10(factor))}"
