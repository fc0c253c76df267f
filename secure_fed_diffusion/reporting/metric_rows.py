"""A line's utility figures in words, each beside what real images score: for the terminal and the report.

>>> line = {"fid_lenet": 9.5, "fid_floor_lenet": 1.0, "tstr_cnn": 0.9, "interval_tstr_cnn": [0.89, 0.91]}
>>> [metric_text(row) for row in metric_rows(line)]
['FID (lenet) 9.50 (real images 1.00)', 'TSTR accuracy (cnn) 90.0 % (89.0–91.0 %)']
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from secure_fed_diffusion.evaluation import names
from secure_fed_diffusion.reporting.wording import metric_name, metric_value, number, percent_text

BETTER = {"fid": "less", "kid": "less, 0 is equality", "density": "about 1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricRow:
    """One metric as it is shown; what was not measured is None."""

    key: str
    words: str
    value: str
    interval: str | None
    real: str | None
    better: str


def metric_rows(figures: Mapping[str, Any], floor: Mapping[str, Any] | None = None) -> list[MetricRow]:
    """Return a row for each metric in `figures`, whose floors and intervals stand there too or in `floor`."""
    known = {**figures, **(floor or {})}
    rows = []
    for key, value in figures.items():
        if not names.is_metric(key) or number(value) is None:
            continue
        real = number(known.get(names.floor_key(key)))
        rows.append(
            MetricRow(
                key=key,
                words=metric_name(key),
                value=metric_value(key, value),
                interval=_interval_text(known.get(names.interval_key(key))),
                real=None if real is None else metric_value(key, real),
                better=BETTER.get(names.family(key) or "", "more"),
            )
        )
    return rows


def metric_text(row: MetricRow) -> str:
    """Return a row on one line."""
    notes = [row.interval] if row.interval else []
    notes += [f"real images {row.real}"] if row.real else []
    return f"{row.words} {row.value}" + (f" ({'; '.join(notes)})" if notes else "")


def _interval_text(interval: Any) -> str | None:
    if not isinstance(interval, list) or len(interval) != 2:
        return None
    low, high = map(number, interval)
    if low is None or high is None:
        return None
    return f"{percent_text(low).removesuffix(' %')}–{percent_text(high)}"
