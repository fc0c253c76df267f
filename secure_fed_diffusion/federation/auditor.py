"""The auditor beside a run: it plants canaries, and after each round writes down what the sum showed of them.

It stands outside the protocol: it knows which canaries exist and which were drawn, from the clients that
hold them, and the released sum, from the server; no frame carries either.  Nothing that it does reaches
the model: the server cuts the canaries' coordinates off before it steps.

Not protected against: a client that skips its canaries; it is the auditor's, like the canaries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from secure_fed_diffusion.audit.canaries import Canaries, Planted, SampleNotes, magnitude
from secure_fed_diffusion.audit.evidence import bound_entry, evidence, looks, lower_bound
from secure_fed_diffusion.audit.journal import AuditTerms, Journal, RoundNotes, observations
from secure_fed_diffusion.audit.observations import CanaryObservations
from secure_fed_diffusion.audit.settings import AuditSettings
from secure_fed_diffusion.entropy import Entropy, system
from secure_fed_diffusion.errors import RunError
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.rounds import Outcome


@dataclass(slots=True, kw_only=True)
class Auditor:
    """The auditor of one run, whose notes lie in `journal`."""

    plan: Plan
    terms: AuditTerms
    journal: Journal
    notes: SampleNotes = field(default_factory=SampleNotes)
    rounds: list[RoundNotes] = field(default_factory=list)  # what the journal holds
    newest: dict[str, Any] | None = None  # the lower bound that was computed last

    @classmethod
    def begin(
        cls,
        settings: AuditSettings,
        plan: Plan,
        directory: Path,
        *,
        finished_round: int,
        entropy: Entropy = system,
    ) -> Auditor:
        """Toss the coins of a new run, or go on with those of one whose `finished_round` rounds are done.

        Raises:
            RunError: the coins of a run that has begun are gone, or are another run's.
        """
        journal = Journal(directory)
        terms = journal.read_terms()
        if terms is None:
            if finished_round:
                raise RunError(f"{journal.coins_path} is gone: without its coins this run cannot be audited")
            terms = AuditTerms(
                canaries=Canaries.flip(plan.canaries, clients=plan.federation.clients, entropy=entropy),
                confidence=settings.confidence,
                false_alarm=settings.false_alarm,
                planned_rounds=sum(plan.releases[planned.release].canaries > 0 for planned in plan.rounds),
            )
            journal.write_terms(terms)
        if len(terms.canaries) != plan.canaries:
            raise RunError(
                f"{journal.coins_path} has {len(terms.canaries)} coins, the plan {plan.canaries} canaries"
            )
        journal.cut(finished_round)
        return cls(plan=plan, terms=terms, journal=journal, rounds=list(journal.rounds()))

    def planted(self, client_id: int) -> Planted:
        """Return what one client is told of the canaries: its own."""
        return Planted(coordinates=self.terms.canaries.of(client_id), notes=self.notes)

    def observe(self, outcome: Outcome) -> dict[str, Any]:
        """Write a round's line of `audit.jsonl`; return what its line of `metrics.jsonl` says of it."""
        release = self.plan.releases[outcome.planned.release]
        mechanism, number = release.mechanism, outcome.planned.number
        draws = 1 if mechanism.kind == "central" else len(outcome.survivors)
        carries = release.canaries > 0
        counts = self.notes.counts(number, outcome.attempt, outcome.survivors, self.plan.canaries)
        notes = RoundNotes(
            number=number,
            attempt=outcome.attempt,
            release=release.name,
            survivors=outcome.survivors,
            sampling_rate=mechanism.sampling_rate,
            sensitivity=mechanism.sensitivity,
            noise_stddev=mechanism.draw_stddev * math.sqrt(draws),
            magnitude=magnitude(release.grid),
            sums=outcome.total[release.length - release.canaries :] if carries else None,
            counts=counts if carries else None,
        )
        self.journal.append(notes)
        self.rounds.append(notes)
        seen = observations(self.terms.canaries, self.rounds)
        if seen is None:
            return {"epsilon_lower": None}
        if self.newest is None or seen.n_rounds in looks(self.terms.planned_rounds):
            self.newest = self._bound(seen)
        return {"epsilon_lower": self.newest}

    def conclude(self) -> dict[str, Any] | None:
        """Return what the conformance tests said after any round, or None before the first with canaries."""
        seen = observations(self.terms.canaries, self.rounds)
        if seen is None:
            return None
        if self.newest is None:
            self.newest = self._bound(seen)
        after_each = [evidence(seen.upto(index), self.terms) for index in range(1, seen.n_rounds + 1)]
        accused = dict.fromkeys(name for found in after_each for name in found.accused)  # an accusation stays
        summary = after_each[-1].to_dict() | {"accused": list(accused)}
        return {"canaries": self.plan.canaries, "epsilon_lower": self.newest} | summary

    def _bound(self, seen: CanaryObservations) -> dict[str, Any]:
        bound = lower_bound(seen, delta=self.plan.privacy.delta, confidence=self.terms.confidence)
        mechanism = self.plan.releases["training"].mechanism
        return bound_entry(bound, after_round=self.rounds[-1].number, mechanism=mechanism)
