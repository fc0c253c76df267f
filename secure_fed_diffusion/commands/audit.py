"""`sfd audit`: recompute what a run spent, and judge it by its canaries."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from secure_fed_diffusion.commands.terminal import AsJson, RunFolder, quiet
from secure_fed_diffusion.errors import ConfigError, LedgerError

if TYPE_CHECKING:
    from secure_fed_diffusion.audit.report import FolderAudit
    from secure_fed_diffusion.federation.records import Records


def audit(
    directory: RunFolder,
    head: Annotated[str | None, typer.Option(help="A ledger head that somebody else kept.")] = None,
    as_json: AsJson = False,
) -> None:
    """Recompute what was spent, judge by the canaries; status 1 if a line was altered or a test accuses."""
    from secure_fed_diffusion.audit.report import audit_folder
    from secure_fed_diffusion.federation.records import read_records

    if head is not None and re.fullmatch(r"[0-9a-fA-F]{64}", head) is None:
        raise ConfigError(f"expected 64 hexadecimal digits, got {head!r}", key="--head")
    quiet()
    try:
        records = read_records(directory, head=None if head is None else head.lower())
    except LedgerError as error:
        raise LedgerError(f"{error}; the audit failed") from error
    found = audit_folder(directory, records.own)
    drawing = _draw_audit(found, directory / "audit.svg")
    if as_json:
        typer.echo(json.dumps(records.to_dict() | {"audit": found.to_dict() | {"drawing": drawing}}))
    else:
        _print_audit(records, found)
        if drawing is not None:
            typer.echo(f"drawing: {drawing}")
    if not found.passed:
        raise typer.Exit(1)


def _draw_audit(found: FolderAudit, path: Path) -> str | None:
    """Draw an audit with canaries beside the run; a folder that may only be read is audited all the same."""
    from secure_fed_diffusion.reporting.audit_figure import plot_audit

    if found.last is None:
        return None
    try:
        return str(plot_audit(found, path))
    except OSError:
        return None


def _print_audit(records: Records, found: FolderAudit) -> None:
    from secure_fed_diffusion.dp import SPENT_ASSUMPTION
    from secure_fed_diffusion.reporting.audit_console import print_audit
    from secure_fed_diffusion.reporting.console import epsilon_table
    from secure_fed_diffusion.reporting.wording import terms

    report = records.own
    figures = report.to_dict()
    guard = report.terms.guard.key
    print_audit(found)
    mechanism = next(iter(report.terms.mechanisms.values()))
    if figures["rounds"]:
        spent, planned = list(figures["rounds"].values())[-1], figures["plan_epsilon"]
        tables = {"ε": spent}  # mode none, in which nothing is reserved
        if planned is not None:
            tables = {
                "guarantee: ε of every charge that the plan reserves,": planned,
                f"spent: ε {SPENT_ASSUMPTION},": spent,
            }
        for what, prices in tables.items():
            epsilon_table(
                prices,
                delta=report.terms.delta,
                unit=mechanism.unit,
                relation=mechanism.relation,
                what=what,
            )
    budget, of_what = (
        report.terms.budget_epsilon,
        terms(report.terms.delta, mechanism.unit, mechanism.relation),
    )
    typer.echo(
        "no budget: nothing is promised"
        if budget is None
        else f"budget: ε = {budget:g} ({report.terms.accountant.upper()}) at {of_what}, view: {guard}"
    )
    if report.terms.note:
        typer.echo(report.terms.note)
    for line in records.shared_lines():
        typer.echo(line)
    typer.echo(records.statement)
    if records.testimony.roster_root is not None:
        typer.echo(f"roster: {records.testimony.roster_root}")
    typer.echo(f"head: {report.head}")
