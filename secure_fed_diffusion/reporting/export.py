"""A run's figures for other programs: a tidy table (CSV, Parquet) and TensorBoard's event files.

One row is one round of one run; a column is what was written down about it.  The columns are a fixed list,
the settings in which the runs differ, and the public metrics: a training loss or a clip count that found its
way into a record is not exported, and `attacks.json` is not read.  An ε that is missing or infinite is an
empty cell, never 0.

TensorBoard's rows are stamped with their round in place of the time: the time between two rounds, less the
seconds that a round wrote down, is what its clients took, and that grows with how many records they drew.

Parquet needs pyarrow and TensorBoard's files need tensorboard: the extra `export` brings both.

    rows = tidy_rows(read_runs([Path("runs/a")]))
    write_csv(rows, Path("a.csv"))
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.reporting.run_folder import is_metric
from secure_fed_diffusion.reporting.run_set import SEEDS, Member, RunSet
from secure_fed_diffusion.reporting.wording import number, pick

Row = dict[str, str | float | int | None]
_COLUMNS_OF_THEIR_OWN = ("privacy.mode", "federation.clients")
_TERMS = ("delta", "unit", "relation", "budget_epsilon", "guard_view")
_COUNTS = ("attempt", "holdout_loss", "bytes_up", "bytes_down")


def tidy_rows(found: RunSet) -> list[Row]:
    """Return one row for each round of each run, all with the same columns in the same order."""
    settings = sorted(SEEDS | {key for key in found.differing if key not in _COLUMNS_OF_THEIR_OWN})
    rows = [_row(member, line, settings) for member in found.members for line in member.run.rounds]
    columns = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in columns} for row in rows]


def write_csv(rows: Sequence[Row], path: Path) -> Path:
    """Write the table as CSV, with its column names in the first line."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]) if rows else ["run"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_parquet(rows: Sequence[Row], path: Path) -> Path:
    """Write the table as Parquet.

    Raises: ConfigError when pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(_extra("pyarrow"), key="--parquet") from error
    columns = {name: _of_one_type([row[name] for row in rows]) for name in (rows[0] if rows else ())}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


class TensorBoardWriter:
    """Writes rounds as TensorBoard's scalars, one folder a run; also an observer of a run in progress.

    Raises: ConfigError when tensorboard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(_extra("tensorboard"), key="--tensorboard") from error
        self._writer = SummaryWriter(str(folder))

    def round(self, record: Mapping[str, Any]) -> None:
        """Write one line of `metrics.jsonl`."""
        step = int(record["round"])
        for name, value in _figures(record).items():
            measured = number(value)
            if measured is not None:
                self._writer.add_scalar(_tag(name), measured, step, walltime=float(step))
        self._writer.flush()

    def beside(self, other: Observer) -> Observer:
        """Return an observer that tells each round to `other` and to this."""
        return _Both(other, self)

    def close(self) -> None:
        """Finish the event file."""
        self._writer.close()


class Observer(Protocol):
    """Who watches a run: the terminal, TensorBoard."""

    def round(self, record: dict[str, Any]) -> None:
        """See one line of `metrics.jsonl`."""

    def note(self, text: str) -> None:
        """Hear a sentence."""


class _Both:
    def __init__(self, first: Observer, board: TensorBoardWriter) -> None:
        self._first, self._board = first, board

    def round(self, record: dict[str, Any]) -> None:
        self._first.round(record)
        self._board.round(record)

    def note(self, text: str) -> None:
        self._first.note(text)


def write_tensorboard(members: Sequence[Member], folder: Path) -> list[Path]:
    """Write each run into its own folder below `folder` and return those.

    Raises: ConfigError when tensorboard is not installed.
    """
    written: list[Path] = []
    for member in members:
        name = _safe(member.label)
        same = sum(_safe(other.label) == name for other in members[: len(written)])
        own = folder / (f"{name}.{same + 1}" if same else name)
        writer = TensorBoardWriter(own)
        for line in member.run.rounds:
            writer.round(line)
        writer.close()
        written.append(own)
    return written


def _row(member: Member, line: Mapping[str, Any], settings: Sequence[str]) -> Row:
    row: Row = {"run": member.label, "folder": member.place, "mode": member.run.mode}
    row["clients"] = member.clients
    row |= {k: _value(member.settings[k]) for k in settings if k in member.settings and k not in row}
    row |= {"round": int(line["round"]), "kind": str(line.get("kind") or "")}
    for key in _TERMS:
        value = line.get(key)
        row[key] = value if isinstance(value, str) else number(value)
    return row | _figures(line)


def _figures(line: Mapping[str, Any]) -> Row:
    """Return the numbers of a round that may leave the run's folder."""
    found: Row = {}
    epsilon = line.get("epsilon")
    if isinstance(epsilon, Mapping):
        for view in epsilon:
            for accountant in ("pld", "rdp"):
                found[f"epsilon_{view}_{accountant}"] = pick(epsilon, view, accountant)
    lower = line.get("epsilon_lower")
    if isinstance(lower, Mapping):
        found["epsilon_lower"] = number(lower.get("value"))
    found |= {key: number(line.get(key)) for key in _COUNTS}
    for key in ("cohort", "survivors"):
        found[f"n_{key}"] = len(line[key]) if isinstance(line.get(key), list) else None
    seconds = line.get("seconds")
    if isinstance(seconds, Mapping):
        found |= {f"seconds_{part}": number(value) for part, value in seconds.items()}
    return found | {key: number(line[key]) for key in line if is_metric(key)}


def _value(setting: str) -> str | float | int:
    if setting.removeprefix("-").isdecimal():
        return int(setting) if str(int(setting)) == setting else setting  # 007 is a name
    try:
        value = float(setting)
    except ValueError:
        return setting
    return value if math.isfinite(value) and "_" not in setting else setting


def _of_one_type(values: list[Any]) -> list[Any]:
    """Return numbers as floats: a column of whole numbers with a gap, or with one fraction, is one column."""
    if any(isinstance(value, str) for value in values):
        return [None if value is None else str(value) for value in values]
    return [None if value is None or not math.isfinite(value) else float(value) for value in values]


def _tag(name: str) -> str:
    """Group TensorBoard's tags by what they measure."""
    for prefix in ("epsilon", "seconds", "bytes", "fid", "tstr"):
        if name.startswith(f"{prefix}_"):
            return f"{prefix}/{name.removeprefix(f'{prefix}_')}"
    return f"rounds/{name}"


def _safe(label: str) -> str:
    """Return a name that every file system takes."""
    words = label.replace("ε ≤ ", "eps_").split(" · ")
    return "-".join("".join(c if c.isalnum() or c in "._=" else "_" for c in word) for word in words)


def _extra(package: str) -> str:
    return f"needs the package {package}: pip install 'secure-fed-diffusion[export]'"
