"""What was spent: one charge per client and round, on disk before anything leaves.

`Ledger.charge` refuses what the budget does not cover, then writes one line, flushes and syncs it; only
then may the frames go.  A charge is never taken back: a client cannot know who received its frames.
`verify` recomputes all of it from the file alone.

Not protected against: a cut tail or a full rewrite, without an anchor (`verify(path, head=...)`); a
host that is rolled back as a whole; a client that sends without charging.

A budget of None means that no guarantee is given: nothing is refused, and an infinite ε is written as null.

>>> with Ledger.create(path, terms) as ledger:  # doctest: +SKIP
...     ledger.charge(3, round=0, attempt=0, mechanism="gradient")
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, get_args

from secure_fed_diffusion.dp import chain
from secure_fed_diffusion.dp.account import (
    Account,
    Charge,
    read_account,
    read_charge,
    read_terms,
    write_epsilon,
    write_prices,
)
from secure_fed_diffusion.dp.accounting import Accountant
from secure_fed_diffusion.dp.mechanism import Mechanism, View
from secure_fed_diffusion.dp.realised import SPENT_ASSUMPTION
from secure_fed_diffusion.dp.terms import Terms
from secure_fed_diffusion.errors import LedgerError, PrivacyError, RunError

_ARITHMETIC_TOLERANCE = 1e-6  # between machines; relative


class Ledger:
    """The one writer of a ledger file; use it as a context manager, or `close` it."""

    def __init__(self, descriptor: int, path: Path, account: Account, digests: list[str]) -> None:
        self._descriptor, self._path, self._account = descriptor, path, account
        self._digests = digests  # of every line, in order
        self._usable = True

    @classmethod
    def create(cls, path: Path | str, terms: Terms) -> Ledger:
        """Begin a ledger: write its terms, synced.

        A file without one complete line, left by a process that was killed here, is begun again.

        Raises:
            RunError: there is a ledger at `path`, or another process is writing one.
        """
        path = Path(path)
        descriptor = chain.open_locked(path, os.O_RDWR | os.O_CREAT)
        try:
            if b"\n" in path.read_bytes():
                raise RunError(f"{path.name} exists: open it to go on, or choose another folder")
            os.ftruncate(descriptor, 0)
            ledger = cls(descriptor, path, Account(terms), [])
            ledger._append({"kind": "terms", **terms.to_dict()})
            chain.sync_folder(path.parent)
        except BaseException:
            os.close(descriptor)
            raise
        return ledger

    @classmethod
    def open(cls, path: Path | str) -> Ledger:
        """Go on with a ledger, every line of it checked but for its arithmetic (see `verify`).

        Bytes after the last newline are cut away: their charge was not on disk, so nothing left for it.

        Raises:
            LedgerError: the first line that was altered, dropped, repeated or moved.
            RunError: there is no ledger, or another process is writing it.
        """
        path = Path(path)
        descriptor = chain.open_locked(path, os.O_RDWR)
        try:
            data = path.read_bytes()
            entries, torn = chain.decode(data)
            account = read_account(entries)
            if torn:
                os.ftruncate(descriptor, len(data) - torn)
                os.fsync(descriptor)
            os.lseek(descriptor, 0, os.SEEK_END)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor, path, account, [entry.digest for entry in entries])

    @property
    def terms(self) -> Terms:
        """The terms of the first line."""
        return self._account.terms

    @property
    def head(self) -> str:
        """The digest of the last line: keep it elsewhere, it is the anchor of `verify`."""
        return self._digests[-1]

    @property
    def lines(self) -> int:
        """How many lines there are, the terms among them."""
        return len(self._digests)

    def digest_at(self, line: int) -> str | None:
        """Return the digest of a line, counted from 1, or None where there is no such line."""
        return self._digests[line - 1] if 1 <= line <= len(self._digests) else None

    def charge(
        self,
        client_id: int,
        *,
        round: int,  # noqa: A002
        attempt: int,
        mechanism: str,
        steps: int = 1,
    ) -> None:
        """Charge one client, before its frames leave.

        Guarantees: on return the charge is on disk; on a refusal nothing was written.

        Raises:
            BudgetExceededError: the budget does not cover it.
            PrivacyError: this very charge was made before, or the mechanism is unknown.
            RunError: the ledger is closed, or a write failed earlier.
        """
        charge = Charge(client_id=client_id, round=round, attempt=attempt, mechanism=mechanism, steps=steps)
        reached = self._account.price(charge)
        self._append({"kind": "charge", **asdict(charge), "epsilon": write_epsilon(reached)})
        self._account.add(charge)

    def price(self, charge: Charge) -> float:
        """Return the guarded ε that `charge` would reach, or refuse it; nothing is written."""
        return self._account.price(charge)

    def spent(self, client_id: int) -> Mapping[Mechanism, int]:
        """Return the steps of each mechanism that this client was charged for."""
        return MappingProxyType(self._account.spent(client_id))

    def most(self) -> Mapping[str, int]:
        """Return, for each mechanism by name, the steps of the client that took most of it."""
        return MappingProxyType(self._account.most())

    def epsilon(self, view: View, accountant: Accountant = "pld", client_id: int | None = None) -> float:
        """Return ε spent in `view` by one client, or the largest of all clients."""
        return self._account.epsilon(view, accountant, client_id)

    def attempts(self, round: int) -> int:  # noqa: A002
        """Return the first attempt at `round`, counted from 0, that nobody was charged for."""
        return max(self._account.attempts.get(round, ()), default=-1) + 1

    def paid(self, round: int) -> int:  # noqa: A002
        """Return at how many attempts of `round` somebody was charged."""
        return len(self._account.attempts.get(round, ()))

    def close(self) -> None:
        """Let another process write; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor, self._usable = -1, False

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, fields: Mapping[str, Any]) -> None:
        if not self._usable:
            raise RunError(f"{self._path.name} is closed, or an earlier write to it failed")
        previous = self._digests[-1] if self._digests else chain.FIRST
        line, digest = chain.encode(fields, sequence=len(self._digests), previous=previous)
        self._usable = False  # what a failed write left on disk is for the next `open` to judge
        chain.append(self._descriptor, line)
        self._digests.append(digest)
        self._usable = True


