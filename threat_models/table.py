"""The table of claims as text: one row a claim, for the terminal, a log and THREAT_MODEL.md.

>>> figure(0.99961), figure(-1.0), figure(166.2)
('1.00', '-1.00', '166')
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .adversary import Adversary
from .claim import Arm, Claim, Verdict
from .trials import Column, Result

HEAD = ("id", "adversary", "asset", "defence", "metric", "off", "on", "dropped", "peers", "verdict")
_MARKS = {Verdict.SUCCEEDS: "gets it", Verdict.FAILS: "fails", Verdict.UNCLEAR: "unclear"}


def row(claim: Claim[Any, Any], result: Result, adversaries: Mapping[str, Adversary]) -> tuple[str, ...]:
    """Return the cells of a claim under `HEAD`."""
    arms = [cell(result.arms.get(arm.value)) for arm in Arm]
    peers = "; ".join(f"{name}: {cell(column)}" for name, column in result.peers.items()) or "–"
    return (
        claim.id,
        adversaries[claim.adversary].title,
        claim.asset,
        claim.defence,
        claim.metric,
        *arms,
        peers,
        verdict(claim, result),
    )


def verdict(claim: Claim[Any, Any], result: Result) -> str:
    """Say in two words what to make of the row."""
    if any(column.error for column in (*result.arms.values(), *result.peers.values())):
        return "ERROR"
    if not result.as_written:
        return "NOT AS WRITTEN"
    if not result.installed:
        return "not run"
    return "holds" if claim.promised else "not promised"


def cell(column: Column | None) -> str:
    """Return figure, interval and what the attack did."""
    if column is None:
        return "–"
    if not column.installed:
        return "not installed"
    if column.error is not None or column.mean is None or column.low is None or column.high is None:
        return "error"
    text = figure(column.mean)
    if column.low != column.high:
        text += f" [{figure(column.low)}, {figure(column.high)}]"
    return f"{text} {_MARKS[column.verdict]}"


def figure(value: float) -> str:
    """Write a figure with three digits that matter, at most two after the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
