"""A grid of runs: a base configuration, axes, and which cells of their product are kept.

    base = "config.toml"            # beside this file; every cell begins with it
    keep = [{ seed = [0, 1] }]      # without it, or with --full: the whole product

    [settings]                      # over the base, in every cell
    evaluation.attacks = true

    [axes]
    mode = ["central", "distributed", "local", "none"]
    epsilon = [1.0, 10.0, inf]
    seed = [0, 1, 2]

    [[axes.clients]]                # a value that brings other settings with it
    value = 50
    federation.clients_per_round = 50

`mode`, `epsilon`, `clients` and `seed` are short for the keys in `SHORT`; `variant` is a name alone, for
what a value sets beside itself; any other axis is named by its dotted key.  Later axes win over earlier
ones.  Each table of `keep` lists values of some axes; a cell is kept if one table allows it.  Mode `none`
has no ε: it makes one cell at ε = inf, not one for each ε, and `keep` does not ask it for one.  In a
private mode inf stands for ε = 500, the largest budget that the accountant bears: the noise is nearly gone,
the clip is not.

Not protected against: a grid that was chosen after looking at its own results; tuning is outside every ε.

>>> axes = {"mode": ("none", "local"), "epsilon": (1.0, math.inf), "seed": (0,)}
>>> grid = Grid(base=Path("a.toml"), axes=axes)
>>> [cell.name for cell in grid.cells()]
['mode-none_epsilon-inf_seed-0', 'mode-local_epsilon-1_seed-0', 'mode-local_epsilon-inf_seed-0']
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from secure_fed_diffusion import config
from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.federation.settings import RunSettings

SHORT: Mapping[str, tuple[str, ...]] = {
    "mode": ("privacy.mode",),
    "epsilon": ("privacy.epsilon",),
    "clients": ("federation.clients",),
    "seed": ("run.seed", "data.seed"),
    "variant": (),
}
"""Axes with a name of their own, and the keys that each of them sets."""

NEARLY_NO_NOISE = 500.0
"""The ε that stands for infinity in a private mode."""

MOST_CELLS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class GridFile:
    """A grid as its file holds it."""

    base: str
    axes: dict[str, list[Any]]
    settings: dict[str, Any] = field(default_factory=dict)
    keep: tuple[dict[str, list[Any]], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One run of a grid: where it stands on each axis, and what it sets over the base configuration."""

    name: str
    axes: Mapping[str, Any]
    overrides: tuple[str, ...]

    def settings(self, base: Path) -> RunSettings:
        """Return the complete settings of this cell.

        Raises:
            ConfigError: an axis names a key that is none, or a value that cannot be; the cell is named.
        """
        try:
            return config.load(base, self.overrides)
        except ConfigError as error:
            raise ConfigError(f"{error.reason} (in the cell {self.name})", key=error.key) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """A checked grid; values of an axis are TOML values, or tables with a `value` and settings."""

    base: Path
    axes: Mapping[str, tuple[Any, ...]]
    settings: tuple[str, ...] = ()
    keep: tuple[Mapping[str, tuple[Any, ...]], ...] = ()

    def cells(self, *, full: bool = False) -> tuple[Cell, ...]:
        """Return the cells in the order of the axes; `full`: without the cuts of `keep`."""
        found: dict[str, Cell] = {}
        for combination in itertools.product(*self.axes.values()):
            values = dict(zip(self.axes, map(_value, combination), strict=True))
            if values.get("mode") == "none" and "epsilon" in values:
                if values["epsilon"] != math.inf and math.inf in map(_value, self.axes["epsilon"]):
                    continue
                values["epsilon"] = math.inf
            if not full and self.keep and not any(_allows(table, values) for table in self.keep):
                continue
            overrides = list(self.settings)
            for axis, item in zip(self.axes, combination, strict=True):
                overrides += _overrides(axis, item, values)
            name = "_".join(f"{_slug(axis)}-{_slug(_text(value))}" for axis, value in values.items())
            cell = Cell(name=name, axes=values, overrides=tuple(overrides))
            twice = name in found and found[name].overrides != cell.overrides and values.get("mode") != "none"
            if name in found and (twice or found[name].axes != values):
                raise ConfigError(f"two cells would share the folder {name}", key="axes")
            found.setdefault(name, cell)
        if not found:
            raise ConfigError("no cell is left: nothing matches", key="keep")
        return tuple(found.values())


