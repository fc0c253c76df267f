"""A run's folder: everything is built and checked before any work, then the rounds write into it.

`ledger.jsonl` is written ahead of every frame; `metrics.jsonl` gets its line, and the checkpoint is
replaced, after a round is over; so a process killed at any point leaves a folder that `resume`
continues, and a ledger that never counts less than what left.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from typing import Any, Protocol

from secure_fed_diffusion.diffusion.sampler import save_pipeline
from secure_fed_diffusion.dp.ledger import Ledger
from secure_fed_diffusion.engines.in_process import Engine
from secure_fed_diffusion.errors import RunError
from secure_fed_diffusion.evaluation.attacks import WARNING as ATTACKS_WARNING
from secure_fed_diffusion.evaluation.attacks import Attacks
from secure_fed_diffusion.evaluation.membership import Guarantee
from secure_fed_diffusion.federation import checkpoint, server_view, testimony
from secure_fed_diffusion.federation.assessment import Assessment, SamplesOnly
from secure_fed_diffusion.federation.auditor import Auditor
from secure_fed_diffusion.federation.book import Book
from secure_fed_diffusion.federation.folder import (
    Folder,
    read_lines,
)
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.rounds import Outcome, record, run_rounds
from secure_fed_diffusion.federation.server import Server
from secure_fed_diffusion.federation.settings import RunSettings
from secure_fed_diffusion.federation.shared_budget import SharedBudget
from secure_fed_diffusion.federation.summary import summarize
from secure_fed_diffusion.training.vectors import load_flat


class Observer(Protocol):
    """Who is told how a run goes."""

    def round(self, record: dict[str, Any]) -> None:
        """Take one finished round's line of `metrics.jsonl`."""

    def note(self, text: str) -> None:
        """Take a remark."""


