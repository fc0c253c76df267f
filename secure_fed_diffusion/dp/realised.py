"""What the noise that was there would cost: the realised ε, with what it assumes.

The guarantee of a run is ε of all the charges that its plan reserves (`Terms.planned`), at the plan's
least number of survivors.  What was spent of it has an assumption too, `SPENT_ASSUMPTION`.  The realised
one cannot be printed without its own: PLD composes parameters that were fixed in advance, while
survivors are known only afterwards.

Not protected against: dropouts that somebody chose after seeing earlier outputs (see
`filters.RenyiFilter` for steps that adapt); dropouts that hang on anybody's records or coins.  A client
that misses a deadline because it drew one record more says by its absence that it did, and no ε, the
guarantee's neither, covers that.

Source: docs/privacy.md, section 5.

>>> from secure_fed_diffusion.dp.mechanism import Mechanism, View
>>> step = Mechanism(kind="shares", unit="example", relation="add_remove", sampling_rate=1.0,
...                  sensitivity=1.0, share_stddev=2.0, server_stddev=0.0, min_survivors=4,
...                  integer=False, dimension=10)
>>> f"{realised_epsilon({(step, 6): 1}, delta=1e-5, view=View(name='sum')):.1f}"[:18]
'realised ε = 0.7 a'
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from secure_fed_diffusion.dp.accounting import Accountant, epsilon
from secure_fed_diffusion.dp.mechanism import Mechanism, Relation, Unit, View
from secure_fed_diffusion.errors import ConfigError, UnderNoisedError

DROPOUT_ASSUMPTION: Final = (
    "if dropouts do not depend on outputs, records or coins; the guarantee, which outputs cannot undo, is at "
    "the plan's minimum"
)

SPENT_ASSUMPTION: Final = (
    "if failures do not depend on outputs, records or coins; the guarantee, which outputs cannot undo, is "
    "the plan's ε"
)
"""What ε of the charges so far assumes: whoever decides which rounds failed chooses how many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RealisedEpsilon:
    """ε of what happened; every way to write it down says what it assumes."""

    value: float
    delta: float
    view: View
    accountant: Accountant
    unit: Unit
    relation: Relation

    @property
    def assumption(self) -> str:
        """The sentence without which the value means nothing."""
        return DROPOUT_ASSUMPTION

    def __str__(self) -> str:
        return format(self, ".4g")

    def __format__(self, spec: str) -> str:
        return (
            f"realised ε = {self.value:{spec or '.4g'}} at δ = {self.delta:g} ({self.unit}, {self.relation}, "
            f"{self.view.key}, {self.accountant}), {self.assumption}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return JSON types, the assumption among them; an infinite ε is null."""
        return {
            "realised_epsilon": self.value if math.isfinite(self.value) else None,
            "delta": self.delta,
            "view": self.view.key,
            "accountant": self.accountant,
            "unit": self.unit,
            "relation": self.relation,
            "assumption": self.assumption,
        }


def realised_epsilon(
    counts: Mapping[tuple[Mechanism, int], int],
    *,
    delta: float,
    view: View,
    accountant: Accountant = "pld",
) -> RealisedEpsilon:
    """Return ε of `counts`: (the plan's mechanism, contributions in the released sum) -> steps.

    Guarantees: an upper bound if the numbers of survivors do not depend on what earlier steps released, nor
    on anybody's records or coins; never above ε at the plan's minimum by more than the accountant's rounding.

    Raises:
        UnderNoisedError: a sum held fewer contributions than its plan allows; it must not have been
            released, and no ε covers it.
        ConfigError: nothing was released.
    """
    taken = {key: count for key, count in counts.items() if count}
    if not taken:
        raise ConfigError("expected at least one release", key="counts")
    realised: dict[Mechanism, int] = {}
    for (mechanism, survivors), count in taken.items():
        if survivors < mechanism.min_survivors:
            raise UnderNoisedError(
                f"a sum of {survivors} contributions was released, the plan needs {mechanism.min_survivors}"
            )
        actual = replace(mechanism, min_survivors=survivors)
        realised[actual] = realised.get(actual, 0) + count
    first = next(iter(realised))
    return RealisedEpsilon(
        value=epsilon(realised, delta=delta, view=view, accountant=accountant),
        delta=delta,
        view=view,
        accountant=accountant,
        unit=first.unit,
        relation=first.relation,
    )
