"""The record of a run as an auditor reads it: its own ledger, the signed heads, its data set's ledger.

Everything is recomputed from the files; nothing here needs the data, the model or torch.

Not protected against: what `dp.ledger`, `testimony` and `dp.shared` each say that they do not show.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from secure_fed_diffusion.dp.ledger import LedgerReport, verify
from secure_fed_diffusion.dp.shared import SharedReport, verify_shared
from secure_fed_diffusion.errors import LedgerError, RunError, WrongFolderError
from secure_fed_diffusion.federation.testimony import HEADS, LEDGER, ROSTER, Testimony, examine


@dataclass(frozen=True, slots=True, kw_only=True)
class Records:
    """What the files of a run show together."""

    own: LedgerReport
    testimony: Testimony
    shared: SharedReport | None

    @property
    def statement(self) -> str:
        """Say how far the run's own record is bound."""
        return self.testimony.statement(self.own)

    def shared_lines(self) -> list[str]:
        """Describe the data set's spending in lines for people; none without a shared ledger."""
        if self.shared is None:
            return []
        terms, runs = self.shared.terms, self.shared.holdings
        n_open = sum(not holding.settled for holding in runs.values())
        return [
            f"data set {terms.dataset}: ε = {self.shared.epsilon:.4f} of {terms.budget_epsilon:g} at "
            f"δ = {terms.delta:g} over {len(runs)} runs ({n_open} of them not ended: counted in full), "
            f"unit {terms.unit}, against {self.shared.adversary}",
            f"shared head: {self.shared.head}",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return the ledger's report, with what the heads and the data set's ledger add."""
        return {
            **self.own.to_dict(),
            "statement": self.statement,
            "signed": self.testimony.to_dict(),
            "shared": None if self.shared is None else self.shared.to_dict(),
        }


def read_records(directory: Path, *, head: str | None = None) -> Records:
    """Check every record in a run's folder; `head` is an anchor of its own ledger.

    Raises:
        LedgerError: with the file and its first bad line.
        WrongFolderError: this is no run's folder.
        RunError: a run's ledger is gone, or the shared one that the configuration names is; or the
            configuration is not the one that the ledger was begun with.
    """
    ledger = directory / LEDGER
    if not any((directory / name).exists() for name in (LEDGER, "config.toml", HEADS, ROSTER)):
        raise WrongFolderError(f"{directory} holds no run: there is no ledger ({LEDGER}) in it")
    try:
        own = verify(ledger, head=head)
        testimony = examine(directory, own)
    except LedgerError as error:
        raise (error if error.path else error.within(ledger)) from error
    _require_own_config(directory, own)
    path = _shared_path(directory)
    if path is None:
        return Records(own=own, testimony=testimony, shared=None)
    try:
        shared = verify_shared(path)
        _require_counted(own, shared)
    except LedgerError as error:
        raise error.within(path) from error
    return Records(own=own, testimony=testimony, shared=shared)


def _require_own_config(directory: Path, own: LedgerReport) -> None:
    """Refuse a run's configuration that was edited since; an institution's names its own files instead."""
    path = directory / "config.toml"
    if not path.is_file() or (directory / "agreement.json").exists():
        return
    found = sha256(path.read_bytes()).hexdigest()
    if found != own.terms.config_digest:
        raise RunError(
            f"{path} is not the configuration that this run was begun with: its SHA-256 is {found}, the "
            f"ledger has {own.terms.config_digest}"
        )


def _shared_path(directory: Path) -> Path | None:
    try:
        privacy = tomllib.loads((directory / "config.toml").read_text(encoding="utf-8"))["privacy"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError) as error:
        raise RunError(f"{directory / 'config.toml'} is no run's configuration") from error
    named = privacy.get("shared_ledger")
    return None if named is None else Path(named).expanduser()


def _require_counted(own: LedgerReport, shared: SharedReport) -> None:
    """Refuse a run that shows more than its data set's ledger counts for it."""
    held = shared.holdings.get(own.terms.run_id)
    counted = {} if held is None else held.counts
    for name, steps in own.most.items():
        if steps > counted.get(name, 0):
            raise LedgerError(
                f"this run took {steps} steps of {name!r}, {counted.get(name, 0)} are counted for it"
            )
