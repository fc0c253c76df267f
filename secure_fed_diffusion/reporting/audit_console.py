"""An audit on a terminal or in a log: one row a round, then what was found and what was not looked at.

On a terminal the rows are a table; elsewhere they are plain lines without a control character.  Upper
bounds are rounded up and lower bounds down.

    print_audit(audit_folder(Path("runs/first"), verify(Path("runs/first/ledger.jsonl"))))
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from secure_fed_diffusion.audit.evidence import Evidence
from secure_fed_diffusion.audit.report import FolderAudit, RoundAudit
from secure_fed_diffusion.dp.realised import SPENT_ASSUMPTION
from secure_fed_diffusion.reporting.audit_figure import lower_text
from secure_fed_diffusion.reporting.wording import epsilon_text, terms

_VIEW_WORDS = "at most (PLD / RDP)"


def print_audit(audit: FolderAudit, console: Console | None = None) -> None:
    """Print every round, the verdict, and the sentences that say what it means."""
    console = console or Console()
    terms_of = audit.ledger.terms
    mechanism = next(iter(terms_of.mechanisms.values()))
    what_for = f", {SPENT_ASSUMPTION}" if terms_of.planned() else ""  # mode none promises nothing
    title = (
        f"ε spent by the client that spent most, at "
        f"{terms(terms_of.delta, mechanism.unit, mechanism.relation)}{what_for}"
    )
    views = list(next(iter(audit.ledger.rounds.values()), {}))
    head = ["round", *(f"{view}{' (budget)' * (view == terms_of.guard.key)}" for view in views)]
    if audit.last is not None:
        head += [f"{audit.upper_view} realised", _lower_head(audit), "A0", "A6 e-value", "would see"]
    rows = [_row(each, views, with_canaries=audit.last is not None) for each in audit.rounds]
    if console.is_terminal:
        table = Table(title=Text(f"{title}; {_VIEW_WORDS}"), title_justify="left")
        for index, name in enumerate(head):
            table.add_column(name, justify="right" if index < len(head) - 1 else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)
    else:
        _print_plain(console, f"{title}; {_VIEW_WORDS}")
        for line in _aligned([head, *rows]):
            _print_plain(console, f"  {line}")
    _print_plain(console, f"audit: {audit.verdict}")
    for accusation in audit.accused:
        _print_plain(console, f"  accused by {accusation}")
    for sentence in audit.sentences:
        _print_plain(console, f"  {sentence}")


def _lower_head(audit: FolderAudit) -> str:
    lower = audit.last.lower if audit.last else None
    return "at least" if lower is None else f"at least ({100 * lower.confidence:g} %)"


def _row(each: RoundAudit, views: Sequence[str], *, with_canaries: bool) -> list[str]:
    cells = [str(each.number)]
    for view in views:
        prices = each.upper[view]
        cells.append(" / ".join(epsilon_text(prices[accountant]) for accountant in ("pld", "rdp")))
    if not with_canaries:
        return cells
    if each.evidence is None or each.lower is None:
        return [*cells, "–", "–", "–", "–", "no canaries"]
    return [
        *cells,
        "" if each.realised is None else epsilon_text(each.realised),
        lower_text(each.lower.epsilon),
        each.evidence.conformance.verdict,
        f"{each.evidence.e_value:.2g} of {each.evidence.alarm:.3g}",
        _smallest(each.evidence),
    ]


def _smallest(evidence: Evidence) -> str:
    """Say how little too little noise, or too high a rate, this audit would have seen by now."""
    seen = evidence.conformance.smallest_violation
    noise = None if seen.noise_shortfall is None else f"noise −{100 * seen.noise_shortfall:.2g} %"
    rate = None if seen.oversampling is None else f"rate +{100 * seen.oversampling:.0f} %"
    return ", ".join(part for part in (noise, rate) if part) or "nothing"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return [
        "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _print_plain(console: Console, text: str) -> None:
    """Write one line as it is: no colour, no wrapping, and no character the stream cannot hold."""
    encoding = console.encoding or "utf-8"
    line = "".join(character if character.isprintable() else " " for character in text)
    console.file.write(f"{line.encode(encoding, 'replace').decode(encoding)}\n")
    console.file.flush()
