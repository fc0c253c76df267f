"""What several runs hold of one data set's budget, and the rules that a further run must obey.

Writer and auditor share these rules, as they do for one run (`account`).  Knows no file.  Mechanisms are
composed (ε is never added up), all as one adversary sees them.

The adversary is the servers of all runs, together with up to C clients of each and whoever holds the
released models; not the server of a run in mode `central`, which that run trusts, and the budget with it.  C
is the largest number of colluders that any run here was promised to withstand, ended runs included unless
they released nothing.  A run that was planned for fewer than C is priced at one noise
share, that of a client whose update is read, and at none where no more than C have to survive: its threshold
kept single updates from its own colluders, and from no more of them.  A `local` run is priced at one share
always: it holds against all other clients.

A run that is alone is priced by the terms' accountant: its plan was fixed before anything was released.  What
comes after it may depend on what it released, and PLD does not compose plans that were chosen so; therefore
several runs go through a Rényi filter together.  Its order is the one that suits the first plan best in its
own guard view, fixed before any release, whatever C comes to be.  A run whose plan alone is more than the
filter has takes the whole budget: from its first release on no other one is admitted, however little it
spends in the end.

Guarantees: as long as only admitted runs release anything, all of them together are (`budget_epsilon`,
`delta`)-DP against that adversary, whoever chose the later plans, seeing what, and whenever runs were ended
(Feldman and Zrnic 2021).  A later run may raise C; it is admitted only if all earlier ones hold against so
many.  Against c clients this is a bound on every set of outcomes in which some run here names c or more.

A record is at one client of each run, nobody says at which: each mechanism counts as often as it did at
the client that used it most.

Not protected against: more than C clients; the server of a `central` run; one person with several records;
a record that two clients of one run both hold; reading what is taken so far as an ε: the guarantee is the
budget, nothing less; an accountant whose list of orders changed between two runs.  For `replace_one` no
filter is known: there a second run is refused.

>>> terms = DatasetTerms(dataset="digits", unit="example", relation="add_remove", delta=1e-5,
...                      budget_epsilon=3.0, accountant="pld")
>>> Spending(terms, {}).epsilon()
0.0
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, get_args

from secure_fed_diffusion.dp.accounting import RENYI_ORDERS, Accountant, epsilon, renyi_divergence
from secure_fed_diffusion.dp.filters import LARGEST_EPSILON, RenyiFilter
from secure_fed_diffusion.dp.mechanism import Mechanism, Relation, Unit, View
from secure_fed_diffusion.errors import ConfigError, PrivacyError

_COMMON_VIEW = View(name="released_model")


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetTerms:
    """What the runs on one data set may spend together: the first line of its ledger."""

    dataset: str
    unit: Unit
    relation: Relation
    delta: float
    budget_epsilon: float
    accountant: Accountant

    def __post_init__(self) -> None:
        for name, literal in (("unit", Unit), ("relation", Relation), ("accountant", Accountant)):
            if getattr(self, name) not in get_args(literal):
                raise ConfigError(f"expected one of {', '.join(get_args(literal))}", key=name)
        if not (math.isfinite(self.budget_epsilon) and self.budget_epsilon > 0 and 0 < self.delta < 1):
            raise ConfigError(
                f"expected ε > 0 and 0 < δ < 1, got {self.budget_epsilon} and {self.delta}",
                key="shared_epsilon",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """The most that one run can spend on any record: uses of each mechanism, by its name in the run."""

    run_id: str
    guard: View  # the adversary against whom this run holds its own budget; several withstand more
    mechanisms: Mapping[str, Mechanism]
    counts: Mapping[str, int]

    def __post_init__(self) -> None:
        if not self.run_id:
            raise PrivacyError("a run without an id cannot be counted")
        if set(self.counts) != set(self.mechanisms):
            raise PrivacyError(
                f"expected a count for each of {sorted(self.mechanisms)}, got {sorted(self.counts)}"
            )
        if any(type(count) is not int or count < 0 for count in self.counts.values()):
            raise PrivacyError("expected whole counts >= 0")
        object.__setattr__(self, "mechanisms", MappingProxyType(dict(self.mechanisms)))
        object.__setattr__(self, "counts", MappingProxyType(dict(self.counts)))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return {
            "run_id": self.run_id,
            "guard": self.guard.key,
            "mechanisms": {name: mechanism.to_dict() for name, mechanism in self.mechanisms.items()},
            "counts": dict(self.counts),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Reservation:
        """Return the reservation that `to_dict` wrote."""
        if set(values) != {item.name for item in fields(cls)}:
            raise PrivacyError("not the fields of a reservation")
        return cls(
            **{
                **values,
                "guard": View.parse(values["guard"]),
                "mechanisms": {n: Mechanism.from_dict(m) for n, m in values["mechanisms"].items()},
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """One run as it is counted now."""

    reservation: Reservation
    counts: Mapping[str, int]  # all that is reserved, or what the run said that it spent
    settled: bool
    least: Mapping[str, int] = field(default_factory=dict)  # said at an earlier end: never less again


@dataclass(frozen=True, slots=True)
class Spending:
    """All runs so far; knows no file, and is never changed."""

    terms: DatasetTerms
    holdings: Mapping[str, Holding]

    def reserve(self, wanted: Reservation) -> Spending:
        """Count `wanted` in full; a run that was settled comes back with its old mechanisms alone."""
        known = self.holdings.get(wanted.run_id)
        if known is not None and known.reservation != wanted:
            raise PrivacyError(f"run {wanted.run_id} is counted here already, with another plan")
        for name, mechanism in wanted.mechanisms.items():
            if (mechanism.unit, mechanism.relation) != (self.terms.unit, self.terms.relation):
                raise PrivacyError(
                    f"{name!r} protects the unit {mechanism.unit!r} ({mechanism.relation}), the budget of "
                    f"{self.terms.dataset!r} is for {self.terms.unit!r} ({self.terms.relation})"
                )
        least = {} if known is None else known.least
        return self._with(Holding(reservation=wanted, counts=wanted.counts, settled=False, least=least))

    def settle(self, run_id: str, counts: Mapping[str, int]) -> Spending:
        """Count a run for what it spent from now on."""
        known = self.holdings.get(run_id)
        if known is None or known.settled:
            raise PrivacyError(f"run {run_id} has reserved nothing here")
        reserved, least = known.reservation.counts, known.least
        if set(counts) != set(reserved) or any(
            type(count) is not int or not least.get(name, 0) <= count <= reserved[name]
            for name, count in counts.items()
        ):
            raise PrivacyError(
                f"run {run_id} reserved {dict(reserved)} and had said {dict(least)}; "
                f"it cannot have spent {dict(counts)}"
            )
        said = dict(counts)
        return self._with(Holding(reservation=known.reservation, counts=said, settled=True, least=said))

    def _with(self, holding: Holding) -> Spending:
        run_id = holding.reservation.run_id
        return Spending(self.terms, MappingProxyType({**self.holdings, run_id: holding}))

    @property
    def colluders(self) -> int:
        """C: the most clients together with the servers that any run here was promised to withstand."""
        return max((holding.reservation.guard.colluders for holding in self._releasing()), default=0)

    @property
    def adversary(self) -> str:
        """Say against whom the budget holds now."""
        names = {holding.reservation.guard.name for holding in self._releasing()}
        if names == {"raw_update"}:  # mode local alone
            return "every server, with all other clients of each run"
        if names <= {"released_model"}:  # mode central alone, or nothing yet
            return "whoever holds the released models"
        clients = f"up to {_several('client', self.colluders)} of each run" if self.colluders else "no client"
        return f"every server but those of mode central, with {clients}"

    def raised_by(self, this_run: str | None = None) -> str:
        """Say which run's colluders make others dearer than alone; empty where none does, or only one counts.

        `this_run` is called so, as a run that is only asked about has no id yet.
        """
        sums = [held.reservation for held in self._releasing() if held.reservation.guard.name == "sum"]
        if all(run.guard.colluders == self.colluders for run in sums):
            return ""
        most = next(run.run_id for run in sums if run.guard.colluders == self.colluders)
        whose = "this run" if most == this_run else f"run {most}"
        colluders = _several("colluder", self.colluders)
        return (
            f"; {whose} is to withstand {colluders}, and with it all: one that was planned for fewer counts "
            "with one noise share at most (dp.spending)"
        )

    def _releasing(self) -> list[Holding]:
        return [holding for holding in self.holdings.values() if any(holding.counts.values())]

    def epsilon(self) -> float:
        """Return how much of the budget is taken, as an ε at the data set's δ; `math.inf` for more than all.

        Alone, a run takes what the accountant says of it; several take what the filter says.
        """
        terms, counts = self.terms, Counter[Mechanism]()
        releasing, colluders = self._releasing(), self.colluders
        for holding in releasing:
            counts.update(_as_seen(holding.reservation, holding.counts, colluders))
        if len(releasing) < 2:
            return epsilon(counts, delta=terms.delta, view=_COMMON_VIEW, accountant=terms.accountant)
        limit = self._filter()
        if limit is None or not all(_fits(limit, holding.reservation) for holding in releasing):
            return math.inf
        taken = limit.worth(renyi_divergence(counts, order=limit.order, view=_COMMON_VIEW))
        beyond_proof = taken > limit.epsilon < terms.budget_epsilon
        return math.inf if beyond_proof else taken

    def _filter(self) -> RenyiFilter | None:
        """Return the filter for all runs, of the order at which the first plan takes the least of it.

        In that plan's own view: an order that moved with C would be chosen after releases, and an adversary
        who is withstood before and after would have two filters' δ.
        """
        first = next(h.reservation for h in self.holdings.values() if any(h.reservation.counts.values()))
        plan, shares = _as_seen(first, first.counts, first.guard.colluders), {}
        for order in RENYI_ORDERS:
            budget = min(self.terms.budget_epsilon, LARGEST_EPSILON)
            try:
                limit = RenyiFilter(order=order, epsilon=budget, delta=self.terms.delta)
                shares[limit] = renyi_divergence(plan, order=order, view=_COMMON_VIEW) / limit.budget
            except PrivacyError:  # nothing is left at this order, or its divergence has no proof
                continue
        return min(shares, key=shares.__getitem__, default=None)


def _several(noun: str, count: int) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _fits(limit: RenyiFilter, run: Reservation) -> bool:
    # As its own guard sees it: against that adversary it may have been alone, at its accountant's price.
    plan = _as_seen(run, run.counts, run.guard.colluders)
    return renyi_divergence(plan, order=limit.order, view=_COMMON_VIEW) <= limit.budget


def _as_seen(run: Reservation, counts: Mapping[str, int], colluders: int) -> Counter[Mechanism]:
    seen: Counter[Mechanism] = Counter()
    for name, count in counts.items():
        if count:
            mechanism = run.mechanisms[name]
            seen[seen_by(_view_with(colluders, run.guard, mechanism), mechanism)] += count
    return seen


def _view_with(colluders: int, guard: View, mechanism: Mechanism) -> View:
    """Return what a run of `guard` is to the servers and `colluders` clients, at least its own."""
    if guard.name != "sum" or colluders == guard.colluders:
        return guard
    # 2t > holders + c was checked for the run's own c: with more, a lying server may read one update alone.
    views = (View(name="sum", colluders=colluders), View(name="raw_update"))
    return min(views, key=mechanism.noise_shares)


def seen_by(view: View, mechanism: Mechanism) -> Mechanism:
    """Return the mechanism whose released model looks as `mechanism` does to `view`.

    Guarantees: the same noise shares, hence the same multiplier, η and κ; no noise where `view` sees none.
    """
    shares = mechanism.noise_shares(view)
    if shares == 0:
        return replace(mechanism, kind="none", share_stddev=0.0, server_stddev=0.0)
    if mechanism.kind == "shares":
        return replace(mechanism, min_survivors=shares)
    return mechanism
