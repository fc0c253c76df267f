"""The ledger of one data set: what all runs on it may spend together, in one file.

A run RESERVES its whole plan before any work and is refused if the sum over all runs would overspend; it
is counted in full until it SETTLES, when it is over, for what its own ledger then shows.  A run that was
killed or given up stays counted in full until it is resumed and ends.

Against whom the budget holds is said in `spending`: all servers but those of mode `central`, with as many
clients as any of the runs is to withstand.  A run that has to withstand more of them makes the earlier ones
dearer, and is refused if they do not hold against so many.

Hash-chained like a run's own ledger; each step locks the file, reads it, appends and syncs, so runs may
go on side by side.

Not protected against: a cut tail, without an anchor (`verify_shared(path, head=...)`); a run that does
not name this ledger; a copy of a run's folder that is resumed beside the original.

>>> book = SharedLedger("spent.jsonl", terms)  # doctest: +SKIP
>>> book.reserve(reservation)  # doctest: +SKIP
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from secure_fed_diffusion.dp import chain
from secure_fed_diffusion.dp.account import write_epsilon
from secure_fed_diffusion.dp.spending import DatasetTerms, Holding, Reservation, Spending
from secure_fed_diffusion.errors import (
    BudgetExceededError,
    ConfigError,
    LedgerError,
    PrivacyError,
    RunError,
)

_ARITHMETIC_TOLERANCE = 1e-6  # between machines; relative
_FAULTS = (PrivacyError, ConfigError, ValueError, KeyError, TypeError, AttributeError)


class SharedLedger:
    """The ledger of one data set; every step locks it, so many runs may hold one of these."""

    def __init__(self, path: Path | str, terms: DatasetTerms) -> None:
        self._path, self._terms = Path(path), terms

    def price(self, wanted: Reservation) -> float:
        """Return ε of all runs so far and `wanted`, or refuse it; writes nothing.

        Raises:
            BudgetExceededError: names the budget, what the earlier runs hold of it, and the run whose
                colluders raise the price of others.
            ConfigError: the ledger was begun for another data set, unit, δ or budget.
            LedgerError: a line of it was altered.
        """
        try:
            entries, _ = chain.decode(self._path.read_bytes())
        except FileNotFoundError:
            entries = []
        return self._affordable(self._spending(entries), wanted)[1]

    def reserve(self, wanted: Reservation) -> float:
        """Count a run in full before any of its work; a run that holds its reservation keeps it.

        Guarantees: on return the reservation is on disk; on a refusal nothing was written.

        Raises:
            BudgetExceededError, ConfigError, LedgerError: as `price`.
        """
        descriptor, entries = self._lock()
        try:
            before = self._spending(entries)
            after, reached = self._affordable(before, wanted)
            if after.holdings != before.holdings:
                self._write(descriptor, entries, {"kind": "reserve", **wanted.to_dict()}, reached)
            return reached
        finally:
            os.close(descriptor)

    def settle(self, run_id: str, counts: Mapping[str, int]) -> float:
        """Count a run that is over for what its own ledger shows; return ε of all runs.

        Raises:
            PrivacyError: nothing is reserved for it, or it spent more than that.
        """
        descriptor, entries = self._lock()
        try:
            after = self._spending(entries).settle(run_id, counts)
            reached = after.epsilon()
            body = {"kind": "settle", "run_id": run_id, "counts": dict(counts)}
            self._write(descriptor, entries, body, reached)
            return reached
        finally:
            os.close(descriptor)

    def holds(self, run_id: str) -> Holding | None:
        """Return how a run is counted now, or None."""
        entries, _ = chain.decode(self._path.read_bytes()) if self._path.exists() else ([], 0)
        return self._spending(entries).holdings.get(run_id)

    def _lock(self) -> tuple[int, list[chain.Entry]]:
        """Open for this process alone, waiting for others; cut away what a killed writer left."""
        new = not self._path.exists()
        try:
            descriptor = chain.open_locked(self._path, os.O_RDWR | os.O_CREAT, wait=True)
        except (RunError, OSError):
            raise RunError(f"{self._path} cannot be opened or made: its folder must exist") from None
        try:
            data = self._path.read_bytes()
            entries, torn = chain.decode(data)
            os.ftruncate(descriptor, len(data) - torn)
            os.lseek(descriptor, 0, os.SEEK_END)
            if new:
                chain.sync_folder(self._path.parent)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor, entries

    def _write(
        self, descriptor: int, entries: list[chain.Entry], body: Mapping[str, Any], reached: float
    ) -> None:
        number, previous, lines = len(entries), entries[-1].digest if entries else chain.FIRST, b""
        bodies = [{**body, "epsilon": write_epsilon(reached)}]
        if not entries:
            bodies.insert(0, {"kind": "dataset", **asdict(self._terms)})
        for fields_ in bodies:
            line, previous = chain.encode(fields_, sequence=number, previous=previous)
            number, lines = number + 1, lines + line
        chain.append(descriptor, lines)

    def _spending(self, entries: list[chain.Entry]) -> Spending:
        if not entries:
            return Spending(self._terms, MappingProxyType({}))
        for entry, (state, _) in zip(entries, _replay(entries), strict=True):
            _require_within(state, entry.line)
            spending = state
        for name, found in asdict(spending.terms).items():
            if found != getattr(self._terms, name):
                raise ConfigError(
                    f"{self._path.name} was begun with {name} = {found!r}, this run has "
                    f"{getattr(self._terms, name)!r}",
                    key="privacy.shared_ledger",
                )
        return spending

    def _affordable(self, spending: Spending, wanted: Reservation) -> tuple[Spending, float]:
        after = spending.reserve(wanted)
        reached = after.epsilon()
        if reached > self._terms.budget_epsilon:
            others = {run: held for run, held in spending.holdings.items() if run != wanted.run_id}
            held = Spending(spending.terms, others).epsilon()
            n_open = sum(not holding.settled for holding in others.values())
            alone = (
                "; a plan that fits alone may be more than the filter for several runs has (dp.spending)"
                if math.isinf(reached) and others
                else ""
            )
            raise BudgetExceededError(
                f"the data set {self._terms.dataset!r} would reach ε = {reached:.4f} at "
                f"δ = {self._terms.delta:g}, its budget is {self._terms.budget_epsilon:g}; {len(others)} "
                f"earlier runs hold ε = {held:.4f} of it ({n_open} of them not ended: counted in full){alone}"
                f"{after.raised_by(wanted.run_id)}"
            )
        return after, reached


def _replay(entries: list[chain.Entry]) -> Iterator[tuple[Spending, float]]:
    """Yield the state after each line and the ε that it records (the terms: 0).

    Raises:
        LedgerError: the first line that is no valid step.
    """
    body = dict(entries[0].fields)
    try:
        if body.pop("kind", None) != "dataset":
            raise PrivacyError("expected a data set's terms")
        spending = Spending(DatasetTerms(**body), MappingProxyType({}))
    except _FAULTS as error:
        raise LedgerError(f"no valid terms: {error}", line=1) from error
    yield spending, 0.0
    for entry in entries[1:]:
        body = dict(entry.fields)
        try:
            kind, recorded = body.pop("kind"), body.pop("epsilon")
            if kind == "reserve":
                spending = spending.reserve(Reservation.from_dict(body))
            elif kind == "settle" and set(body) == {"run_id", "counts"}:
                spending = spending.settle(body["run_id"], body["counts"])
            else:
                raise PrivacyError(f"no step is called {kind!r}")
            said = math.inf if recorded is None else float(recorded)
        except _FAULTS as error:
            raise LedgerError(str(error), line=entry.line) from error
        yield spending, said


def _require_within(spending: Spending, line: int) -> None:
    """Refuse a state that no run could have been admitted to, as that of an earlier version's rules may be.

    Raises:
        LedgerError: more than the budget is taken at this line.
    """
    taken, budget = spending.epsilon(), spending.terms.budget_epsilon
    if taken > budget * (1 + _ARITHMETIC_TOLERANCE):
        raise LedgerError(
            f"ε = {taken:.6g} is more than the budget {budget:g}{spending.raised_by()}", line=line
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedReport:
    """What an auditor can say of a data set's spending from its ledger alone."""

    terms: DatasetTerms
    holdings: Mapping[str, Holding]
    epsilon: float
    lines: int
    head: str
    truncation_excluded: bool

    @property
    def adversary(self) -> str:
        """Say against whom the budget holds now."""
        return Spending(self.terms, self.holdings).adversary

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return {
            "terms": asdict(self.terms),
            "adversary": self.adversary,
            "runs": {
                run_id: {
                    "guard": holding.reservation.guard.key,
                    "counts": dict(holding.counts),
                    "settled": holding.settled,
                }
                for run_id, holding in self.holdings.items()
            },
            "epsilon": write_epsilon(self.epsilon),
            "lines": self.lines,
            "head": self.head,
            "truncation_excluded": self.truncation_excluded,
        }


