"""What may pass from the system to an attack: plain data, copied.

A view that held an object of the system (a client, a server, a generator, a bound method) would let an attack
do more than its adversary can, and nobody would see it in the table.  So a view is taken apart: arrays
without objects in them, tensors without a graph or attributes, bytes, numbers, text, and frozen
dataclasses, tuples, frozen sets and mappings of those.  What the attack gets is a COPY, read-only where
Python has that: no `.base` of an array and no storage of a tensor leads back.

Not protected against: an author who writes the truth into a field in other words.  Reviewers read the stage.

>>> copied((1, b"frame", {"a": 2.0}), where="view")
(1, b'frame', mappingproxy({'a': 2.0}))
>>> copied([print], where="view")
Traceback (most recent call last):
    ...
secure_fed_diffusion.errors.ConfigError: view: expected plain data, got list
"""

from __future__ import annotations

import dataclasses
import sys
import types
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

import numpy as np

from secure_fed_diffusion.errors import ConfigError

_SCALARS = (type(None), bool, int, float, complex, str, bytes)


def copied(value: Any, *, where: str) -> Any:
    """Return a deep copy of plain data; `where` names the field in the error.

    Raises:
        ConfigError: anything else is in it, at any depth.
    """
    kind = type(value)
    if kind in _SCALARS or isinstance(value, np.generic) or _is_plain_enum(value):
        if isinstance(value, np.void):
            raise _refused(value, where)
        return value
    if kind is np.ndarray:
        return _array(value, where)
    if _is_tensor(value):
        return _tensor(value, where)
    if kind is tuple:
        return tuple(copied(item, where=f"{where}[{i}]") for i, item in enumerate(value))
    if kind is frozenset:
        return frozenset(copied(item, where=where) for item in value)
    if kind in (dict, types.MappingProxyType):
        return types.MappingProxyType(
            {copied(k, where=f"{where} key"): copied(v, where=f"{where}[{k!r}]") for k, v in value.items()}
        )
    if dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        return _record(value, where)
    raise _refused(value, where)


def shared_memory(view: Any, truth: Any) -> bool:
    """Tell whether an array or tensor of the view lies in the memory of one of the truth."""
    hidden = list(_buffers(truth))
    return any(np.shares_memory(a, b) for a in _buffers(view) for b in hidden)


def _array(value: np.ndarray[Any, Any], where: str) -> np.ndarray[Any, Any]:
    if value.dtype.hasobject:
        raise _refused(value, where, "an array of objects")
    copy = value.copy()
    copy.setflags(write=False)
    return copy


def _tensor(value: Any, where: str) -> Any:
    if value.grad_fn is not None or value._backward_hooks:
        raise _refused(value, where, "a tensor with a graph behind it")
    if vars(value):
        raise _refused(value, where, "a tensor with attributes of its own")
    return value.detach().clone()


def _record(value: Any, where: str) -> Any:
    kind = type(value)
    names = {entry.name for entry in dataclasses.fields(kind)}
    beside = set(getattr(value, "__dict__", {})) - names
    if beside:
        raise _refused(value, where, f"attributes that are no fields ({', '.join(sorted(beside))})")
    copy = object.__new__(kind)
    for name in names:
        object.__setattr__(copy, name, copied(getattr(value, name), where=f"{where}.{name}"))
    return copy


def _is_plain_enum(value: Any) -> bool:
    return isinstance(value, Enum) and type(value.value) in _SCALARS


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")  # a view of torch tensors has imported it
    return torch is not None and type(value) is torch.Tensor


def _buffers(value: Any) -> Iterator[np.ndarray[Any, Any]]:
    if isinstance(value, np.ndarray):
        yield value
    elif _is_tensor(value):
        if value.device.type == "cpu":
            yield value.detach().numpy()
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _buffers(item)
    elif isinstance(value, tuple | list | set | frozenset):
        for item in value:
            yield from _buffers(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for entry in dataclasses.fields(value):
            yield from _buffers(getattr(value, entry.name))


def _refused(value: Any, where: str, what: str | None = None) -> ConfigError:
    return ConfigError(f"expected plain data, got {what or type(value).__name__}", key=where)