def read_grid(path: Path, overrides: tuple[str, ...] = ()) -> Grid:
    """Read a grid's file; `overrides` (`section.key=value`) are set in every cell, before its axes.

    Raises:
        ConfigError: the file is missing or no TOML, or names no axis, an unknown one, or an empty one.
    """
    text = config.load_as(GridFile, path)
    if not text.axes:
        raise ConfigError("expected at least one axis", key="axes")
    size = 1
    for axis, values in text.axes.items():
        if axis not in SHORT and "." not in axis:
            raise ConfigError(
                f"expected {', '.join(SHORT)}, or a quoted dotted key of the configuration",
                key=f"axes.{axis}",
            )
        if not values:
            raise ConfigError("expected at least one value", key=f"axes.{axis}")
        for item in values:
            _check_item(axis, item)
        size *= len(values)
    if size > MOST_CELLS:
        raise ConfigError(f"expected at most {MOST_CELLS} cells, got {size}", key="axes")
    for table in text.keep:
        for axis, values in table.items():
            if axis not in text.axes:
                raise ConfigError(f"expected one of the axes, {', '.join(text.axes)}", key=f"keep.{axis}")
            known = [_value(item) for item in text.axes.get(axis, ())]
            for value in values:
                if value not in known:
                    raise ConfigError(
                        f"expected values of the axis, {known}, got {value!r}", key=f"keep.{axis}"
                    )
    return Grid(
        base=(path.parent / text.base).resolve(),
        axes={axis: tuple(values) for axis, values in text.axes.items()},
        settings=(*flat(text.settings), *overrides),
        keep=tuple({axis: tuple(values) for axis, values in table.items()} for table in text.keep),
    )


def chosen(cells: Sequence[Cell], only: Sequence[str]) -> tuple[Cell, ...]:
    """Return the cells that `only` names, all for an empty one: a part of a grid, as for one of two machines.

    Each word is `axis=value`; values of one axis are alternatives, and every axis that is named must agree.

    Raises:
        ConfigError: a word names an axis or a value that no cell has, or they leave no cell.
    """
    wanted: dict[str, set[str]] = {}
    for word in only:
        axis, _, value = word.partition("=")
        if axis not in cells[0].axes:
            raise ConfigError(
                f"expected axis=value of {', '.join(cells[0].axes)}, got {word!r}", key="--only"
            )
        known = list(dict.fromkeys(_text(cell.axes[axis]) for cell in cells))
        if value not in known:
            raise ConfigError(f"expected {axis}= one of {', '.join(known)}, got {value!r}", key="--only")
        wanted.setdefault(axis, set()).add(value)
    found = [cell for cell in cells if all(_text(cell.axes[axis]) in of for axis, of in wanted.items())]
    if not found:
        raise ConfigError("no cell is left: nothing matches", key="--only")
    return tuple(found)


def flat(tables: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield nested tables as `section.key=value`, values in TOML's own syntax."""
    for key, value in tables.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={tomli_w.dumps({'v': value}).partition('=')[2].strip()}"


def _check_item(axis: str, item: Any) -> None:
    if isinstance(item, Mapping) and "value" not in item:
        raise ConfigError("a table of settings needs a `value`, its place on the axis", key=f"axes.{axis}")
    value = _value(item)
    if not isinstance(value, (str, int, float)):
        raise ConfigError(f"expected a number, a word or true/false, got {value!r}", key=f"axes.{axis}")
    if axis == "epsilon" and (isinstance(value, (str, bool)) or not value > 0):
        raise ConfigError(f"expected numbers > 0, or inf, got {value!r}", key="axes.epsilon")


def _value(item: Any) -> Any:
    return item["value"] if isinstance(item, Mapping) else item


def _overrides(axis: str, item: Any, values: Mapping[str, Any]) -> Iterator[str]:
    value = _value(item)
    if axis == "epsilon":
        value = values["epsilon"]
        if math.isinf(value):
            value = NEARLY_NO_NOISE
    yield from flat(dict.fromkeys(SHORT.get(axis, (axis,)), value))
    if isinstance(item, Mapping):
        yield from flat({key: setting for key, setting in item.items() if key != "value"})


def _allows(table: Mapping[str, tuple[Any, ...]], values: Mapping[str, Any]) -> bool:
    asked = {axis for axis in table if not (axis == "epsilon" and values.get("mode") == "none")}
    return all(values[axis] in table[axis] for axis in asked)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", text)
