"""Four hundred settings and more: the accountants against each other and against what needs no accountant.

Tolerances: PLD never above RDP by more than 0.1 %; within 0.1 % of the closed form where nobody is left
out, and never below it; within 0.3 % of Opacus' PRV and of our own quadrature, or 0.02 where ε is small.
A dozen settings run with every commit, all of them in `make test-slow`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import pytest

from secure_fed_diffusion.dp import Mechanism, View, epsilon
from secure_fed_diffusion.dp.mechanism import Relation, Unit
from tests.dp import quadrature
from tests.dp.plans import shares
from tests.dp.test_accounting import exact_epsilon

BOUND, SURVIVORS = 8192.0, 5
_SHARES_SEEN_THROUGH = {"raw_update": 1, "sum_c2": 3, "released_model": 5}


@dataclass(frozen=True)
class Setting:
    rate: float
    share: float  # one noise share over the sensitivity
    steps: int
    delta: float
    view: str
    unit: Unit
    relation: Relation

    def __str__(self) -> str:
        return (
            f"q{self.rate:g}-z{self.share:g}-T{self.steps}-d{self.delta:g}-"
            f"{self.view}-{self.unit}-{self.relation}"
        )

    @property
    def mechanism(self) -> Mechanism:
        return shares(
            self.share * BOUND,
            sensitivity=BOUND,
            sampling_rate=self.rate,
            min_survivors=SURVIVORS,
            unit=self.unit,
            relation=self.relation,
        )

    @property
    def multiplier(self) -> float:
        """What the view has to see through, from the proof and not from the code."""
        return math.sqrt(_SHARES_SEEN_THROUGH[self.view] * (self.share * BOUND) ** 2 - 16.0) / BOUND

    def epsilon(self, accountant: str = "pld") -> float:
        return epsilon(
            {self.mechanism: self.steps},
            delta=self.delta,
            view=View.parse(self.view),
            accountant=accountant,  # type: ignore[arg-type]
        )


_RECORDS: list[tuple[Unit, Relation]] = [
    ("example", "add_remove"),
    ("person", "add_remove"),
    ("person", "replace_one"),
]
_CLIENTS: list[tuple[Unit, Relation]] = [("client", "zero_out"), ("client", "replace_one")]
_COMMON = (2.0, 6.0, 25.0), (1, 40, 400), (1e-6, 1e-4), tuple(_SHARES_SEEN_THROUGH)
SETTINGS = [
    Setting(rate, share, steps, delta, view, unit, relation)
    for rate, share, steps, delta, view, (unit, relation) in product((0.01, 0.1, 1.0), *_COMMON, _RECORDS)
] + [
    Setting(1.0, share, steps, delta, view, unit, relation)
    for share, steps, delta, view, (unit, relation) in product(*_COMMON, _CLIENTS)
]
FEW = [
    Setting(0.1, 2.0, 40, 1e-4, "raw_update", "example", "add_remove"),
    Setting(0.1, 2.0, 40, 1e-4, "raw_update", "person", "replace_one"),
    Setting(0.01, 2.0, 400, 1e-6, "sum_c2", "person", "add_remove"),
    Setting(0.01, 2.0, 400, 1e-6, "raw_update", "person", "replace_one"),
    Setting(0.1, 6.0, 400, 1e-4, "released_model", "example", "add_remove"),
    Setting(1.0, 6.0, 40, 1e-6, "sum_c2", "person", "add_remove"),
    Setting(1.0, 6.0, 40, 1e-6, "sum_c2", "person", "replace_one"),
    Setting(1.0, 2.0, 40, 1e-4, "raw_update", "client", "zero_out"),
    Setting(1.0, 25.0, 400, 1e-4, "released_model", "client", "replace_one"),
    Setting(1.0, 2.0, 400, 1e-6, "raw_update", "client", "zero_out"),
]


def check(setting: Setting) -> None:
    """Assert all that is known of ε in one setting."""
    found = setting.epsilon()
    assert 0.0 <= found < math.inf
    replaced = setting.relation == "replace_one"
    if not replaced:
        assert found <= setting.epsilon("rdp") * (1 + 1e-3) + 1e-4
    if setting.rate == 1.0:
        distance = 2.0 if replaced else 1.0
        exact = exact_epsilon(setting.multiplier / distance, setting.steps, setting.delta)
        assert exact - 1e-6 <= found <= exact * (1 + 1e-3) + 1e-4
    elif replaced:
        exact = quadrature.composed_epsilon(setting.multiplier, setting.rate, setting.steps, setting.delta)
        assert found == pytest.approx(exact, rel=3e-3, abs=2e-3)
    else:
        from opacus.accountants import PRVAccountant

        other = PRVAccountant()
        other.history = [(setting.multiplier, setting.rate, setting.steps)]
        exact = other.get_epsilon(setting.delta, eps_error=0.01)
        assert found == pytest.approx(exact, rel=3e-3, abs=0.02)


def test_there_are_more_than_two_hundred_settings_and_none_twice() -> None:
    assert len(SETTINGS) == len(set(SETTINGS)) == 594
    assert set(FEW) <= set(SETTINGS)


@pytest.mark.filterwarnings("ignore:Optimal order:UserWarning")
@pytest.mark.parametrize("setting", FEW, ids=str)
def test_the_accountants_agree_in_a_few_settings(setting: Setting) -> None:
    check(setting)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Optimal order:UserWarning")
@pytest.mark.parametrize("setting", [s for s in SETTINGS if s not in FEW], ids=str)
def test_the_accountants_agree_in_every_setting(setting: Setting) -> None:
    check(setting)
