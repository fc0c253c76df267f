"""How far a sweep is: live bars on a terminal, plain lines in a log.

with SweepProgress() as progress:
    progress.standing(standing)
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from secure_fed_diffusion.sweep.estimate import duration
from secure_fed_diffusion.sweep.pool import Standing

_BAR_WIDTH = 24


class SweepProgress:
    """Show a sweep as its cells run and end; use it as a context manager."""

    def __init__(self, *, console: Console | None = None) -> None:
        self._console = console or Console()
        self._live = Live(console=self._console, refresh_per_second=4) if self._console.is_terminal else None
        self._begun: set[str] = set()

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def standing(self, standing: Standing) -> None:
        """Draw the bars anew, or say which cells were begun since."""
        if self._live:
            self._live.update(_bars(standing))
            return
        for name, done, rounds, _ in standing.running:
            if name not in self._begun:
                self._begun.add(name)
                after = f", after round {done} of {rounds}" if done else ""
                self.note(f"begun: {name}{after}")

    def ended(self, name: str, seconds: float, error: str | None, standing: Standing) -> None:
        """Say how a cell ended, and what is left."""
        ending = f"done: {name}, {duration(seconds)}" if error is None else f"FAILED: {name}: {error}"
        self.note(f"{ending} ({_left(standing)})")

    def note(self, text: str) -> None:
        """Show a sentence above the bars, or as a line of its own."""
        if self._live:
            self._console.print(Text(_printable(text)))
        else:
            encoding = self._console.encoding or "utf-8"
            self._console.file.write(_printable(text).encode(encoding, "replace").decode(encoding) + "\n")
            self._console.file.flush()


def _left(standing: Standing) -> str:
    parts = [f"{standing.done} of {standing.cells} done"]
    if standing.failed:
        parts.append(f"{standing.failed} failed")
    if standing.done + standing.failed < standing.cells:
        guess = "" if standing.seconds_left is not None else ", a guess until a cell is done"
        parts.append(f"about {duration(standing.seconds_guessed)} left{guess}")
    return ", ".join(parts)


def _bars(standing: Standing) -> Group:
    table = Table.grid(padding=(0, 1))
    for name, done, rounds, seconds in standing.running:
        bar = ProgressBar(total=rounds, completed=done, width=_BAR_WIDTH)
        table.add_row(
            Text(name, overflow="ellipsis"), bar, Text(f"round {done}/{rounds}"), Text(duration(seconds))
        )
    whole = Table.grid(padding=(0, 1))
    ended = standing.done + standing.failed
    whole.add_row(
        Text("cells"),
        ProgressBar(total=standing.cells, completed=ended, width=_BAR_WIDTH),
        Text(_left(standing)),
    )
    return Group(table, whole)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)
