"""What an institution's records may cost over all agreements that it ever joins: its own ledger.

Each agreement is counted in full (every round of this client, and the repeats that the plan reserves) when it
is joined, by this institution's own δ and accountant; it is refused if the sum would overspend.  The budget
holds against the coordinators of all agreements together but those of mode `central`, with as many clients as
any agreement is to withstand (`dp.spending`): one with more colluders makes the earlier ones dearer, and is
refused if they cost too much so.  When a run is over it is counted for what this institution's own ledger
of that run shows.  Nothing is joined while `spent.jsonl` counts less than the runs' ledgers beside it show:
it was lost, exchanged or put back to an earlier line.

Not protected against: see `dp.shared`; a run that `spent.jsonl` lost together with the run's own folder; the
same records under two names or at two institutions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from secure_fed_diffusion.dp import chain
from secure_fed_diffusion.dp.account import read_account
from secure_fed_diffusion.dp.ledger import Ledger
from secure_fed_diffusion.dp.shared import SharedLedger, verify_shared
from secure_fed_diffusion.dp.spending import DatasetTerms, Holding, Reservation
from secure_fed_diffusion.errors import (
    BudgetExceededError,
    ConfigError,
    LedgerError,
    PolicyError,
    PrivacyError,
)
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.institution.settings import BudgetSettings

SPENT, RUNS, LEDGER = "spent.jsonl", "runs", "ledger.jsonl"
Answer = TypeVar("Answer")


def own_charges(plan: Plan, client_id: int) -> dict[str, int]:
    """Return the most uses of each mechanism that this client can meet in `plan`, repeats included."""
    planned = Counter(each.release for each in plan.rounds if client_id in each.cohort)
    return {
        name: (planned[name] + plan.reserved(name)) * release.steps if planned[name] else 0
        for name, release in plan.releases.items()
    }


@dataclass(frozen=True, slots=True)
class Budget:
    """One institution's budget and the file that keeps it."""

    path: Path
    settings: BudgetSettings
    data_name: str

    @property
    def _ledger(self) -> SharedLedger:
        settings = self.settings
        terms = DatasetTerms(
            dataset=self.data_name,
            unit=settings.unit,
            relation=settings.relation,
            delta=settings.delta,
            budget_epsilon=settings.epsilon,
            accountant=settings.accountant,
        )
        return SharedLedger(self.path, terms)

    def price(self, plan: Plan, client_id: int, run_id: str = "not joined") -> float:
        """Return ε of everything so far and `plan`; writes nothing.

        Raises:
            BudgetExceededError: the budget does not cover it.
            PolicyError: the plan protects another unit than the budget is for.
            ConfigError: `[budget]` or `data.name` is not what the ledger was begun with.
            LedgerError: some run's own ledger shows charges that are not counted here.
        """
        self._require_counted()
        reservation = _reservation(plan, client_id, run_id)
        return self._asked(lambda: self._ledger.price(reservation))

    def reserve(self, plan: Plan, client_id: int, ledger: Ledger) -> None:
        """Count the run of `ledger` in full, if it is not counted so already.

        Raises:
            BudgetExceededError, PolicyError, ConfigError: as `price`.
            LedgerError: as `price`.
        """
        self._require_counted()
        reservation = _reservation(plan, client_id, ledger.terms.run_id)
        self._asked(lambda: self._ledger.reserve(reservation))

    def require_not_begun(self, run_id: str) -> None:
        """Refuse to begin a run's own ledger where the run is counted already.

        A run is counted only once its ledger is on disk, so that file was there: to begin it anew would free
        what it spent.

        Raises:
            LedgerError: it is counted, and stays so.
        """
        if self._asked(lambda: self._ledger.holds(run_id)) is not None:
            raise LedgerError(
                f"run {run_id} is counted in {self.path.name}, and its own ledger is gone: it stays counted "
                "as it is, and cannot go on"
            )

    def settle(self, ledger: Ledger) -> None:
        """Count a run that is over for what its own ledger shows; a second call does nothing."""
        run_id = ledger.terms.run_id
        held = self._asked(lambda: self._ledger.holds(run_id))
        if held is not None and not held.settled:
            spent = ledger.most()
            self._ledger.settle(run_id, {name: spent[name] for name in held.counts})

    def require_own_terms(self) -> None:
        """Refuse a `[budget]` or a `data.name` that is not what the ledger was begun with.

        Raises:
            ConfigError: names the first that differs.
            LedgerError: a line of it was altered.
        """
        self._asked(lambda: self._ledger.holds(""))

    def is_open(self, run_id: str) -> bool:
        """Tell whether the run is counted in full: joined, and not left."""
        held = self._asked(lambda: self._ledger.holds(run_id))
        return held is not None and not held.settled

    def _require_counted(self) -> None:
        require_counted(
            charges_beside(self.path), lambda run_id: self._asked(lambda: self._ledger.holds(run_id))
        )

    def _asked(self, question: Callable[[], Answer]) -> Answer:
        """Ask the ledger, and say its refusals in the words of `institution.toml`."""
        try:
            return question()
        except BudgetExceededError as error:
            raise BudgetExceededError(
                f"this institution's own budget refuses the coordinator's proposal: {error}"
            ) from None
        except ConfigError as error:
            raise ConfigError(
                f"{error.reason}; a budget that was begun is not changed: restore [budget] and data.name",
                key="budget",
            ) from None
        except PrivacyError as error:
            raise PolicyError(
                f"the proposal does not fit this institution's [budget]: it is for the unit "
                f"{self.settings.unit} ({self.settings.relation}), and counts a run under one plan alone"
            ) from error