@dataclass(slots=True, kw_only=True)
class Run:
    """A run that is ready to go: every setting checked, every file read, nothing sent yet."""

    settings: RunSettings
    folder: Folder
    plan: Plan
    server: Server
    engine: Engine
    ledger: Ledger
    assessment: Assessment | SamplesOnly
    class_names: tuple[str, ...]
    finished_round: int
    unmeasured: dict[str, Any] | None = None  # the finished round's line, where it is not measured yet
    shared: SharedBudget | None = None
    book: Book | None = None  # where the clients are other processes
    auditor: Auditor | None = None
    attacks: Attacks | None = None

    def execute(self, observer: Observer) -> dict[str, Any]:
        """Run the rounds that are left; return the summary, which is also in the folder."""
        began = time.perf_counter()
        if self.attacks is not None:
            observer.note(f"evaluation.attacks is on, attacks.json is for nobody else: {ATTACKS_WARNING}")
        rounds = run_rounds(
            self.plan,
            self.server,
            self.engine,
            self.book or self.ledger,
            first=self.finished_round + 1,
            note=observer.note,
        )
        try:
            if self.unmeasured is not None:  # the last round's sum is in the model, and no more
                self._announce_training(self.finished_round, observer)
                observer.round(self._measure(self.unmeasured))
            for outcome in rounds:
                self._announce_training(outcome.planned.number, observer)
                observer.round(self._close(outcome))
        except RunError:
            if self.finished_round:  # what was paid for is kept: the model so far, and its summary
                self._finish(time.perf_counter() - began)
            raise
        return self._finish(time.perf_counter() - began)

    def _announce_training(self, number: int, observer: Observer) -> None:
        if self._is_warmed_up_after(number):
            observer.note(f"training on what was released, {self.settings.warmup.steps} steps")

    def _close(self, outcome: Outcome) -> dict[str, Any]:
        """Apply a round's sum and write what the folder keeps of it, before anything that takes long."""
        number = outcome.planned.number
        started = time.perf_counter()
        self.server.take_sum(outcome.total)
        outcome.seconds["server"] += time.perf_counter() - started
        line = record(self.plan, self.ledger, outcome)
        if self.auditor is not None:
            started = time.perf_counter()
            line |= self.auditor.observe(outcome)
            line["seconds"]["audit"] = round(time.perf_counter() - started, 4)
        view = server_view.describe(
            number,
            outcome.frames,
            outcome.total,
            self.plan.releases[outcome.planned.release],
            signed=self.plan.secagg_params(outcome.planned.release).signed,
        )
        self.folder.write_json("server_view.json", view)
        outcome.frames.clear()  # as large as the cohort times the model: not held while that is measured
        if self._is_warmed_up_after(number) or self._due(number):
            state = self.server.state_dict()
            checkpoint.save(self.folder.checkpoint, finished_round=number, state=state, unmeasured=line)
        return self._measure(line)

    def _measure(self, line: dict[str, Any]) -> dict[str, Any]:
        """Train on what the warm-up released, where it ends here; evaluate, and write the round's line."""
        number = line["round"]
        if self._is_warmed_up_after(number):
            started = time.perf_counter()
            self.server.warm_up()
            line["seconds"]["server"] = round(line["seconds"]["server"] + time.perf_counter() - started, 4)
        started = time.perf_counter()
        weights = self.server.average.average
        line |= self.assessment.each_round(weights)
        if self._due(number):
            line |= self.assessment.floor | self.assessment.measure(
                weights,
                grid=self.folder.grid(number),
                last=number == len(self.plan.rounds),
                seed=self.settings.run.seed + number,
                start=self.server.start,
                class_means=self.server.class_means,
            )
        line["seconds"]["evaluation"] = round(time.perf_counter() - started, 4)
        with self.folder.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())  # the checkpoint is, and says that this line is here
        checkpoint.save(self.folder.checkpoint, finished_round=number, state=self.server.state_dict())
        self.finished_round, self.unmeasured = number, None
        return line

    def _is_warmed_up_after(self, number: int) -> bool:
        return number == self.settings.warmup.rounds

    def _due(self, number: int) -> bool:
        """Evaluate each n-th round of training and, where it is asked for, what the warm-up alone gave."""
        before = self.settings.warmup.rounds
        if number == len(self.plan.rounds):
            return True
        if number <= before:
            return number == before and self.settings.evaluation.after_warmup
        return self.settings.evaluation.due(number - before - 1, len(self.plan.rounds) - before)

    def _finish(self, elapsed: float) -> dict[str, Any]:
        """Write the model, the moving average's weights in it, and the summary; settle.

        Raises:
            LedgerError: the ledger shows less than was signed or finished; nothing was written or settled.
        """
        testimony.require_whole(self.folder.root, self.ledger, self.finished_round)
        summary = summarize(
            self.plan,
            self.ledger,
            read_lines(self.folder.metrics),
            floor=self.assessment.floor,
            class_names=self.class_names,
            elapsed=elapsed,
        )
        model, settings = self.server.model, self.settings
        load_flat(model, self.server.average.average)
        save_pipeline(
            model,
            settings.diffusion,
            settings.model.patch,
            self.folder.model,
            sampler=settings.sampler,
            start=self.server.start,
        )
        if self.auditor is not None:
            summary["audit"] = self.auditor.conclude()
        self.folder.write_json("summary.json", summary)
        if self.attacks is not None:
            self._attack(self.attacks, summary)
        if self.shared is not None:
            self.shared.settle(self.ledger)
        return summary

    def _attack(self, attacks: Attacks, summary: dict[str, Any]) -> None:
        """Write what attacks find in the released model: figures of PRIVATE data, outside epsilon."""
        weights = self.server.average.average
        seed = self.settings.run.seed + len(self.plan.rounds)
        samples = self.assessment.synthesize(weights, seed, self.server.start)
        view = summary["guard_view"]
        planned = (summary["plan_epsilon"] or {}).get(view, {})  # what was spent is no guarantee
        claimed = [value for value in planned.values() if value is not None]
        guarantee = None
        if claimed and self.plan.budget_epsilon is not None:
            guarantee = Guarantee(
                epsilon=min(claimed), delta=summary["delta"], unit=summary["unit"], view=view
            )
        self.folder.write_json("attacks.json", attacks.measure(weights, samples, guarantee), mode=0o600)
