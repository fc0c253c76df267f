"""Seconds of the processor's own time, by part: functions are wrapped, and parts may lie in each other."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Meter:
    """Seconds by part; a part that begins inside another stops the other's clock."""

    spent: dict[str, float] = field(default_factory=dict)
    _open: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def running(self, part: str) -> Iterator[None]:
        """Count what is inside for `part`."""
        now = time.process_time()
        if self._open:
            self._add(*self._open[-1], now)
        self._open.append((part, now))
        try:
            yield
        finally:
            now = time.process_time()
            self._add(*self._open.pop(), now)
            if self._open:
                self._open[-1] = (self._open[-1][0], now)

    def around(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, counted for `part`."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            with self.running(part):
                found = function(*args, **kwargs)
            return self._each(part, found) if isinstance(found, Generator) else found

        return counted

    def _each(self, part: str, found: Iterator[Any]) -> Iterator[Any]:
        """Yield what is computed step by step, counted for `part`."""
        nothing = object()
        while True:
            with self.running(part):
                item = next(found, nothing)
            if item is nothing:
                return
            yield item

    def _add(self, part: str, since: float, now: float) -> None:
        self.spent[part] = self.spent.get(part, 0.0) + now - since
