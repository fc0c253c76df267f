"""A run's part of its data set's budget: reserved before any work, settled when the run is over.

`privacy.shared_ledger` names the file that all runs on the data set share, `privacy.shared_epsilon` what
they may spend together, at `privacy.delta`: against the servers of all these runs but those of mode
`central`, with as many clients as the most `federation.colluders` that one in mode `distributed` or
`client` names (`dp.spending`).  A run that names more than the others makes them dearer; runs that name the
same number do not.

A run settles for what its ledger shows, once `testimony.require_whole` has held that to the signed heads
and to the checkpoint.

Not protected against: see `dp.shared`; above all, runs that do not name the file.  A cut behind the last
signed line and the last finished round.  A coordinator's book is signed by nobody, so a charge behind the
first one of its last finished round is missed only where the clients' own ledgers lie beside it; what binds
there is each client's own budget.
"""

from __future__ import annotations

from pathlib import Path

from secure_fed_diffusion.dp.ledger import Ledger
from secure_fed_diffusion.dp.shared import SharedLedger
from secure_fed_diffusion.dp.spending import DatasetTerms, Reservation
from secure_fed_diffusion.errors import LedgerError
from secure_fed_diffusion.federation.plan import Plan


class SharedBudget:
    """What one run holds of its data set's budget."""

    def __init__(self, ledger: SharedLedger, plan: Plan) -> None:
        self._ledger, self._plan = ledger, plan

    @classmethod
    def of(cls, plan: Plan, dataset: str) -> SharedBudget | None:
        """Return the budget that the settings name, or None."""
        path, budget = plan.privacy.shared_ledger, plan.privacy.shared_epsilon
        if path is None or budget is None:
            return None
        protected = plan.releases["training"].mechanism
        terms = DatasetTerms(
            dataset=dataset,
            unit=protected.unit,
            relation=protected.relation,
            delta=plan.privacy.delta,
            budget_epsilon=budget,
            accountant=plan.privacy.accountant,
        )
        return cls(SharedLedger(Path(path).expanduser(), terms), plan)

    def require(self) -> None:
        """Refuse a new run whose plan the data set's budget does not cover; nothing is written.

        Raises:
            BudgetExceededError: with what the earlier runs hold, and whose colluders made them dearer.
        """
        self._ledger.price(self._reservation("not begun"))

    def reserve(self, ledger: Ledger) -> None:
        """Count the run of `ledger` in full, if it is not counted so already.

        Raises:
            BudgetExceededError: another run took the rest in the meantime.
            LedgerError: the run has charges and no reservation: the data set's ledger was lost.
        """
        run_id = ledger.terms.run_id
        if ledger.lines > 1 and self._ledger.holds(run_id) is None:
            raise LedgerError(
                "this run has charges, and the data set's ledger (privacy.shared_ledger) does not know "
                "it: the file was lost or exchanged, and with it what other runs spent"
            )
        self._ledger.reserve(self._reservation(run_id))

    def settle(self, ledger: Ledger) -> None:
        """Count this run, which is over, for what its own ledger shows; a second call does nothing.

        The caller has held the ledger to what was signed (`testimony.require_whole`).
        """
        run_id = ledger.terms.run_id
        held = self._ledger.holds(run_id)
        if held is not None and not held.settled:
            spent = ledger.most()
            self._ledger.settle(run_id, {name: spent[name] for name in held.counts})

    def _reservation(self, run_id: str) -> Reservation:
        most = {name: count for name, count in self._plan.max_charges().items() if count}
        mechanisms = {name: self._plan.releases[name].mechanism for name in most}
        return Reservation(run_id=run_id, guard=self._plan.guard, mechanisms=mechanisms, counts=most)
