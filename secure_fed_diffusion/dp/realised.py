"""How many noise shares were there: what happened, and the least that a lying server leaves.

The guarantee of a run is ε at the plan's least number of survivors.  `realised_epsilon` is what the noise
that really was there would cost, and it cannot be printed without what it assumes: PLD composes
parameters that were fixed in advance, while survivors are known only afterwards.
`honest_shares_without_consistency` is the number to calibrate to where clients do not check that the
server showed all of them the same survivors.

Not protected against: dropouts that somebody chose after seeing earlier outputs (see
`filters.RenyiFilter` for steps that adapt).

Source: docs/formal_statement.md, section 4, for the count under a lying server.

>>> honest_shares_without_consistency(n=10, t=6, c=0, m=7)
5
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from secure_fed_diffusion.dp.accounting import Accountant, epsilon
from secure_fed_diffusion.dp.mechanism import Mechanism, Relation, Unit, View
from secure_fed_diffusion.errors import ConfigError, UnderNoisedError

DROPOUT_ASSUMPTION: Final = "if dropouts do not depend on outputs; the guarantee is at the plan's minimum"


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

    Guarantees: an upper bound if the numbers of survivors do not depend on what earlier steps released;
    never above ε at the plan's minimum by more than the accountant's rounding.

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


def honest_shares_without_consistency(n: int, t: int, c: int, m: int) -> int:
    """Return the least number of honest noise shares in any sum, where the server lies about survivors.

    `n` clients on the complete graph, threshold `t`, `c` colluders, and `m` survivors at least in what
    each client is shown before it answers once; no consistency step.  A server that lies about keys too
    reads every input.

    Guarantees: each honest client names at most n − m others as gone, and a client's mask key needs t − c
    honest answers, so at most (n − m)(n − c)/(t − c) honest clients can be cut out of the sum.

    Raises:
        ConfigError: not 0 <= c < t <= n and 1 <= m <= n, or 2t <= n + c, where inputs are not private.
    """
    if not (0 <= c < t <= n and 1 <= m <= n):
        raise ConfigError(f"expected 0 <= c < t <= n and 1 <= m <= n, got n={n}, t={t}, c={c}, m={m}")
    if 2 * t <= n + c:
        raise ConfigError(f"expected 2t > n + c for input privacy, got n={n}, t={t}, c={c}")
    cut_out = (n - m) * (n - c) // (t - c)
    return max(0, n - c - cut_out)
