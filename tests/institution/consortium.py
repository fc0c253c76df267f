"""A small consortium on disk, and a coordinator in this process that talks to it in frames."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from secure_fed_diffusion import config
from secure_fed_diffusion.data.datasets import load
from secure_fed_diffusion.diffusion.objective import Objective
from secure_fed_diffusion.diffusion.unet import build_unet
from secure_fed_diffusion.engines.in_process import InProcessEngine
from secure_fed_diffusion.federation.heads import HeadBook, read_roster
from secure_fed_diffusion.federation.planning import make_plan
from secure_fed_diffusion.federation.prepare import plan_for
from secure_fed_diffusion.federation.server import Server
from secure_fed_diffusion.federation.settings import RunSettings
from secure_fed_diffusion.institution.agreement import Agreement
from secure_fed_diffusion.institution.institution import Institution
from secure_fed_diffusion.institution.messages import Acceptance, enclose, join, leave
from secure_fed_diffusion.institution.rehearsal import rehearse

ADDRESS = "localhost:9092"
CONFIG = """
[data]
train_limit = 120
partition = "iid"
[federation]
clients = 4
clients_per_round = 4
colluders = 1
min_survivors = 3
reserved_attempts = 1
declared_records = 120
[secagg]
threshold = 3
[privacy]
epsilon = 8.0
[model]
channels = [4, 4]
norm_groups = 2
attention_head_dim = 2
[diffusion]
timesteps = 20
[warmup]
draws = 0
[modes.distributed]
rounds = 2
divisor = 30
micro_batch = 16
[modes.local]
rounds = 2
divisor = 8
micro_batch = 16
[modes.client]
rounds = 2
[sampler]
steps = 2
[evaluation]
every = 100
"""


def settings_for(*overrides: str) -> RunSettings:
    return config.parse(CONFIG, overrides)


@dataclass
class Coordinator:
    """The other side: a plan, an agreement, a server; its institutions are opened on demand."""

    settings: RunSettings
    folder: Path
    paths: list[Path]
    run_id: str = "5a" * 16
    institutions: dict[int, Institution] = field(default_factory=dict)

    def __post_init__(self) -> None:
        dataset = load(self.settings.data)
        self.model = build_unet(
            self.settings.model,
            image_shape=dataset.image_shape,
            n_classes=dataset.n_classes,
            n_timesteps=self.settings.diffusion.timesteps,
        )
        self.roster = read_roster(self.folder / "coordinator" / "roster.json")
        self.plan = plan_for(self.settings, dataset, self.model)
        self.heads = HeadBook(self.run_id, self.roster)
        self.server = Server(
            self.run_id,
            self.plan,
            self.model,
            Objective(self.settings.diffusion),
            roster=self.roster,
            heads=self.heads,
        )
        self.agreement = Agreement.of(
            self.plan,
            config_text=config.dump(self.settings),
            run_id=self.run_id,
            class_names=tuple(dataset.class_names),
            roster=self.roster,
        )

    def proposal(self, settings: RunSettings, image_shape: tuple[int, int, int], *, run_id: str) -> Agreement:
        """Return an honest agreement about other settings."""
        plan = make_plan(
            seed=settings.run.seed,
            federation=settings.federation,
            secure_sum=settings.secagg,
            privacy=settings.privacy,
            modes=settings.modes,
            warmup=settings.warmup,
            diffusion=settings.diffusion,
            model=settings.model,
            image_shape=image_shape,
            n_classes=self.plan.n_classes,
            dimension=self.plan.dimension,
            public_records=settings.federation.declared_records,
            canaries=settings.audit.canaries,
        )
        return Agreement.of(
            plan,
            config_text=config.dump(settings),
            run_id=run_id,
            class_names=self.agreement.class_names,
            roster=self.roster,
        )

    def institution(self, client_id: int) -> Institution:
        if client_id not in self.institutions:
            self.institutions[client_id] = Institution.open(self.paths[client_id])
        return self.institutions[client_id]

    def restart(self, client_id: int) -> None:
        """Put an institution's process down; the next frame meets a new one."""
        self.institutions.pop(client_id).close()

    def join(self, *client_ids: int) -> None:
        for client_id in client_ids or range(len(self.paths)):
            reply = self.institution(client_id).handle(join(self.agreement))
            assert Acceptance.decode(reply).require(self.agreement, self.roster) == client_id

    def handlers(self) -> Mapping[int, Callable[[bytes], bytes]]:
        return {
            client_id: lambda frame, client_id=client_id: self.institution(client_id).handle(
                enclose(self.run_id, frame)
            )
            for client_id in range(len(self.paths))
        }

    def engine(self) -> InProcessEngine:
        return InProcessEngine(dict(self.handlers()))

    def leave(self, client_id: int) -> bytes:
        return self.institution(client_id).handle(leave(self.run_id))


def coordinator(folder: Path, *overrides: str, run_id: str = "5a" * 16) -> Coordinator:
    settings = settings_for(*overrides)
    paths = rehearse(settings, folder, address=ADDRESS)
    return Coordinator(settings, folder, paths, run_id)
