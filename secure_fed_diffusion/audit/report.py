"""An audit of a run's folder: each round's upper bounds, lower bound and conformance, and a verdict.

What is held against what.  The lower bound is of a canary, in the view of the sums: whoever sees every
released sum, all noise shares in it.  It is of the rounds that carry canaries, so it is at most

    upper     the ledger's ε of what was spent, with the noise of the plan's fewest survivors; it holds if
              failures hang on no output (what is guaranteed is the plan's ε, of all that it reserves)
    realised  the same with the noise of those that survived; it holds if dropouts do not depend on
              outputs, records or coins, and is there for this comparison alone

and both of these count the rounds of the warm-up too, which carry none.

The verdict is bad where the conformance tests (A0 after each round, and A6) accuse the run, or A1 after all
rounds, at confidence 1 - `false_alarm`, exceeds the last realised ε.  A0 and A6 together accuse a correct run
with probability at most the `false_alarm` that was fixed before it began, half each, A0's in equal parts to
the planned rounds, and A1 as rarely, if participation did not depend on what the sums showed.  Every lower
bound that is shown holds by itself with its confidence; not all of them together.

Not protected against: an auditor's files that were altered (they are not chained, as the ledger is); a
violation smaller than the smallest that this audit could have seen, which it states.  Canaries test no
gradient, and nothing that the released model remembers.

Source: Nasr et al. 2023 (A1); Steinke, Nasr and Jagielski 2023 (A3); docs/privacy.md for the views.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from secure_fed_diffusion.audit.evidence import (
    Evidence,
    evidence,
    looks,
    lower_bound,
    sum_views,
    unconditional_bound,
)
from secure_fed_diffusion.audit.journal import AuditTerms, Journal, observations
from secure_fed_diffusion.audit.lower_bounds import LowerBound
from secure_fed_diffusion.audit.realised import realised_epsilons
from secure_fed_diffusion.dp.account import write_epsilon
from secure_fed_diffusion.dp.ledger import LedgerReport, Prices
from secure_fed_diffusion.errors import RunError

_TRAINING = "training"

NO_CANARIES = (
    "This run carried no canaries (audit.canaries = 0): only the record of what was spent was checked, not "
    "whether the sampler, the clip, the rounding, the noise and the masks did what it says."
)
NOT_TESTED = (
    "Not checked: the gradients, what the released model remembers, and a pipeline that treats canaries "
    "otherwise than records; rounds of the warm-up carry no canaries."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundAudit:
    """What is known after one round; without canaries so far, of the upper bounds alone."""

    number: int
    upper: Prices  # ε by view and accountant, of what was spent
    realised: float | None = None  # ε of `upper_view` with the noise that was there, where it was computed
    lower: LowerBound | None = None  # the newest
    evidence: Evidence | None = None


@dataclass(frozen=True, kw_only=True)
class FolderAudit:
    """An audit of a run; `upper_view` is the view whose upper bound covers what the canaries bound."""

    ledger: LedgerReport
    terms: AuditTerms | None  # None: the run carried no canaries
    upper_view: str
    rounds: tuple[RoundAudit, ...]
    unconditional: LowerBound | None
    accusing: LowerBound | None = None  # A1 after all rounds, at confidence 1 - false_alarm: for the verdict

    @cached_property
    def last(self) -> RoundAudit | None:
        """The newest round in which canaries were seen."""
        return next((each for each in reversed(self.rounds) if each.evidence is not None), None)

    @property
    def accused(self) -> tuple[str, ...]:
        """Everything that speaks against the run, by name; the first round that each was seen in too."""
        found: dict[str, int] = {}
        for each in self.rounds:
            for name in each.evidence.accused if each.evidence else ():
                found.setdefault(name, each.number)
        accusations = [f"{name} (from round {number})" for name, number in found.items()]
        last, bound = self.last, self.accusing
        if last and bound and last.realised is not None and bound.epsilon > last.realised:
            accusations.append(f"{bound.auditor}: the lower bound exceeds the upper one")
        return tuple(accusations)

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against the run; true of a run without canaries too, see `sentences`."""
        return not self.accused

    @property
    def verdict(self) -> str:
        """One of "passed", "failed", and "not checked" where nothing but the record could be."""
        if self.accused:
            return "failed"
        return "passed" if self.last else "not checked"

    @property
    def finding(self) -> str:
        """One sentence for a title."""
        last = self.last
        if last is None or last.lower is None or last.evidence is None:
            return "Nothing but the record of what was spent could be checked"
        found = "; ".join(self.accused)
        if found:
            return f"This run does NOT do what its plan says: {found}"
        if above := self._above(last):
            return f"{above}, and no test accuses the noise"
        least, most = _rounded_down(last.lower.epsilon), _rounded_up(self._spent(last))
        return (
            f"With {_percent(last.lower.confidence)} confidence the sums gave away at least ε = {least}, "
            f"by the ledger at most {most}; no test accuses the noise"
        )

    @property
    def sentences(self) -> tuple[str, ...]:
        """What was compared with what, what this audit could have seen, and what it could not."""
        last = self.last
        if self.terms is None:
            return (NO_CANARIES,)
        if last is None or last.lower is None or last.evidence is None:
            return ("No round with canaries is over yet.", NOT_TESTED)
        lower, free, tests = last.lower, self.unconditional, last.evidence.conformance
        said = [
            f"{lower.n_canaries} canaries, round {last.number}: ε >= {_rounded_down(lower.epsilon)} with "
            f"confidence {lower.confidence:g} ({lower.auditor}; conditional on: {lower.conditional_on}).",
            f"Upper bound in the view {self.upper_view} (PLD), class means included: "
            f"{_rounded_up(self._spent(last))} for what was spent, at the plan's fewest survivors (the "
            f"guarantee is the plan's ε); {_rounded_up(last.realised)} with the noise that was there, if "
            "dropouts do not depend on outputs, records or coins.",
            f"Smallest violation that this audit would have seen with probability {tests.power:g}: "
            f"{tests.smallest_violation}; A0 and A6 accuse a correct run with probability at most "
            f"{self.terms.false_alarm:g}, and A1, which accuses where its bound at confidence "
            f"{1.0 - self.terms.false_alarm:g} exceeds the upper one, as rarely.",
            NOT_TESTED,
        ]
        if not self.accused and (above := self._above(last)):
            said.insert(1, f"{above}.")
        if free is not None:
            said.insert(
                1,
                f"With no such condition: ε >= {_rounded_down(free.epsilon)} with confidence "
                f"{free.confidence:g} ({free.auditor}).",
            )
        if self.upper_view == "released_model":
            said.append(
                "The canaries were seen in the noised sums, of which the model is made: the bound is not one "
                "of the model alone. The trusted server of mode central saw the sums without noise."
            )
        return tuple(said)

    def _above(self, each: RoundAudit) -> str | None:
        """Say how a lower bound can exceed the upper one where nothing accuses; None where it does not."""
        lower, most = each.lower, self._spent(each)
        if lower is None or lower.epsilon <= most:
            return None
        said = (
            f"The {_percent(lower.confidence)} lower bound ({_rounded_down(lower.epsilon)}) lies above the "
            f"ledger's ({_rounded_up(most)}), as it may in up to {_percent(1.0 - lower.confidence)} of "
            "correct runs"
        )
        asked = self.accusing
        if asked is None or asked.epsilon > most:
            return said
        return f"{said}; at {_percent(asked.confidence)} it does not"

    def _spent(self, each: RoundAudit) -> float:
        return each.upper[self.upper_view]["pld"]

    def to_dict(self) -> dict[str, Any]:
        """Return the audit as JSON types, the ledger's own report apart."""
        return {
            "verdict": self.verdict,
            "accused": list(self.accused),
            "finding": self.finding,
            "sentences": list(self.sentences),
            "upper_view": self.upper_view if self.terms else None,
            "canaries": len(self.terms.canaries) if self.terms else 0,
            "false_alarm": self.terms.false_alarm if self.terms else None,
            "lower_unconditional": _plain(self.unconditional),
            "rounds": {
                str(each.number): {
                    "realised": None if each.realised is None else write_epsilon(each.realised),
                    "lower": _plain(each.lower),
                    "evidence": None if each.evidence is None else each.evidence.to_dict(),
                }
                for each in self.rounds
            },
        }


