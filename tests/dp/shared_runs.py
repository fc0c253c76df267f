"""Runs on one data set: what the tests of their shared ledger are made of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from secure_fed_diffusion.dp import Mechanism, View, epsilon
from secure_fed_diffusion.dp.accounting import RENYI_ORDERS, renyi_divergence
from secure_fed_diffusion.dp.mechanism import INNER_STDDEV
from secure_fed_diffusion.dp.spending import DatasetTerms, Reservation
from tests.dp.plans import MODEL, shares

SUM_1 = View(name="sum", colluders=1)


def dataset(**changes: Any) -> DatasetTerms:
    fields: dict[str, Any] = {
        "dataset": "digits",
        "unit": "example",
        "relation": "add_remove",
        "delta": 1e-5,
        "budget_epsilon": 5.0,
        "accountant": "rdp",
    }
    return DatasetTerms(**{**fields, **changes})


def run(name: str, count: int = 40, mechanism: Mechanism | None = None, guard: View = SUM_1) -> Reservation:
    mechanisms = {"training": mechanism or shares(8192.0)}
    return Reservation(run_id=name, guard=guard, mechanisms=mechanisms, counts={"training": count})


def planned(name: str, colluders: int, multiplier: float, count: int = 100) -> Reservation:
    """A run with `multiplier` against the server and `colluders` clients, of at least 5 that survive."""
    step = shares(math.hypot(8192.0 * multiplier, INNER_STDDEV) / math.sqrt(5 - colluders))
    return run(name, count, step, View(name="sum", colluders=colluders))


def spent(*counts: int) -> float:
    return epsilon({shares(8192.0): sum(counts)}, delta=1e-5, view=SUM_1, accountant="rdp")


def filtered(counts: Mapping[Mechanism, int], first: Mapping[Mechanism, int], *, budget: float) -> float:
    """What several runs take of `budget` at δ = 1e-5: Canonne, Kamath and Steinke's conversion, one order."""

    def conversion(order: float) -> float:
        return math.log1p(-1 / order) - math.log(1e-5 * order) / (order - 1)

    def divergence(taken: Mapping[Mechanism, int], order: float) -> float:
        return renyi_divergence(taken, order=order, view=MODEL)

    usable = [order for order in RENYI_ORDERS if conversion(order) < budget]
    order = min(usable, key=lambda a: divergence(first, a) / (budget - conversion(a)))
    return divergence(counts, order) + conversion(order)
