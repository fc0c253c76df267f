"""What a mutant is: one function of the package, and a broken one that can be put in its place.

A topic's module has a `Table`, and enters its mutants in it in the order in which the page lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from secure_fed_diffusion.audit import tradeoff

Honest = Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One broken function; `survives` is the reason why no check here kills it, None where one must."""

    name: str
    broken: str
    target: Any  # the module or class
    attribute: str
    breaking: Callable[[Honest], Any]  # from the true function; called anew for each use
    named: str | None
    survives: str | None

    @property
    def place(self) -> str:
        """The file and the function."""
        holder = self.target if hasattr(self.target, "__file__") else None
        if holder is not None:
            true = getattr(holder, self.attribute)
            return f"{_short(holder.__name__)}::{getattr(true, '__name__', self.attribute)}"
        return f"{_short(self.target.__module__)}::{self.target.__name__}.{self.attribute}"

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Put the mutant in the function's place."""
        true = self.target.__dict__[self.attribute]
        try:
            _forget()
            with patch.object(self.target, self.attribute, self.breaking(true)):
                yield
        finally:
            _forget()


def _forget() -> None:
    """Empty the caches that hold what an accountant, broken or whole, said before."""
    for held in vars(tradeoff).values():
        if hasattr(held, "cache_clear"):
            held.cache_clear()


def _short(module: str) -> str:
    return module.removeprefix("secure_fed_diffusion.").replace(".", "/") + ".py"


class Table(dict[str, Mutant]):
    """Mutants by their names, in order."""

    def mutant(
        self,
        target: Any,
        attribute: str,
        broken: str,
        *,
        named: str | None = None,
        survives: str | None = None,
    ) -> Callable[[Callable[[Honest], Any]], None]:
        """Enter a mutant in the table, under its function's name."""

        def enter(breaking: Callable[[Honest], Any]) -> None:
            name = breaking.__name__.strip("_").replace("_", " ").replace(" s ", "'s ")
            self[name] = Mutant(
                name=name,
                broken=broken,
                target=target,
                attribute=attribute,
                breaking=breaking,
                named=named,
                survives=survives,
            )

        return enter
