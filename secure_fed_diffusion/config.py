"""A run's configuration: TOML in, checked settings out, and the complete TOML back.

The sections are the fields of `RunSettings`, each owned by the module that it configures.  An unknown
key is refused with the nearest right one; a wrong value with its key, the value and what was expected.

>>> settings = parse('[privacy]\\nmode = "local"', overrides=["federation.clients=6"])
>>> settings.privacy.mode, settings.federation.clients
('local', 6)
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import tomli_w
from pydantic import TypeAdapter, ValidationError

from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.federation.settings import RunSettings

Settings = TypeVar("Settings")

_FEW = 4  # keys of one name that a hint lists
_EXPECTED = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "float_type": "a number",
    "int_from_float": "an integer",
    "int_type": "an integer",
    "string_type": "a text",
    "tuple_type": "a list",
}  # by pydantic's name of a finding: what the settings call it


@cache
def _adapter(owner: type[Settings]) -> TypeAdapter[Settings]:
    return TypeAdapter(owner)


def load(path: Path, overrides: Iterable[str] = ()) -> RunSettings:
    """Read a configuration file, with `section.key=value` overrides in TOML's own syntax.

    Raises:
        ConfigError: the file is missing or no TOML, or a key or value in it is wrong.
    """
    return load_as(RunSettings, path, overrides)


def load_as(owner: type[Settings], path: Path, overrides: Iterable[str] = ()) -> Settings:
    """Read a TOML file as the settings class `owner`; see `load`."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"there is no file {path}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    try:
        return parse_as(owner, text, overrides)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is no valid TOML: {error}") from None


def parse(text: str, overrides: Iterable[str] = ()) -> RunSettings:
    """Return the settings of a TOML text; see `load`."""
    return parse_as(RunSettings, text, overrides)


def parse_as(owner: type[Settings], text: str, overrides: Iterable[str] = ()) -> Settings:
    """Return a TOML text as the settings class `owner`; see `load`."""
    values = tomllib.loads(text)
    _check_keys(values, owner, "", owner, quoted=False)
    for override in overrides:
        _override(values, override, owner)
    _check_keys(values, owner, "", owner, quoted=True)
    try:
        return _adapter(owner).validate_python(values)
    except ValidationError as error:
        raise _first(error) from None


def dump(settings: RunSettings) -> str:
    """Return the complete configuration as TOML, every default filled in (None is left out)."""
    return tomli_w.dumps(_plain(dataclasses.asdict(settings)))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


def _override(values: dict[str, Any], override: str, owner: type) -> None:
    """Apply one `section.key=value`; a value that is no TOML is taken as a string."""
    name, equals, text = override.partition("=")
    path = [part.strip() for part in name.split(".")]
    if not equals or len(path) < 2 or not all(path):
        meant = [key for key in _all_keys(owner, "") if key.rpartition(".")[2] == name.strip()]
        depth = min((key.count(".") for key in meant), default=0)
        meant = [key for key in meant if key.count(".") == depth]  # privacy.epsilon, not an optimizer's
        hint = f"; did you mean {' or '.join(meant)}?" if 0 < len(meant) <= _FEW else ""
        raise ConfigError(f"expected --set section.key=value, got {override!r}{hint}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    table = values
    for part in path[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{part!r} is a value, not a section", key=name.strip())
    table[path[-1]] = value


def _check_keys(values: Mapping[str, Any], owner: type, prefix: str, whole: type, *, quoted: bool) -> None:
    """Refuse keys that `owner` does not have, and what is no number where one belongs.

    `owner` is a section of `whole`; `quoted`: a number may be text, as a shell's words are.
    """
    hints = typing.get_type_hints(owner)
    for key, value in values.items():
        if key not in hints:
            raise ConfigError(_unknown(key, owner, hints, prefix, whole), key=f"{prefix}{key}")
        nested = _dataclass_in(hints[key])
        if nested is None:
            _check_number(value, hints[key], f"{prefix}{key}", quoted=quoted)
            continue
        if typing.get_origin(hints[key]) is tuple and not isinstance(value, list):
            raise ConfigError(f"expected a list of tables, got {value!r}", key=f"{prefix}{key}")
        items = value if isinstance(value, list) else [value]
        for item in items:
            if not isinstance(item, Mapping):
                raise ConfigError(f"expected a table, got {item!r}", key=f"{prefix}{key}")
            _check_keys(item, nested, f"{prefix}{key}.", whole, quoted=quoted)


def _check_number(value: Any, hint: Any, key: str, *, quoted: bool) -> None:
    """Refuse what pydantic would make a number of (true is 1, "10" is 10), and words that are none.

    Raises:
        ConfigError: names the key, the kind of number, and what stands there.
    """
    parts = typing.get_args(hint) or (hint,)
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        for i, item in enumerate(value):
            _check_number(item, parts[0], f"{key}.{i}", quoted=quoted)
        return
    kinds = {part for part in parts if part in (int, float, bool, str)}
    words = [word for part in parts if typing.get_origin(part) is Literal for word in typing.get_args(part)]
    if not kinds & {int, float} or kinds & {bool, str} or value in words:
        return
    expected = " or ".join(["a number" if float in kinds else "an integer", *map(repr, words)])
    if isinstance(value, bool):
        raise ConfigError(f"expected {expected}, got {str(value).lower()}", key=key)
    if isinstance(value, str) and not quoted:
        raise ConfigError(f"expected {expected}, got the text {value!r}", key=key)
    if isinstance(value, str) and not _is_number(value):
        raise ConfigError(f"expected {expected}, got {value!r}", key=key)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _unknown(key: str, owner: type, hints: Mapping[str, Any], prefix: str, whole: type) -> str:
    near = difflib.get_close_matches(key, hints, n=1)
    if near:
        return f"no such key; did you mean {prefix}{near[0]}?"
    elsewhere = [path for path in _all_keys(whole, "") if path.rpartition(".")[2] == key]
    if elsewhere:
        return f"no such key; did you mean {elsewhere[0]}?"
    what = "sections" if owner is whole else "keys"
    return f"no such key; the {what} here are {', '.join(hints)}"


def _all_keys(owner: type, prefix: str) -> Iterable[str]:
    for name, hint in typing.get_type_hints(owner).items():
        nested = _dataclass_in(hint)
        if nested is None:
            yield f"{prefix}{name}"
        else:
            yield from _all_keys(nested, f"{prefix}{name}.")


def _dataclass_in(hint: Any) -> type | None:
    """Return the settings class that a type hint names, itself or as the items of a tuple."""
    if dataclasses.is_dataclass(hint):
        return typing.cast(type, hint)
    if typing.get_origin(hint) in (tuple, types.UnionType, typing.Union):
        for part in typing.get_args(hint):
            if dataclasses.is_dataclass(part):
                return typing.cast(type, part)
    return None


def _first(error: ValidationError) -> ConfigError:
    """Return the first finding, in our words; our own errors pass through pydantic as they are."""
    finding = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in finding["loc"] if not str(part).startswith(("literal[", "int")))
    message = finding["msg"][:1].lower() + finding["msg"][1:]
    hint = ""
    if finding["type"] in _EXPECTED:
        message = f"expected {_EXPECTED[finding['type']]}"
    if finding["type"] == "literal_error":
        allowed = [item.strip(" '") for item in finding["ctx"]["expected"].replace(" or ", ", ").split(", ")]
        near = difflib.get_close_matches(str(finding["input"]), allowed, n=1)
        message = f"expected one of {', '.join(allowed)}"
        hint = f"; did you mean {near[0]}?" if near else ""
    return ConfigError(f"{message}, got {finding['input']!r}{hint}", key=key)
