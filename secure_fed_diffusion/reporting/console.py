"""The progress of a run and its ε table, on a terminal or in a log file.

On a terminal `RunProgress` is one live bar; elsewhere (a pipe, a log, a CI job) it is plain lines,
one for every N rounds, without a single control character.  It shows ε of the guarded view against
the budget, the loss on the public hold-out split and the survivors; it reads no other key, so a
training loss that found its way into a record is not displayed.

    with RunProgress(total_rounds=40) as progress:
        progress.round({"round": 1, "epsilon": ..., "holdout_loss": 0.9, ...})
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from secure_fed_diffusion.dp.realised import SPENT_ASSUMPTION
from secure_fed_diffusion.reporting.metric_rows import metric_rows, metric_text
from secure_fed_diffusion.reporting.wording import (
    adversary,
    bound,
    epsilon_text,
    figure_text,
    number,
    pick,
    terms,
)

_WIDE_COLUMNS = 120  # below it the bar would have no room beside the whole sentence
_PLAIN_LINES = 20  # a log of a run of any length stays on one screen


class RunProgress:
    """Show a run's rounds as they end; use it as a context manager."""

    def __init__(self, total_rounds: int, *, console: Console | None = None) -> None:
        self._total = total_rounds
        self._console = console or Console()
        self._every = max(1, -(-total_rounds // _PLAIN_LINES))
        self._live: Progress | None = None
        if self._console.is_terminal:
            self._live = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[facts]}", markup=False),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._live.add_task(f"round 0/{total_rounds}", total=total_rounds, facts="starting")

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def round(self, record: Mapping[str, Any]) -> None:
        """Show one line of `metrics.jsonl`."""
        index = int(record["round"])
        facts = _facts(record)
        if self._live:
            shown = facts if self._console.width >= _WIDE_COLUMNS else _short_facts(record)
            label = f"round {index}/{self._total}"
            self._live.update(self._task, completed=index, description=label, facts=shown)
        evaluated = _metrics_text(record)
        if evaluated:
            facts = f"{facts} · {evaluated}"
        if self._live and evaluated:
            self.note(f"round {index}: {evaluated}")
        elif not self._live and (evaluated or index % self._every == 0 or index in (1, self._total)):
            _print_plain(self._console, f"round {index}/{self._total} · {facts}")

    def note(self, text: str) -> None:
        """Show a sentence above the bar, or as a line of its own."""
        if self._live:
            self._console.print(Text(_printable(text)))
        else:
            _print_plain(self._console, text)


def epsilon_table(
    epsilon: Mapping[str, Any] | None,
    *,
    delta: float | None,
    unit: str | None,
    relation: str | None,
    what: str = "ε",
    console: Console | None = None,
) -> None:
    """Print ε for each view by each accountant, with the adversary in words; `what` says which ε it is.

    `epsilon` is `{view: {"pld": float | None, "rdp": float | None}}`; None means no guarantee.
    """
    console = console or Console()
    head = f"{what} at {terms(delta, unit, relation)}"
    rows = [
        (
            view,
            epsilon_text(pick(epsilon, view, "pld")),
            epsilon_text(pick(epsilon, view, "rdp")),
            adversary(view),
        )
        for view in epsilon or {}
    ]
    if not rows:
        head, rows = "no noise was accounted for: there is no guarantee", []
    if console.is_terminal:
        table = Table(title=Text(_printable(head)), title_justify="left")
        table.add_column("view", no_wrap=True)
        table.add_column("ε (PLD)", justify="right", no_wrap=True)
        table.add_column("ε (RDP)", justify="right", no_wrap=True)
        table.add_column("whoever sees it is", overflow="fold")
        for row in rows:
            table.add_row(*(Text(_printable(cell)) for cell in row))
        console.print(table if rows else Text(head))
        return
    _print_plain(console, head)
    if rows:
        rows.insert(0, ("view", "PLD", "RDP", "adversary"))
        widths = [max(len(row[i]) for row in rows) for i in range(3)]
        for view, pld, rdp, who in rows:
            _print_plain(console, f"  {view:<{widths[0]}}  {pld:>{widths[1]}}  {rdp:>{widths[2]}}  {who}")


def guarantee_text(summary: Mapping[str, Any]) -> str:
    """Return the line that ends a run: what it was promised, and what it spent of that."""
    view = summary.get("guard_view")
    spent, _ = bound(summary.get("epsilon"), view)
    planned, accountant = bound(summary.get("plan_epsilon"), view)
    if planned is None:
        return "no privacy guarantee"
    of_what = terms(summary.get("delta"), summary.get("unit"), summary.get("relation"))
    return (
        f"guarantee: ε = {epsilon_text(planned)} ({accountant}) at {of_what}, view: {view}; spent of it: "
        f"{epsilon_text(spent)}, {SPENT_ASSUMPTION}"
    )


def _facts(record: Mapping[str, Any]) -> str:
    view = record.get("guard_view")
    spent, accountant = bound(record.get("epsilon"), view)
    budget = number(record.get("budget_epsilon"))
    facts = ["no privacy guarantee"]
    if spent is not None:
        limit = f" of {budget:g}" if budget is not None else ""
        facts = [f"ε spent {epsilon_text(spent)}{limit} ({view}, {accountant})"]
    loss = number(record.get("holdout_loss"))
    if loss is not None:
        facts.append(f"hold-out loss {figure_text(loss)}")
    if isinstance(record.get("cohort"), list):
        facts.append(f"survivors {len(record.get('survivors') or ())}/{len(record['cohort'])}")
    return " · ".join(facts)


def _short_facts(record: Mapping[str, Any]) -> str:
    spent, _ = bound(record.get("epsilon"), record.get("guard_view"))
    budget = number(record.get("budget_epsilon"))
    facts = [
        "no privacy" if spent is None else f"ε {epsilon_text(spent)}" + (f"/{budget:g}" if budget else "")
    ]
    loss = number(record.get("holdout_loss"))
    if loss is not None:
        facts.append(f"hold-out {figure_text(loss)}")
    if isinstance(record.get("cohort"), list):
        facts.append(f"{len(record.get('survivors') or ())}/{len(record['cohort'])}")
    return " · ".join(facts)


def _metrics_text(record: Mapping[str, Any]) -> str:
    return " · ".join(map(metric_text, metric_rows(record)))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _print_plain(console: Console, text: str) -> None:
    """Write one line as it is: no colour, no wrapping, and no character the stream cannot hold."""
    encoding = console.encoding or "utf-8"
    line = _printable(text).encode(encoding, "replace").decode(encoding)
    try:
        console.file.write(f"{line}\n")
        console.file.flush()
    except OSError as error:
        error.filename = "standard output"  # the system names no stream
        raise