Prices = Mapping[str, Mapping[str, float]]
"""ε by `View.key` and accountant; `math.inf` where there is no guarantee."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerReport:
    """What an auditor can say from the file alone."""

    terms: Terms
    rounds: Mapping[int, Prices]  # spent when a charge last named that round, the largest of all clients
    clients: Mapping[int, Prices]
    most: Mapping[str, int]  # steps of each mechanism by the client that took most of it
    digests: tuple[str, ...]  # of every line, the terms first
    torn_bytes: int  # after the last newline: a charge that never was, whose frames never left
    truncation_excluded: bool

    @property
    def lines(self) -> int:
        """How many lines there are, the terms among them."""
        return len(self.digests)

    @property
    def head(self) -> str:
        """The digest of the last line."""
        return self.digests[-1]

    def digest_at(self, line: int) -> str | None:
        """Return the digest of a line, counted from 1, or None where there is no such line."""
        return self.digests[line - 1] if 1 <= line <= len(self.digests) else None

    @property
    def statement(self) -> str:
        """One sentence: what was shown about the record."""
        rest = (
            "truncation is excluded by the anchor"
            if self.truncation_excluded
            else "truncation is not excluded"
        )
        return f"No line was altered, dropped or moved up to the last one ({self.lines}); {rest}."

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON types; ε is null where there is no guarantee."""
        planned = self.terms.planned()
        return {
            "statement": self.statement,
            "terms": self.terms.to_dict(),
            "plan_epsilon": None if planned is None else write_prices(planned),
            "epsilon_assumption": None if planned is None else SPENT_ASSUMPTION,
            "rounds": {str(number): write_prices(prices) for number, prices in self.rounds.items()},
            "clients": {str(client): write_prices(prices) for client, prices in self.clients.items()},
            "lines": self.lines,
            "head": self.head,
            "torn_bytes": self.torn_bytes,
            "truncation_excluded": self.truncation_excluded,
        }


def verify(path: Path | str, *, head: str | None = None) -> LedgerReport:
    """Recompute everything from the file: the chain, the rules, each recorded ε, and ε round by round.

    `head` is an anchor: the `Ledger.head` that somebody else kept.  An anchor from before the last line
    shows that nothing was cut before it, which does not exclude a cut after it.

    Raises:
        LedgerError: with the first line that was altered, dropped, repeated, moved, or that says another ε
            than its recomputation; or the anchor is nowhere in the chain.
    """
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise RunError(f"no ledger at {path}") from None
    entries, torn = chain.decode(data)
    account = Account(read_terms(entries))
    if head is not None and head not in {entry.digest for entry in entries}:
        raise LedgerError(
            f"the anchor is not in the chain of {len(entries)} lines: its tail was cut, or it is new"
        )
    by_round: dict[int, Prices] = {}
    current: int | None = None
    for entry in entries[1:]:
        charge, recorded = read_charge(entry)
        try:
            recomputed = account.price(charge)
        except PrivacyError as error:
            raise LedgerError(str(error), line=entry.line) from error
        if not math.isclose(recorded, recomputed, rel_tol=_ARITHMETIC_TOLERANCE, abs_tol=1e-9):
            raise LedgerError(f"it records ε = {recorded:.6g}, recomputed {recomputed:.6g}", line=entry.line)
        if current is not None and charge.round != current:
            by_round[current] = _prices(account)
        account.add(charge)
        current = charge.round
    if current is not None:
        by_round[current] = _prices(account)
    return LedgerReport(
        terms=account.terms,
        rounds=MappingProxyType(by_round),
        clients=MappingProxyType({client: _prices(account, client) for client in sorted(account.steps)}),
        most=MappingProxyType(account.most()),
        digests=tuple(entry.digest for entry in entries),
        torn_bytes=torn,
        truncation_excluded=head == entries[-1].digest,
    )


def _prices(account: Account, client_id: int | None = None) -> Prices:
    return {
        view.key: {name: account.epsilon(view, name, client_id) for name in get_args(Accountant)}
        for view in account.terms.views
    }
