"""The real pipeline around a network of 175 weights, small enough to be run again for every mutant.

Nothing here imitates the package: the plan, the clients, the server, the secure sum, the ledger and the
auditor are its own, only the network and the data are small.  Every stream of randomness that decides a
result is seeded, those of keys and masks too where masks are looked at, so a check says the same each time.

A `Laboratory` is built while a mutant is in place, and holds what several checks look at: a run of each
kind is made when the first check asks for it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from secure_fed_diffusion import config
from secure_fed_diffusion.audit.canaries import Planted
from secure_fed_diffusion.audit.journal import observations
from secure_fed_diffusion.audit.observations import CanaryObservations
from secure_fed_diffusion.audit.settings import AuditSettings
from secure_fed_diffusion.data.datasets import Dataset, ImageSet, load
from secure_fed_diffusion.data.settings import DataSettings
from secure_fed_diffusion.diffusion.objective import Objective
from secure_fed_diffusion.dp.ledger import Ledger
from secure_fed_diffusion.engines.in_process import InProcessEngine
from secure_fed_diffusion.entropy import Entropy
from secure_fed_diffusion.federation import prepare as prepare_module
from secure_fed_diffusion.federation.auditor import Auditor
from secure_fed_diffusion.federation.client import Client
from secure_fed_diffusion.federation.contribution import Contributor
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.rounds import Outcome, run_rounds
from secure_fed_diffusion.federation.server import Server
from secure_fed_diffusion.federation.settings import RunSettings
from secure_fed_diffusion.training.local import ClientData
from secure_fed_diffusion.training.vectors import flatten
from tests.federation.small import Book, seeded, without_noise

CLIENTS, RECORDS, CANARIES, ROUNDS = 5, 100, 1000, 10
FREE_DIRECTIONS = 1000  # coordinates of each client's own noise that A0 looks at

CONFIG = f"""
[federation]
clients = {CLIENTS}
clients_per_round = {CLIENTS}
min_survivors = 4
reserved_attempts = 1
declared_records = {RECORDS}
[secagg]
profile = "semi_honest"
threshold = 4
[diffusion]
timesteps = 50
noise_multiplicity = 2
[privacy]
epsilon = 8.0
[warmup]
draws = 1
steps = 1
batch = 4
[modes.central]
rounds = {ROUNDS}
sampling_rate = 0.25
divisor = 25
micro_batch = 16
[modes.distributed]
rounds = {ROUNDS}
sampling_rate = 0.25
divisor = 25
micro_batch = 16
[modes.local]
rounds = 2
local_epochs = 0.5
sampling_rate = 0.25
divisor = 5
micro_batch = 16
[modes.client]
rounds = 2
clip_norm = 0.01
[sampler]
steps = 2
"""


class TinyDenoiser(nn.Module):
    """Two convolutions and a label embedding: every kind of weight whose gradient has more than one axis."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.lift = nn.Conv2d(1, 6, 3, padding=1)
            self.label = nn.Embedding(10, 6)
            self.lower = nn.Conv2d(6, 1, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        """Return the prediction in a tuple of one, as diffusers' models do."""
        time = (t.to(x.dtype) / 50).view(-1, 1, 1, 1)
        return (self.lower(torch.tanh(self.lift(x) + self.label(class_labels)[:, :, None, None] + time)),)


@cache
def digits() -> Dataset:
    """Return a hundred records of the embedded digits."""
    return load(DataSettings(train_limit=RECORDS))


def settings_for(mode: str, *overrides: str) -> RunSettings:
    """Return the laboratory's settings in `mode`."""
    return config.parse(CONFIG, [f"privacy.mode={mode}", *overrides])


class QuickAuditor(Auditor):
    """The run's own auditor, but for the lower bound after each round: checks ask for the last one."""

    def _bound(self, seen: CanaryObservations) -> dict[str, Any]:
        return {}


@dataclass(kw_only=True)
class Federation:
    """A federation that is ready to go."""

    plan: Plan
    server: Server
    contributors: dict[int, Contributor]
    clients: dict[int, Client]
    engine: InProcessEngine
    ledger: Ledger | Book
    ledger_path: Path
    auditor: QuickAuditor | None

    def rounds(self) -> Iterator[Outcome]:
        """Yield each round after it was applied; close the ledger behind the last."""
        try:
            for outcome in run_rounds(
                self.plan, self.server, self.engine, self.ledger, first=1, note=lambda text: None
            ):
                self.server.apply(outcome.total)
                yield outcome
        finally:
            if isinstance(self.ledger, Ledger):
                self.ledger.close()


@dataclass(kw_only=True)
class Played:
    """A whole run, and what was seen of it."""

    it: Federation
    outcomes: list[Outcome]
    seen: CanaryObservations | None
    shares: npt.NDArray[np.int64]  # (R, clients, k): each client's own noise in the training rounds
    batches: list[tuple[int, int]]  # (records held, records drawn) of each client in each training round
    weights: Tensor


@dataclass
class Laboratory:
    """One state of the package, whole or broken, and the runs that were made in it."""

    folder: Path
    _n_folders: int = field(default=0)

    def new_folder(self) -> Path:
        """Return an empty folder."""
        self._n_folders += 1
        path = self.folder / str(self._n_folders)
        path.mkdir()
        return path

    def plan(self, mode: str, *overrides: str, dataset: Dataset | None = None) -> Plan:
        """Make a plan as `prepare` does."""
        settings = settings_for(mode, *overrides)
        return prepare_module.plan_for(settings, dataset or digits(), TinyDenoiser())

    def contributor(
        self,
        plan: Plan,
        client_id: int,
        images: ImageSet,
        *,
        entropy: Entropy,
        coins: Entropy,
        planted: Planted | None = None,
    ) -> Contributor:
        """Build one client's data and model."""
        return Contributor(
            client_id=client_id,
            plan=plan,
            images=images,
            data=ClientData(images, patch=1, device="cpu"),
            model=TinyDenoiser(),
            objective=Objective(plan.diffusion),
            entropy=entropy,
            coins=coins,
            planted=planted,
        )

    def federation(
        self,
        mode: str,
        *overrides: str,
        noise: bool = True,
        dataset: Dataset | None = None,
        protocol: Callable[..., Entropy] | None = None,
    ) -> Federation:
        """Build clients, server, ledger and, with canaries, auditor; `protocol` fixes keys and masks."""
        settings, dataset = settings_for(mode, *overrides), dataset or digits()
        model = TinyDenoiser()
        plan = prepare_module.plan_for(settings, dataset, model)
        plan = plan if noise else without_noise(plan)
        folder = self.new_folder()
        # A ledger refuses a plan without noise, as it should.
        ledger = Ledger.create(folder / "ledger.jsonl", plan.terms("run", "digest")) if noise else Book()
        auditor = None
        if plan.canaries:
            terms = AuditSettings(canaries=plan.canaries, false_alarm=1e-4)
            auditor = QuickAuditor.begin(terms, plan, folder, finished_round=0, entropy=seeded("canaries"))
        parts = np.array_split(np.arange(len(dataset.train)), CLIENTS)
        contributors = {
            client_id: self.contributor(
                plan,
                client_id,
                dataset.train.subset(part),
                entropy=seeded("noise", client_id),
                coins=seeded("coins", client_id),
                planted=auditor.planted(client_id) if auditor else None,
            )
            for client_id, part in enumerate(parts)
        }
        clients = {
            c: Client("run", contributor, ledger, **({"entropy": protocol(c)} if protocol else {}))
            for c, contributor in contributors.items()
        }
        return Federation(
            plan=plan,
            server=Server("run", plan, model, Objective(plan.diffusion), entropy=seeded("server")),
            contributors=contributors,
            clients=clients,
            engine=InProcessEngine({c: client.handle for c, client in clients.items()}),
            ledger=ledger,
            ledger_path=folder / "ledger.jsonl",
            auditor=auditor,
        )

    def play(self, it: Federation) -> Played:
        """Run all rounds, with an eye on each client's own noise and on how many records it drew."""
        drawn: dict[int, list[npt.NDArray[np.int64]]] = {}
        batches: list[tuple[int, int]] = []
        present, gather = Contributor._with_noise, ClientData.sample

        def watched(self: Contributor, integers: Any, release: Any) -> Any:
            before = integers.copy()
            answer = present(self, integers, release)
            if release.name == "training":
                drawn.setdefault(self.client_id, []).append((answer - before)[:FREE_DIRECTIONS])
            return answer

        def counted(self: ClientData, index: Any, *arguments: Any) -> Any:
            batches.append((len(self), len(index)))
            return gather(self, index, *arguments)

        outcomes = []
        with (
            patch.object(Contributor, "_with_noise", watched),
            patch.object(ClientData, "sample", counted),
        ):
            for outcome in it.rounds():
                outcomes.append(outcome)
                if it.auditor is not None:
                    it.auditor.observe(outcome)
        seen = observations(it.auditor.terms.canaries, it.auditor.rounds) if it.auditor else None
        shares = np.stack([np.stack(drawn[c]) for c in sorted(drawn)], axis=1)
        return Played(
            it=it,
            outcomes=outcomes,
            seen=seen,
            shares=shares,
            batches=batches,
            weights=flatten(it.server.model),
        )

    @cached_property
    def distributed(self) -> Played:
        """A masked run with noise shares and canaries."""
        return self.play(
            self.federation(
                "distributed", f"audit.canaries={CANARIES}", protocol=lambda client: seeded("keys", client)
            )
        )

    @cached_property
    def central(self) -> Played:
        """A run with canaries and a trusted server, without masks."""
        return self.play(self.federation("central", f"audit.canaries={CANARIES}", "federation.masked=false"))


@contextmanager
def laboratory() -> Iterator[Laboratory]:
    """Yield a laboratory with a folder of its own."""
    folder = Path(tempfile.mkdtemp())
    try:
        yield Laboratory(folder)
    finally:
        shutil.rmtree(folder)


def other_records(dataset: Dataset) -> Dataset:
    """Return a data set whose private records differ in number, content and labels."""
    kept = dataset.train.subset(slice(0, len(dataset.train) - 3))
    return replace(dataset, train=ImageSet(255 - kept.images, (kept.labels * 3 + 1) % dataset.n_classes))
