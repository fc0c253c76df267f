"""What a check is: a question that the package as it is answers with a yes.

A topic's module has a `Table`, and enters its checks in it in the order in which the page lists them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from secure_fed_diffusion.errors import SecureFedDiffusionError
from tests.mutants.laboratory import Laboratory

STOPS = "the pipeline stops: "
"""How a finding begins that is no more than that: a check that did not come to its question."""

Ask = Callable[[Laboratory], "str | None"]
LEVEL = 1e-6  # of the chi-square tests


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A question about the package with a yes for an answer; `ask` returns None, or what is wrong."""

    name: str
    looks_at: str
    ask: Ask

    def finding(self, laboratory: Laboratory) -> str | None:
        """Ask; one of the package's own errors is a finding."""
        try:
            return self.ask(laboratory)
        except SecureFedDiffusionError as error:
            return f"{STOPS}{type(error).__name__}"


class Table(dict[str, Check]):
    """Checks by their names, in order."""

    def check(self, name: str, looks_at: str) -> Callable[[Ask], Ask]:
        """Enter a check in the table."""

        def enter(ask: Ask) -> Ask:
            self[name] = Check(name=name, looks_at=looks_at, ask=ask)
            return ask

        return enter
