"""Take a defence out of the real code for the length of a `with` block.

>>> import math
>>> def without_pi(patch: Patch) -> None:
...     patch.setattr(math, "pi", 3)
>>> with without(without_pi):
...     math.pi
3
>>> round(math.pi, 2)
3.14
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol
from unittest import mock


class Patch(Protocol):
    """What a weakening needs; pytest's MonkeyPatch has it too."""

    def setattr(self, target: Any, name: Any, value: Any = ..., /) -> None:
        """Replace `target.name`, or the dotted name `target`, until the block ends."""


Weakening = Callable[[Patch], None]


class _Patches:
    """Replaced attributes that an `ExitStack` puts back."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def setattr(self, target: Any, name: Any, *value: Any) -> None:
        if not value:  # setattr("module.name", value)
            path, _, attribute = target.rpartition(".")
            target, name, value = importlib.import_module(path), attribute, (name,)
        self._stack.enter_context(mock.patch.object(target, name, value[0]))


@contextmanager
def without(*weakenings: Weakening) -> Iterator[None]:
    """Apply weakenings, and undo them in reverse order whatever happens."""
    with ExitStack() as stack:
        patch = _Patches(stack)
        for weaken in weakenings:
            weaken(patch)
        yield
