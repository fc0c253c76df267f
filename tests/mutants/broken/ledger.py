"""A broken ledger: what leaves a client is charged late, too low or not at all."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from secure_fed_diffusion.dp.account import Account
from secure_fed_diffusion.dp.ledger import Ledger
from secure_fed_diffusion.federation import contribution
from secure_fed_diffusion.federation.client import Client
from secure_fed_diffusion.federation.schedule import ReleaseName
from tests.mutants.broken.mutant import Honest, Table

LEDGER = Table()
mutant = LEDGER.mutant


@mutant(
    Client,
    "_contribute",
    "Every third round is not charged.",
    named="ledger: covers what left",
)
def _a_step_uncounted(honest: Honest) -> Honest:
    def contribute(self: Client) -> Any:
        if self._round is not None and self._round.number % 3 == 0:
            with patch.object(self, "_purse", _Silent()):
                return honest(self)
        return honest(self)

    return contribute


class _Silent:
    """A purse that writes nothing."""

    def charge(self, client_id: int, **_: Any) -> None:
        """Forget it."""


@mutant(
    contribution,
    "train_private",
    "A client takes one local step more than it is charged for.",
    named="ledger: covers what left",
)
def _a_local_step_uncounted(honest: Honest) -> Honest:
    return lambda *arguments, steps, **names: honest(*arguments, steps=steps + 1, **names)


def _not_charged(honest: Honest, release_name: ReleaseName) -> Honest:
    def contribute(self: Client) -> Any:
        if self._round is not None and self._round.release == release_name:
            with patch.object(self, "_purse", _Silent()):
                return honest(self)
        return honest(self)

    return contribute


@mutant(
    Client,
    "_contribute",
    "The release of class means is not charged.",
    named="ledger: covers what left",
)
def _class_means_not_charged(honest: Honest) -> Honest:
    return _not_charged(honest, "prototypes")


@mutant(
    Client,
    "_contribute",
    "The releases of class covariances are not charged.",
    named="ledger: covers what left",
)
def _class_covariances_not_charged(honest: Honest) -> Honest:
    return _not_charged(honest, "covariances")


@mutant(
    Client,
    "handle",
    "The charge is written after the frame left, when the next frame comes in.",
    named="ledger: before the frame",
)
def _charge_after_the_frame(honest: Honest) -> Honest:
    owed: dict[int, list[Any]] = {}

    class Later:
        def __init__(self, purse: Any) -> None:
            self.purse = purse

        def charge(self, client_id: int, **names: Any) -> None:
            owed.setdefault(id(self.purse), []).append((client_id, names))

    def handle(self: Client, frame: bytes) -> bytes:
        purse = self._purse
        for client_id, names in owed.pop(id(purse), []):
            purse.charge(client_id, **names)
        with patch.object(self, "_purse", Later(purse)):
            return bytes(honest(self, frame))

    return handle


@mutant(
    Ledger,
    "_append",
    "A line is written and not synced: after a power cut the frame has left and the charge is gone.",
    named="ledger: before the frame",
)
def _charge_not_synced(honest: Honest) -> Honest:
    def append(self: Ledger, fields: Any) -> None:
        with patch("os.fsync", lambda descriptor: None):
            honest(self, fields)

    return append


@mutant(Ledger, "_append", "A line records half of the ε that was reached.", named="sfd audit: ledger")
def _half_the_epsilon_is_written(honest: Honest) -> Honest:
    def append(self: Ledger, fields: Any) -> None:
        lower = {**fields, "epsilon": fields["epsilon"] / 2} if fields.get("epsilon") else fields
        honest(self, lower)

    return append


@mutant(
    Account,
    "price",
    "The budget and the reserved steps are not looked at.",
    named="ledger: refuses",
)
def _no_budget(honest: Honest) -> Honest:
    def price(self: Account, charge: Any) -> float:
        free = copy.copy(self)
        free.terms = replace(self.terms, budget_epsilon=None, max_charges={})
        return float(honest(free, charge))

    return price