def charges_beside(path: Path) -> dict[str, Mapping[str, int]]:
    """Return the steps of each mechanism that each run's own ledger, beside the institution's, shows.

    To be read before the institution's: a run is counted there before it is charged here.

    Raises:
        LedgerError: a line of one was altered.
    """
    shown: dict[str, Mapping[str, int]] = {}
    for ledger in sorted((path.parent / RUNS).glob(f"*/{LEDGER}")):
        try:
            entries, _ = chain.decode(ledger.read_bytes())
            if len(entries) > 1:
                account = read_account(entries)
                shown[account.terms.run_id] = account.most()
        except LedgerError as error:
            raise LedgerError(f"{ledger}: {error}") from error
    return shown


def require_counted(shown: Mapping[str, Mapping[str, int]], held: Callable[[str], Holding | None]) -> None:
    """Refuse an institution's ledger that counts less than `shown`; `held` says how it counts a run.

    Raises:
        LedgerError: names the first such run.
    """
    for run_id, most in shown.items():
        holding = held(run_id)
        counted = {} if holding is None else holding.counts
        for name, steps in most.items():
            if steps > counted.get(name, 0):
                raise LedgerError(
                    f"run {run_id} was charged {steps} steps of {name!r} here, {SPENT} counts "
                    f"{counted.get(name, 0)}: the file was lost or exchanged, or put back to an earlier "
                    "line, and with it what other runs spent; restore it"
                )


def close_by_hand(path: Path, ledger: Ledger) -> bool:
    """Settle a run by the two ledgers alone, whatever institution.toml says now; False: not counted there.

    Raises:
        LedgerError: a line was altered.
        PrivacyError: the run spent more than was reserved for it.
    """
    run_id = ledger.terms.run_id
    report = verify_shared(path)
    held = report.holdings.get(run_id)
    if held is not None and not held.settled:
        spent = ledger.most()
        SharedLedger(path, report.terms).settle(run_id, {name: spent[name] for name in held.counts})
    return held is not None


def _reservation(plan: Plan, client_id: int, run_id: str) -> Reservation:
    most = {name: count for name, count in own_charges(plan, client_id).items() if count}
    mechanisms = {name: plan.releases[name].mechanism for name in most}
    return Reservation(run_id=run_id, guard=plan.guard, mechanisms=mechanisms, counts=most)
