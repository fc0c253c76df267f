"""A run's folder: everything is built and checked before any work, then the rounds write into it.

`ledger.jsonl` is written ahead of every frame; `metrics.jsonl` gets its line, and the checkpoint is
replaced, after a round is over; so a process killed at any point leaves a folder that `resume`
continues, and a ledger that never counts less than what left.
"""

from __future__ import annotations

import copy
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from secure_fed_diffusion.data.datasets import Dataset, load
from secure_fed_diffusion.data.partition import partition
from secure_fed_diffusion.diffusion.objective import Objective
from secure_fed_diffusion.diffusion.patches import model_shape
from secure_fed_diffusion.diffusion.sampler import save_pipeline
from secure_fed_diffusion.diffusion.unet import build_unet
from secure_fed_diffusion.dp.account import Charge
from secure_fed_diffusion.dp.ledger import Ledger
from secure_fed_diffusion.engines.in_process import Engine, InProcessEngine
from secure_fed_diffusion.entropy import Entropy, system
from secure_fed_diffusion.errors import BudgetExceededError, ConfigError, RunError
from secure_fed_diffusion.evaluation.attacks import WARNING as ATTACKS_WARNING
from secure_fed_diffusion.evaluation.attacks import Attacks
from secure_fed_diffusion.evaluation.membership import Guarantee
from secure_fed_diffusion.federation import checkpoint, server_view
from secure_fed_diffusion.federation.assessment import Assessment
from secure_fed_diffusion.federation.auditor import Auditor
from secure_fed_diffusion.federation.client import Client
from secure_fed_diffusion.federation.contribution import Contributor
from secure_fed_diffusion.federation.folder import (
    Folder,
    cut_metrics,
    open_identities,
    open_ledger,
    read_lines,
)
from secure_fed_diffusion.federation.heads import Witness
from secure_fed_diffusion.federation.plan import Plan, make_plan
from secure_fed_diffusion.federation.rounds import Outcome, record, run_rounds
from secure_fed_diffusion.federation.server import Server
from secure_fed_diffusion.federation.settings import AveragingSettings, RunSettings
from secure_fed_diffusion.federation.shared_budget import SharedBudget
from secure_fed_diffusion.federation.summary import summarize
from secure_fed_diffusion.training.local import ClientData
from secure_fed_diffusion.training.per_example import is_position_independent
from secure_fed_diffusion.training.vectors import dimension, load_flat


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
    assessment: Assessment
    class_names: tuple[str, ...]
    finished_round: int
    shared: SharedBudget | None = None
    auditor: Auditor | None = None
    attacks: Attacks | None = None

    def execute(self, observer: Observer) -> dict[str, Any]:
        """Run the rounds that are left; return the summary, which is also in the folder."""
        last = len(self.plan.rounds)
        began = time.perf_counter()
        if self.attacks is not None:
            observer.note(f"evaluation.attacks is on, attacks.json is for nobody else: {ATTACKS_WARNING}")
        rounds = run_rounds(
            self.plan,
            self.server,
            self.engine,
            self.ledger,
            first=self.finished_round + 1,
            note=observer.note,
        )
        try:
            for outcome in rounds:
                number = outcome.planned.number
                if number == self._last_prototypes:
                    observer.note(f"training on the class means, {self.settings.warmup.steps} steps")
                observer.round(self._close(outcome, last=number == last))
        except RunError:
            if self.finished_round:  # what was paid for is kept: the model so far, and its summary
                self._finish(time.perf_counter() - began)
            raise
        return self._finish(time.perf_counter() - began)

    def _close(self, outcome: Outcome, *, last: bool) -> dict[str, Any]:
        """Apply a round's sum, measure, and write what the folder keeps of it."""
        number = outcome.planned.number
        started = time.perf_counter()
        self.server.apply(outcome.total)
        outcome.seconds["server"] += time.perf_counter() - started
        line = record(self.plan, self.ledger, outcome)
        started = time.perf_counter()
        weights = self.server.average.average
        line["holdout_loss"] = self.assessment.holdout_loss(weights)
        if last or self._due(number):
            line |= self.assessment.floor | self.assessment.measure(
                weights, grid=self.folder.grid(number), last=last, seed=self.settings.run.seed + number
            )
        line["seconds"]["evaluation"] = round(time.perf_counter() - started, 4)
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
        with self.folder.metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        checkpoint.save(self.folder.checkpoint, finished_round=number, state=self.server.state_dict())
        self.finished_round = number
        return line

    @property
    def _last_prototypes(self) -> int:
        """The round after which the warm-up trains, 0 without one."""
        return sum(planned.release == "prototypes" for planned in self.plan.rounds)

    def _due(self, number: int) -> bool:
        """Evaluate each n-th round of training, and what the warm-up alone gave."""
        n_prototypes = self._last_prototypes
        if number <= n_prototypes:
            return number == n_prototypes
        return self.settings.evaluation.due(number - n_prototypes - 1, len(self.plan.rounds) - n_prototypes)

    def _finish(self, elapsed: float) -> dict[str, Any]:
        """Write the model, the moving average's weights in it, and the summary."""
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
        save_pipeline(model, settings.diffusion, settings.model.patch, self.folder.model)
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
        samples = self.assessment.synthesize(weights, self.settings.run.seed + len(self.plan.rounds))
        view = summary["guard_view"]
        claimed = [value for value in summary["epsilon"][view].values() if value is not None]
        guarantee = None
        if claimed and self.plan.budget_epsilon is not None:
            guarantee = Guarantee(
                epsilon=min(claimed), delta=summary["delta"], unit=summary["unit"], view=view
            )
        self.folder.write_json("attacks.json", attacks.measure(weights, samples, guarantee), mode=0o600)


