"""A broken plan or accountant: the ε that is stated is not that of the noise that is drawn."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from secure_fed_diffusion.dp import accounting
from secure_fed_diffusion.dp.mechanism import Mechanism
from secure_fed_diffusion.federation import prepare
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.release import ReleasePlanner
from secure_fed_diffusion.federation.server import Server
from tests.mutants.broken.mutant import Honest, Table

ACCOUNTING = Table()
mutant = ACCOUNTING.mutant


def _calibrated_to_all(honest: Honest, told: bool) -> Honest:
    def mechanism(self: ReleasePlanner, *arguments: Any) -> Mechanism:
        true = honest(self, *arguments)
        if true.kind != "shares":
            return true
        everyone = self.federation.clients_per_round - self.federation.colluders
        honest_least = self.federation.min_survivors - self.federation.colluders
        return replace(
            true,
            share_stddev=true.share_stddev * math.sqrt(honest_least / everyone),
            min_survivors=self.federation.clients_per_round if told else true.min_survivors,
        )

    return mechanism


@mutant(
    ReleasePlanner,
    "_mechanism",
    "Shares are calibrated to a full cohort, and the accountant is told so: a loss leaves too little noise.",
    named="sums: fewest survivors",
)
def _noise_for_all_survivors(honest: Honest) -> Honest:
    return _calibrated_to_all(honest, told=True)


@mutant(
    ReleasePlanner,
    "_mechanism",
    "Shares are calibrated to a full cohort; the accountant still reads the least one.",
    named="plan: noise",
)
def _noise_for_all_survivors_untold(honest: Honest) -> Honest:
    return _calibrated_to_all(honest, told=False)


@mutant(
    prepare,
    "plan_for",
    "The divisor is what the real data set will give: the plan says how many records there are.",
    named="plan: no data",
)
def _divisor_from_the_data(honest: Honest) -> Honest:
    def plan_for(settings: Any, dataset: Any, model: Any) -> Any:
        plan = honest(settings, dataset, model)
        releases = {name: replace(r, divisor=len(dataset.train)) for name, r in plan.releases.items()}
        return replace(plan, releases=releases)

    return plan_for


@mutant(
    accounting,
    "_profile",
    "The accountant is given half of the sampling rate.",
    named="accountant: closed form",
)
def _accountant_with_half_the_rate(honest: Honest) -> Honest:
    def profile(counts: Any, *arguments: Any) -> Any:
        half = {replace(m, sampling_rate=m.sampling_rate / 2): n for m, n in counts.items()}
        return honest(half, *arguments)

    return profile


@mutant(
    accounting,
    "_profile",
    "The accountant counts a mechanism once, however many steps were taken.",
    named="accountant: closed form",
)
def _no_composition(honest: Honest) -> Honest:
    return lambda counts, *arguments: honest({m: min(1, n) for m, n in counts.items()}, *arguments)


@mutant(
    Plan,
    "max_charges",
    "The noise is calibrated to the planned rounds alone, and a retry is taken all the same.",
    named="plan: budget",
)
def _attempts_not_reserved(honest: Honest) -> Honest:
    def max_charges(self: Plan) -> dict[str, int]:
        repeats = {name: self.federation.reserved_attempts * r.steps for name, r in self.releases.items()}
        return {name: count - repeats[name] if count else 0 for name, count in honest(self).items()}

    return max_charges


@mutant(
    Mechanism,
    "noise_shares",
    "Colluders are forgotten: their shares count as noise.",
    named="accountant: closed form",
)
def _colluders_forgotten(honest: Honest) -> Honest:
    return lambda self, view: honest(self, replace(view, colluders=0))


@mutant(
    Mechanism,
    "noise_multiplier",
    "The accountant takes half of the sensitivity.",
    named="accountant: closed form",
)
def _half_the_sensitivity(honest: Honest) -> Honest:
    return lambda self, view: 2.0 * honest(self, view)


@mutant(
    Server,
    "_require_noise",
    "The server does not ask how many shares of noise a sum has.",
    named="sums: each side refuses",
)
def _server_takes_any_sum(honest: Honest) -> Honest:
    return lambda self, n_contributions: None


@mutant(
    Plan,
    "policy",
    "The clients' policy takes any sum of two or more.",
    named="sums: each side refuses",
)
def _clients_take_any_sum(honest: Honest) -> Honest:
    return lambda self: replace(honest(self), min_survivors=2)