def verify_shared(path: Path | str, *, head: str | None = None) -> SharedReport:
    """Recompute a data set's spending from the file: the chain, each step, each recorded ε, the budget.

    Raises:
        LedgerError: the first line that was altered, breaks a rule, or says another ε than its
            recomputation; or the anchor is nowhere in the chain.
        RunError: there is no such file.
    """
    try:
        entries, _ = chain.decode(Path(path).read_bytes())
    except FileNotFoundError:
        raise RunError(f"no shared ledger at {path}") from None
    if not entries:
        raise LedgerError("the terms are missing", line=1)
    if head is not None and head not in {entry.digest for entry in entries}:
        raise LedgerError(f"the anchor is not in the chain of {len(entries)} lines: its tail was cut")
    for entry, (spending, recorded) in zip(entries, _replay(entries), strict=True):
        _require_within(spending, entry.line)  # first: of an earlier version's line it says more
        recomputed = spending.epsilon()
        if not math.isclose(recorded, recomputed, rel_tol=_ARITHMETIC_TOLERANCE, abs_tol=1e-9):
            raise LedgerError(
                f"it records ε = {recorded:.6g}, recomputed {recomputed:.6g}{spending.raised_by()}",
                line=entry.line,
            )
    return SharedReport(
        terms=spending.terms,
        holdings=spending.holdings,
        epsilon=recomputed,
        lines=len(entries),
        head=entries[-1].digest,
        truncation_excluded=head == entries[-1].digest,
    )