def audit_folder(directory: Path, ledger: LedgerReport) -> FolderAudit:
    """Audit a run's folder whose ledger was verified; without canaries, say so and check nothing.

    Raises:
        RunError: the auditor's files cannot be read, or do not belong together.
    """
    journal = Journal(directory)
    terms, notes = journal.read_terms(), journal.rounds()
    if terms is None and any(each.sums is not None for each in notes):
        raise RunError(f"{journal.coins_path} is gone: without its coins this run cannot be audited")
    mechanisms = ledger.terms.mechanisms
    _, view = sum_views(mechanisms[_TRAINING] if _TRAINING in mechanisms else list(mechanisms.values())[-1])
    seen = None if terms is None else observations(terms.canaries, notes)
    if terms is None or seen is None:
        rounds = tuple(RoundAudit(number=number, upper=upper) for number, upper in ledger.rounds.items())
        return FolderAudit(ledger=ledger, terms=terms, upper_view=view.key, rounds=rounds, unconditional=None)
    delta, confidence = ledger.terms.delta, terms.confidence
    carrying = [each.number for each in notes if each.sums is not None]
    due = looks(terms.planned_rounds) | {len(carrying)}
    wanted = [number for index, number in enumerate(carrying, start=1) if index in due]
    realised = realised_epsilons(directory / "ledger.jsonl", notes, view=view, wanted=wanted)
    bounds: dict[int, LowerBound] = {}
    tests: dict[int, Evidence] = {}
    for index, number in enumerate(carrying, start=1):
        part = seen.upto(index)
        newest = bounds[carrying[index - 2]] if bounds and number not in wanted else None
        bounds[number] = newest or lower_bound(part, delta=delta, confidence=confidence)
        tests[number] = evidence(part, terms)
    return FolderAudit(
        ledger=ledger,
        terms=terms,
        upper_view=view.key,
        rounds=tuple(
            RoundAudit(
                number=number,
                upper=upper,
                realised=realised.get(number),
                lower=bounds.get(number),
                evidence=tests.get(number),
            )
            for number, upper in ledger.rounds.items()
        ),
        unconditional=unconditional_bound(seen, delta=delta, confidence=confidence),
        accusing=lower_bound(seen, delta=delta, confidence=1.0 - terms.false_alarm),
    )


def _rounded_up(epsilon: float | None) -> str:
    return "no bound" if epsilon is None or math.isinf(epsilon) else f"{math.ceil(100 * epsilon) / 100:.2f}"


def _rounded_down(epsilon: float) -> str:
    return f"{math.floor(100 * epsilon) / 100:.2f}"


def _percent(share: float) -> str:
    return f"{100 * share:.10g} %"  # a confidence may have many nines


def _plain(bound: LowerBound | None) -> dict[str, Any] | None:
    return None if bound is None else asdict(bound)