def choose_device(name: str) -> torch.device:
    """Return the device to compute on.

    Raises:
        ConfigError: a GPU was asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("asked for cuda, but torch finds no GPU here; use cpu or auto", key="run.device")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def plan_for(settings: RunSettings, dataset: Dataset, model: nn.Module) -> Plan:
    """Make the plan of `settings`; the data give their public facts alone: shape and classes."""
    return make_plan(
        seed=settings.run.seed,
        federation=settings.federation,
        secure_sum=settings.secagg,
        privacy=settings.privacy,
        modes=settings.modes,
        warmup=settings.warmup,
        diffusion=settings.diffusion,
        patch=settings.model.patch,
        image_shape=dataset.image_shape,
        n_classes=dataset.n_classes,
        dimension=dimension(model),
        public_records=settings.federation.declared_records,
        canaries=settings.audit.canaries,
    )


def prepare(
    settings: RunSettings,
    directory: Path,
    *,
    config_text: str,
    resume: bool = False,
    entropy: Entropy = system,
    coins: Entropy = system,
) -> Run:
    """Build a run in `directory`; refuses whatever cannot be honoured before anything is sent.

    `entropy` draws keys, masks and noise, `coins` the Poisson samples; tests inject their own.

    Raises:
        ConfigError, DataError, PrivacyError: the settings cannot be honoured.
        RunError: the folder is taken, or does not belong to these settings.
    """
    folder = Folder(directory)
    if settings.run.threads:
        torch.set_num_threads(settings.run.threads)
    device = choose_device(settings.run.device)
    dataset = load(settings.data)
    model = build_unet(
        settings.model,
        image_shape=dataset.image_shape,
        n_classes=dataset.n_classes,
        n_timesteps=settings.diffusion.timesteps,
        seed=settings.run.seed,
    ).to(device)
    parts = partition(
        dataset.train.labels,
        settings.federation.clients,
        scheme=settings.data.partition,
        beta=settings.data.beta,
        classes_per_client=settings.data.classes_per_client,
        seed=settings.data.seed,
    )
    plan = plan_for(settings, dataset, model)
    scratch = copy.deepcopy(model)
    objective = Objective(settings.diffusion, device)
    _require_exact_micro_batches(plan, scratch, objective)
    assessment = Assessment(settings, dataset, scratch, objective, device)
    shared = SharedBudget.of(plan, dataset.name)
    if shared is not None and not resume:
        shared.require()
    ledger, run_id = open_ledger(folder, plan, config_text, resume=resume)
    identities = open_identities(folder, ledger, settings.federation.clients, entropy=entropy)
    server = Server(
        run_id,
        plan,
        model,
        objective,
        heads=identities.heads,
        roster=identities.roster,
        entropy=entropy,
    )
    saved = checkpoint.load(folder.checkpoint)
    if saved is not None:
        server.load_state_dict(saved[1])
    finished = saved[0] if saved else 0
    _require_affordable(plan, ledger, finished)
    if shared is not None and finished < len(plan.rounds):
        shared.reserve(ledger)
    cut_metrics(folder, finished)
    auditor = _auditor(settings, plan, ledger, folder, finished)
    handlers = {}
    for client_id, indices in enumerate(parts):
        images = dataset.train.subset(indices)
        contributor = Contributor(
            client_id=client_id,
            plan=plan,
            images=images,
            data=ClientData(images, patch=settings.model.patch, device=device),
            model=scratch,
            objective=objective,
            entropy=entropy,
            coins=coins,
            planted=None if auditor is None else auditor.planted(client_id),
        )
        key, peers = identities.keys[client_id], identities.peers[client_id]
        witness = Witness(client_id, run_id, key, ledger, peers)
        handlers[client_id] = Client(
            run_id,
            contributor,
            ledger,
            witness=witness,
            roster=identities.roster,
            signer=key,
            entropy=entropy,
        ).handle
    attacks = None
    if settings.evaluation.attacks:
        taking_part = sorted({client_id for planned in plan.rounds for client_id in planned.cohort})
        members = dataset.train.subset(np.concatenate([parts[client_id] for client_id in taking_part]))
        attacks = Attacks(dataset, members, scratch, objective, patch=settings.model.patch, device=device)
    return Run(
        settings=settings,
        folder=folder,
        plan=plan,
        server=server,
        engine=InProcessEngine(handlers, _rehearsed(settings)),
        ledger=ledger,
        assessment=assessment,
        class_names=tuple(dataset.class_names),
        finished_round=finished,
        shared=shared,
        auditor=auditor,
        attacks=attacks,
    )


def _require_exact_micro_batches(plan: Plan, model: nn.Module, objective: Objective) -> None:
    """Refuse a micro-batch at which, on this machine, one record could move more than its own vector.

    Raises:
        ConfigError: names the mode's key.
    """
    if isinstance(plan.recipe, AveragingSettings):
        return
    size = plan.recipe.micro_batch
    shape = model_shape(plan.image_shape, plan.patch)
    if not is_position_independent(model, objective, image_shape=shape, n_classes=plan.n_classes, size=size):
        raise ConfigError(
            f"at {size} this machine gives a record another gradient at another place of the batch, so the "
            "sensitivity would not hold; multiples of 16 are usually exact",
            key=f"modes.{plan.mode}.micro_batch",
        )


def _auditor(
    settings: RunSettings, plan: Plan, ledger: Ledger, folder: Folder, finished: int
) -> Auditor | None:
    """Return the auditor of a run with canaries, its coins on disk before any frame."""
    if not plan.canaries:
        return None
    try:
        return Auditor.begin(settings.audit, plan, folder.root, finished_round=finished)
    except RunError:
        ledger.close()
        raise


def _require_affordable(plan: Plan, ledger: Ledger, finished: int) -> None:
    """Refuse to go on where too few clients can pay for the next round.

    Raises:
        BudgetExceededError: with the reason of the first that cannot.
    """
    if finished == len(plan.rounds):
        return
    planned = plan.rounds[finished]
    refusals = []
    for client_id in planned.cohort:
        try:
            ledger.price(
                Charge(
                    client_id=client_id,
                    round=planned.number,
                    attempt=ledger.attempts(planned.number),
                    mechanism=planned.release,
                    steps=plan.releases[planned.release].steps,
                )
            )
        except BudgetExceededError as error:
            refusals.append(str(error))
    if len(planned.cohort) - len(refusals) < plan.federation.min_survivors:
        ledger.close()
        raise BudgetExceededError(f"the budget is spent: {refusals[0]}")


def _rehearsed(settings: RunSettings) -> Any:
    """Return who is gone when, by `federation.vanish`; without masks there is one phase to vanish from."""
    phases = ("advertise", "choose", "share_keys", "masked_input", "consistency", "unmask")
    gone = {(event.round, event.client): phases.index(event.phase) for event in settings.federation.vanish}

    def absent(number: int, client_id: int, phase: str) -> bool:
        since = gone.get((number, client_id))
        return since is not None and (phase not in phases or phases.index(phase) >= since)

    return absent
