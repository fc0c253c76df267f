"""One tidy table of a sweep: a row a cell, a column a figure.

What a run measured comes from its `summary.json`; `membership_auc*` from `attacks.json`, which is computed
from PRIVATE images and is outside every ε: a table that has it is for the owner of the data, or of research
data sets.  `membership_auc` is that of the loss threshold attack, fixed beforehand; the other attack has a
column of its own.  `audited_epsilon` is the canaries' lower bound, where `audit.canaries` planted some.

`seconds` is the wall time of all attempts at a cell, beside whatever else ran, each in whole minutes:
it grows with how many records the clients drew.

    write_csv(Path("runs/sweep/cells.csv"), [row(place, attempts) for place in places])
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.sweep.process import Place

Row = dict[str, Any]

MEMBERSHIP_ATTACK = "loss_threshold"


def row(place: Place, attempts: Sequence[Mapping[str, Any]], error: str | None = None) -> Row:
    """Return the flat record of one cell; an unfinished one has its place on the axes and its status."""
    settings, cell = place.settings, place.cell
    found: Row = {
        "cell": cell.name,
        "status": "finished" if place.finished else "failed" if error else "begun" if place.begun else "new",
        "error": error,
        "data": settings.data.name,
        "mode": settings.privacy.mode,
        "epsilon": _target(place),
        "clients": settings.federation.clients,
        "seed": settings.run.seed,
    }
    found |= {
        axis: value for axis, value in cell.axes.items() if axis not in ("mode", "epsilon", "clients", "seed")
    }
    found["repetition"] = settings.run.seed
    if place.finished:
        found |= _measured(place.summary) | _attacked(place.folder / "attacks.json")
        found["seconds"] = sum(attempt["seconds"] for attempt in attempts)
    return found


def rows_of(places: Sequence[Place], took: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Row]:
    """Return a row for each cell; `took` is what `process.attempts` read, oldest first."""
    rows = []
    for place in places:
        past = took.get(place.cell.name, ())
        rows.append(
            row(place, past, str(past[-1]["error"]) if past and past[-1]["status"] == "failed" else None)
        )
    return rows


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write the table; None is an empty field, infinity is `inf`."""
    with _replaced(path, rows) as file, file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns(rows), restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path: Path, rows: Sequence[Row]) -> None:
    """Write the table as Parquet, one type a column.

    Raises:
        ConfigError: pyarrow is not installed.
    """
    require_parquet()
    import pyarrow
    from pyarrow import parquet

    names = columns(rows)
    whole = {name: [each.get(name) for each in rows] for name in names}
    with _replaced(path, rows) as file:
        parquet.write_table(pyarrow.table(whole), file)


@contextmanager
def _replaced(path: Path, rows: Sequence[Row]) -> Iterator[Path]:
    """Give a fresh file that takes the place of `path` when it is whole.

    What was computed from private images is for its owner's eyes, as `attacks.json` is.
    """
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    attacked = any(name.startswith("membership_auc") for each in rows for name in each)
    fresh.touch(0o600 if attacked else 0o666)
    yield fresh
    fresh.replace(path)


def require_parquet() -> None:
    """Refuse Parquet before any work where it cannot be written.

    Raises:
        ConfigError: pyarrow is not installed.
    """
    if find_spec("pyarrow") is None:
        raise ConfigError("Parquet needs pyarrow: pip install pyarrow", key="--parquet")


def columns(rows: Sequence[Row]) -> list[str]:
    """Return all columns, in the order in which the rows first have them."""
    return list(dict.fromkeys(name for each in rows for name in each))


def _target(place: Place) -> float | None:
    """Return the ε that the grid asked for, inf for no noise or nearly none."""
    if place.settings.privacy.mode == "none":
        return math.inf
    asked = place.cell.axes.get("epsilon", place.settings.privacy.epsilon)
    return None if place.settings.privacy.noise_multiplier is not None else float(asked)


def _measured(summary: Mapping[str, Any]) -> Row:
    view = summary["guard_view"]
    spent = summary["epsilon"].get(view, {})
    # an ε holds of the view, unit and δ beside it
    measured: Row = {
        "epsilon_spent": spent.get("pld"),
        "epsilon_spent_rdp": spent.get("rdp"),
        "delta": summary["delta"],
        "unit": summary["unit"],
        "relation": summary["relation"],
        "view": view,
        "noise_multiplier": summary["noise_multiplier"],
        "noise_overhead": summary["noise_overhead"],
        "rounds": summary["rounds"],
        "parameters": summary["parameters"],
        "bytes_up": summary["bytes_up"],
        "bytes_down": summary["bytes_down"],
    }
    measured |= {key: value for key, value in summary["metrics"].items() if isinstance(value, (int, float))}
    measured |= {key: value for key, value in summary["floor"].items() if isinstance(value, (int, float))}
    audit = summary.get("audit")
    if audit and audit.get("epsilon_lower"):
        bound = audit["epsilon_lower"]
        measured["audited_epsilon"] = bound.get("value")
        measured["audited_view"] = bound.get("view")
        measured["audited_confidence"] = bound.get("confidence")
    return measured


def _attacked(path: Path) -> Row:
    if not path.exists():
        return {}
    figures = json.loads(path.read_bytes())["membership"]
    found: Row = {}
    for name, attack in figures.items():
        column = "membership_auc" if name == MEMBERSHIP_ATTACK else f"membership_auc_{name}"
        found[column] = attack["auc"]
        found[f"{column}_low"], found[f"{column}_high"] = attack["auc_interval"]
    return found
