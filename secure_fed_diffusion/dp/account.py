"""The charges of a run so far, and the rules that a further one must obey.

Writer and auditor share these rules, so that what one refuses the other cannot overlook.  Knows no file.

Not protected against: a person whose records several clients hold; losses add up over clients for that
person, and the ε here is of one client's records.

>>> Charge(client_id=0, round=0, attempt=0, mechanism="gradient", steps=1).attempt
0
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from secure_fed_diffusion.dp import chain
from secure_fed_diffusion.dp.accounting import Accountant, epsilon
from secure_fed_diffusion.dp.mechanism import Mechanism, View
from secure_fed_diffusion.dp.terms import Terms
from secure_fed_diffusion.errors import (
    BudgetExceededError,
    ConfigError,
    LedgerError,
    PrivacyError,
)

_CHARGE_KEYS = {"kind", "client_id", "round", "attempt", "mechanism", "steps", "epsilon"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """`steps` steps of one mechanism, taken by one client in one attempt at one round."""

    client_id: int
    round: int
    attempt: int
    mechanism: str
    steps: int

    def __post_init__(self) -> None:
        for name in ("client_id", "round", "attempt", "steps"):
            value = getattr(self, name)
            if type(value) is not int or value < int(name == "steps"):
                raise PrivacyError(f"expected an integer {name} >= {int(name == 'steps')}, got {value!r}")

    @property
    def identity(self) -> tuple[int, int, int, str]:
        """What may be charged once only."""
        return self.client_id, self.round, self.attempt, self.mechanism


@dataclass(slots=True)
class Account:
    """The charges so far, under their terms; knows no file."""

    terms: Terms
    charges: dict[tuple[int, int, int, str], Charge] = field(default_factory=dict)
    steps: dict[int, Counter[str]] = field(default_factory=dict)
    attempts: dict[int, set[int]] = field(default_factory=dict)  # by round: those that somebody paid for

    def price(self, charge: Charge) -> float:
        """Return the guarded ε that the client would have spent after `charge`.

        Raises:
            PrivacyError: this very charge was made before, or the mechanism is not in the terms.
            BudgetExceededError: the budget, or the number of steps reserved, does not cover it.
        """
        terms = self.terms
        who = f"client {charge.client_id}, round {charge.round}, attempt {charge.attempt}"
        if charge.mechanism not in terms.mechanisms:
            raise PrivacyError(f"{who}: no {charge.mechanism!r}; the terms have {sorted(terms.mechanisms)}")
        if terms.owner is not None and charge.client_id != terms.owner:
            raise PrivacyError(f"{who}: this ledger is client {terms.owner}'s own")
        if charge.identity in self.charges:
            raise PrivacyError(f"{who}: {charge.mechanism!r} was charged before; a retry is a new attempt")
        after = self.steps.get(charge.client_id, Counter()) + Counter({charge.mechanism: charge.steps})
        most = terms.max_charges.get(charge.mechanism)
        if most is not None and after[charge.mechanism] > most:
            raise BudgetExceededError(
                f"{who}: {after[charge.mechanism]} steps of {charge.mechanism!r}, the plan reserves {most}"
            )
        reached = self._cost(after, terms.guard, terms.accountant)
        if terms.budget_epsilon is not None and reached > terms.budget_epsilon:
            raise BudgetExceededError(
                f"{who}: would reach ε = {reached:.4f} at δ = {terms.delta:g} in the view {terms.guard.key}, "
                f"the budget is {terms.budget_epsilon:g}"
            )
        return reached

    def add(self, charge: Charge) -> None:
        """Count `charge`."""
        self.charges[charge.identity] = charge
        self.attempts.setdefault(charge.round, set()).add(charge.attempt)
        self.steps.setdefault(charge.client_id, Counter())[charge.mechanism] += charge.steps

    def spent(self, client_id: int) -> dict[Mechanism, int]:
        """Return the steps of each mechanism that this client was charged for."""
        return self._counts(self.steps.get(client_id, Counter()))

    def most(self) -> dict[str, int]:
        """Return, for each mechanism by name, the steps of the client that took most of it."""
        return {
            name: max((steps[name] for steps in self.steps.values()), default=0)
            for name in self.terms.mechanisms
        }

    def epsilon(self, view: View, accountant: Accountant, client_id: int | None = None) -> float:
        """Return ε of one client, or the largest of all."""
        clients = self.steps if client_id is None else [client_id]
        spent = {tuple(sorted(self.steps.get(client, Counter()).items())) for client in clients}
        return max((self._cost(Counter(dict(steps)), view, accountant) for steps in spent), default=0.0)

    def _counts(self, steps: Counter[str]) -> dict[Mechanism, int]:
        counts: Counter[Mechanism] = Counter()
        for name, number in steps.items():
            counts[self.terms.mechanisms[name]] += number
        return dict(counts)

    def _cost(self, steps: Counter[str], view: View, accountant: Accountant) -> float:
        return epsilon(self._counts(steps), delta=self.terms.delta, view=view, accountant=accountant)


def write_epsilon(value: float) -> float | None:
    """Return ε as JSON knows it: null where there is no guarantee."""
    return value if math.isfinite(value) else None


def write_prices(prices: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    """Return ε by view and accountant as JSON knows them."""
    return {
        view: {accountant: write_epsilon(value) for accountant, value in by_accountant.items()}
        for view, by_accountant in prices.items()
    }


def read_terms(entries: list[chain.Entry]) -> Terms:
    """Return the terms in a ledger's first line."""
    if not entries:
        raise LedgerError("the terms are missing", line=1)
    body = dict(entries[0].fields)
    if body.pop("kind", None) != "terms":
        raise LedgerError("expected the terms", line=1)
    try:
        return Terms.from_dict(body)
    except (PrivacyError, ConfigError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LedgerError(f"no valid terms: {error}", line=1) from error


def read_account(entries: list[chain.Entry]) -> Account:
    """Return the account that a ledger's lines give; their arithmetic is not recomputed.

    Raises:
        LedgerError: the first line that is no charge under the terms of the first.
    """
    account = Account(read_terms(entries))
    for entry in entries[1:]:
        charge, _ = read_charge(entry)
        if charge.mechanism not in account.terms.mechanisms or charge.identity in account.charges:
            raise LedgerError("a charge that the terms do not know, or made twice", line=entry.line)
        account.add(charge)
    return account


def read_charge(entry: chain.Entry) -> tuple[Charge, float]:
    """Return the charge in one line, and the ε that it records."""
    body = dict(entry.fields)
    if set(body) != _CHARGE_KEYS or body.pop("kind") != "charge":
        raise LedgerError("expected a charge", line=entry.line)
    recorded = body.pop("epsilon")
    if not (recorded is None or (isinstance(recorded, (int, float)) and recorded >= 0)):
        raise LedgerError("its ε is no number", line=entry.line)
    try:
        return Charge(**body), math.inf if recorded is None else float(recorded)
    except PrivacyError as error:
        raise LedgerError(str(error), line=entry.line) from error
