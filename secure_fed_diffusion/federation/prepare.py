"""Make a run out of its settings: everything is built, read and checked before anything is sent.

What cannot be honoured (a folder that is taken, a micro-batch that is not exact here, a budget that is
spent) is refused here; `Run.execute` then only runs.  A run in one process is both parts together: the
server's (`server_part`), and each client's with its own records; what the clients compute is done for several
at once, here or by worker processes (`workroom`).

Not protected against: a machine whose kernels change between preparing and running.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from torch import nn

from secure_fed_diffusion.data.datasets import load
from secure_fed_diffusion.engines.in_process import InProcessEngine
from secure_fed_diffusion.entropy import Entropy, system
from secure_fed_diffusion.errors import RunError
from secure_fed_diffusion.evaluation.attacks import Attacks
from secure_fed_diffusion.federation.assessment import Assessment
from secure_fed_diffusion.federation.auditor import Auditor
from secure_fed_diffusion.federation.client import Client
from secure_fed_diffusion.federation.heads import Witness
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.planning import make_plan
from secure_fed_diffusion.federation.ports import Contribution
from secure_fed_diffusion.federation.rehearsal import deal, rehearsed
from secure_fed_diffusion.federation.run import Run
from secure_fed_diffusion.federation.server_part import ServerPart, prepare_server
from secure_fed_diffusion.federation.settings import RunSettings
from secure_fed_diffusion.federation.workbench import Workbench
from secure_fed_diffusion.federation.workroom import HandedIn, side_by_side
from secure_fed_diffusion.training.vectors import dimension


class Described(Protocol):
    """The public facts that a plan is made from; `data.facts.Facts` and `Dataset` have them."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""

    @property
    def n_classes(self) -> int:
        """Number of classes."""


def plan_for(settings: RunSettings, dataset: Described, model: nn.Module) -> Plan:
    """Make the plan of `settings`; the data give their public facts alone: shape and classes."""
    return make_plan(
        seed=settings.run.seed,
        federation=settings.federation,
        secure_sum=settings.secagg,
        privacy=settings.privacy,
        modes=settings.modes,
        warmup=settings.warmup,
        diffusion=settings.diffusion,
        model=settings.model,
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
    dataset = load(settings.data)
    bench = Workbench.make(settings, image_shape=dataset.image_shape, n_classes=dataset.n_classes)
    parts = deal(settings, dataset)
    plan = plan_for(settings, dataset, bench.model)
    bench.require_exact_micro_batches(plan)
    part = prepare_server(
        settings,
        directory,
        plan=plan,
        bench=bench,
        assessment=Assessment(settings, dataset, bench.model, bench.objective, bench.device),
        dataset_name=dataset.name,
        class_names=tuple(dataset.class_names),
        config_text=config_text,
        resume=resume,
        entropy=entropy,
    )
    try:
        auditor = _auditor(part)
        images = {client_id: dataset.train.subset(indices) for client_id, indices in enumerate(parts)}
        planted = {} if auditor is None else {client_id: auditor.planted(client_id) for client_id in images}
        beside = side_by_side(settings, plan, images, bench, entropy=entropy, coins=coins, planted=planted)
        handlers = {}
        for client_id, own in images.items():
            contributor: Contribution
            if beside is not None:
                contributor = HandedIn(client_id, plan, beside)
            else:
                contributor = bench.contributor(
                    plan,
                    client_id,
                    own,
                    entropy=entropy,
                    coins=coins,
                    planted=planted.get(client_id),
                )
            handlers[client_id] = _client(part, contributor, entropy).handle
        run = part.run(InProcessEngine(handlers, rehearsed(settings), beside))
        run.auditor = auditor
        if settings.evaluation.attacks:
            taking_part = sorted({client_id for planned in plan.rounds for client_id in planned.cohort})
            members = dataset.train.subset(np.concatenate([parts[client_id] for client_id in taking_part]))
            run.attacks = Attacks(
                dataset, members, bench.model, bench.objective, patch=bench.patch, device=bench.device
            )
        return run
    except BaseException:
        part.ledger.close()  # its lock would outlive a refusal
        raise


def _client(part: ServerPart, contributor: Contribution, entropy: Entropy) -> Client:
    """Return a client of this process: it charges the run's ledger and signs that ledger's heads."""
    identities, client_id = part.identities, contributor.client_id
    if identities is None:
        raise RunError("a run in one process needs the clients' keys in its folder")
    key = identities.keys[client_id]
    return Client(
        part.run_id,
        contributor,
        part.ledger,
        witness=Witness(client_id, part.run_id, key, part.ledger, identities.peers[client_id]),
        roster=part.roster,
        signer=key,
        entropy=entropy,
    )


def _auditor(part: ServerPart) -> Auditor | None:
    """Return the auditor of a run with canaries, its coins on disk before any frame."""
    if not part.plan.canaries:
        return None
    return Auditor.begin(part.settings.audit, part.plan, part.folder.root, finished_round=part.finished_round)
