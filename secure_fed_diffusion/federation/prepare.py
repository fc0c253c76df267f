"""Make a run out of its settings: everything is built, read and checked before anything is sent.

What cannot be honoured (a folder that is taken, a micro-batch that is not exact here, a budget that is
spent) is refused here; `Run.execute` then only runs.

Not protected against: a machine whose kernels change between preparing and running.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from secure_fed_diffusion.data.datasets import Dataset, load
from secure_fed_diffusion.data.partition import partition
from secure_fed_diffusion.diffusion.objective import Objective
from secure_fed_diffusion.diffusion.patches import model_shape
from secure_fed_diffusion.diffusion.unet import build_unet
from secure_fed_diffusion.dp.account import Charge
from secure_fed_diffusion.dp.ledger import Ledger
from secure_fed_diffusion.engines.in_process import InProcessEngine
from secure_fed_diffusion.entropy import Entropy, system
from secure_fed_diffusion.errors import BudgetExceededError, ConfigError, RunError
from secure_fed_diffusion.evaluation.attacks import Attacks
from secure_fed_diffusion.federation import checkpoint
from secure_fed_diffusion.federation.assessment import Assessment
from secure_fed_diffusion.federation.auditor import Auditor
from secure_fed_diffusion.federation.client import Client
from secure_fed_diffusion.federation.contribution import Contributor
from secure_fed_diffusion.federation.folder import (
    Folder,
    cut_metrics,
    open_identities,
    open_ledger,
)
from secure_fed_diffusion.federation.heads import Witness
from secure_fed_diffusion.federation.plan import Plan, make_plan
from secure_fed_diffusion.federation.run import Run
from secure_fed_diffusion.federation.server import Server
from secure_fed_diffusion.federation.settings import AveragingSettings, RunSettings
from secure_fed_diffusion.federation.shared_budget import SharedBudget
from secure_fed_diffusion.training.local import ClientData
from secure_fed_diffusion.training.per_example import is_position_independent
from secure_fed_diffusion.training.vectors import dimension


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
