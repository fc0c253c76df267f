"""What the canaries of a run say after some of its rounds: a lower bound, and the conformance tests.

The auditors and their levels are fixed before anything is seen: A1 is the lower bound that stands beside
ε, A3 the one that assumes nothing but fair coins; A0 and A6 test for what bounds cannot see.  A0 and A6
accuse a correct run with probability at most the terms' `false_alarm`, half each, A0's in equal parts to
the planned rounds; a lower bound holds by itself, with its confidence.  (At one
round's levels, about 2e-5, the p-values of A0's two sampling patterns are four to five times too small; over
the looks of whole runs the budget was kept, see `conformance`.)

Not protected against: looking at several bounds and reporting the largest.

Source: Nasr et al. 2023 (A1); Steinke, Nasr and Jagielski 2023 (A3).

>>> sorted(looks(60)), sorted(looks(3))
([1, 8, 16, 24, 32, 40, 48, 56, 60], [1, 3])
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from secure_fed_diffusion.audit.anytime import e_values
from secure_fed_diffusion.audit.conformance import ConformanceReport, conformance
from secure_fed_diffusion.audit.journal import AuditTerms
from secure_fed_diffusion.audit.lower_bounds import LowerBound, likelihood_ratio_bound, one_run_bound
from secure_fed_diffusion.audit.observations import CanaryObservations
from secure_fed_diffusion.audit.scores import guess, likelihood_ratios, n_guesses_one_run
from secure_fed_diffusion.dp.account import write_epsilon
from secure_fed_diffusion.dp.mechanism import Mechanism, View

_LOOKS, _LEAST_SPACING = 8, 8


def looks(planned_rounds: int) -> set[int]:
    """Return after how many rounds with canaries a lower bound is computed: the first, some, and the last.

    One takes a second or two (twice that where clients missed rounds), a round of the quick experiment three.
    In between the last one still holds: a further round takes nothing back.
    """
    spacing = max(_LEAST_SPACING, math.ceil(planned_rounds / _LOOKS))
    return {1, *range(spacing, planned_rounds + 1, spacing), planned_rounds}


def sum_views(mechanism: Mechanism) -> tuple[str, View]:
    """Return the name of what the canaries were seen in, and the view whose upper bound covers it.

    A trusted server (`central`) adds its noise before anything leaves: what is accounted as the released
    model is whoever sees every noised sum.
    """
    if mechanism.kind == "central":
        return "noised_sum", View(name="released_model")
    view = View(name="sum")
    return view.key, view


def bound_entry(bound: LowerBound, *, after_round: int, mechanism: Mechanism) -> dict[str, Any]:
    """Return a lower bound as a line of `metrics.jsonl` holds it; `after_round` is when it was computed."""
    view, upper = sum_views(mechanism)
    return {
        "value": bound.epsilon,
        "confidence": bound.confidence,
        "delta": bound.delta,
        "auditor": bound.auditor,
        "view": view,
        "upper_view": upper.key,
        "after_round": after_round,
        "canaries": bound.n_canaries,
        "conditional_on": bound.conditional_on,
    }


def lower_bound(seen: CanaryObservations, *, delta: float, confidence: float) -> LowerBound:
    """Return the bound that stands beside ε: A1, fixed beforehand for every run."""
    return likelihood_ratio_bound(seen, delta=delta, confidence=confidence)


def unconditional_bound(seen: CanaryObservations, *, delta: float, confidence: float) -> LowerBound:
    """Return A3's bound, weaker but true of any mechanism: nothing is assumed but the fair coins."""
    n_guesses = n_guesses_one_run(seen.n_canaries)  # by their number alone: fixed before anything is seen
    guesses = guess(likelihood_ratios(seen), seen.included, n_guesses=n_guesses)
    return one_run_bound(guesses, delta=delta, confidence=confidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the conformance tests found after some rounds with canaries."""

    conformance: ConformanceReport  # A0
    e_value: float  # A6, over all rounds so far
    highest_e_value: float  # after any of them: an alarm stays
    alarm: float  # where A6 accuses

    @property
    def accused(self) -> tuple[str, ...]:
        """Which tests accuse the run."""
        anytime = ("A6 too little noise",) if self.highest_e_value >= self.alarm else ()
        return tuple(f"A0 {name}" for name in self.conformance.failures) + anytime

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        smallest = self.conformance.smallest_violation
        return {
            "accused": list(self.accused),
            "A0": self.conformance.verdict,
            "A0_p_values": {test.name: test.p_value for test in self.conformance.tests},
            "A6": "failed" if self.highest_e_value >= self.alarm else "passed",
            "A6_e_value": write_epsilon(self.e_value),
            "A6_alarm": self.alarm,
            "smallest_violation": {
                "noise_shortfall": smallest.noise_shortfall,
                "oversampling": smallest.oversampling,
                "power": self.conformance.power,
            },
        }


def evidence(seen: CanaryObservations, terms: AuditTerms) -> Evidence:
    """Test all rounds of `seen`, at this round's part of the run's false-alarm budget."""
    half = terms.false_alarm / 2.0
    planned = max(terms.planned_rounds, seen.n_rounds)
    bets = e_values(seen)
    return Evidence(
        conformance=conformance(seen, false_alarm=half, looks=planned),
        e_value=float(bets[-1]),
        highest_e_value=float(bets.max()),
        alarm=1.0 / half,
    )
