"""A federation small enough for tests: digits, six clients, five a round, a few thousand weights."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from hashlib import sha256

from secure_fed_diffusion import config
from secure_fed_diffusion.data.datasets import load
from secure_fed_diffusion.data.partition import partition
from secure_fed_diffusion.diffusion.objective import Objective
from secure_fed_diffusion.diffusion.unet import build_unet
from secure_fed_diffusion.engines.in_process import InProcessEngine
from secure_fed_diffusion.entropy import Entropy, Keystream
from secure_fed_diffusion.federation.client import Client
from secure_fed_diffusion.federation.contribution import Contributor
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.prepare import plan_for
from secure_fed_diffusion.federation.server import Server
from secure_fed_diffusion.federation.settings import RunSettings
from secure_fed_diffusion.secagg import Roster, SigningKey
from secure_fed_diffusion.training.local import ClientData

CONFIG = """
[data]
train_limit = 300
[federation]
clients = 6
clients_per_round = 5
min_survivors = 4
reserved_attempts = 1
declared_records = 300
[secagg]
threshold = 4
[model]
channels = [8, 8]
norm_groups = 4
attention_head_dim = 4
[diffusion]
timesteps = 50
[warmup]
draws = 1
steps = 2
batch = 8
[modes.none]
rounds = 2
[modes.central]
rounds = 3
divisor = 60
micro_batch = 16
[modes.distributed]
rounds = 3
divisor = 60
micro_batch = 16
[modes.local]
rounds = 2
divisor = 12
micro_batch = 16
[modes.client]
rounds = 2
[sampler]
steps = 2
[evaluation]
every = 100
samples = 40
tstr_epochs = 1
"""


def seeded(*key: object) -> Entropy:
    """Return randomness that `key` decides: for tests alone."""
    return Keystream(sha256(repr(key).encode()).digest()).read


def settings_for(mode: str, *overrides: str) -> RunSettings:
    return config.parse(CONFIG, [f"privacy.mode={mode}", *overrides])


@dataclass
class Book:
    """Stands where the ledger stands and remembers the order of things; it never refuses."""

    charges: list[tuple[int, int, int, str, int]] = field(default_factory=list)

    def charge(self, client_id: int, *, round: int, attempt: int, mechanism: str, steps: int = 1) -> None:  # noqa: A002
        self.charges.append((client_id, round, attempt, mechanism, steps))

    def attempts(self, round: int) -> int:  # noqa: A002
        return 1 + max((c[2] for c in self.charges if c[1] == round), default=-1)

    def paid(self, round: int) -> int:  # noqa: A002
        return len({c[2] for c in self.charges if c[1] == round})


@dataclass
class Federation:
    plan: Plan
    server: Server
    contributors: dict[int, Contributor]
    clients: dict[int, Client]
    engine: InProcessEngine
    book: Book


def without_noise(plan: Plan) -> Plan:
    releases = {
        name: replace(release, mechanism=replace(release.mechanism, share_stddev=0.0, server_stddev=0.0))
        for name, release in plan.releases.items()
    }
    return replace(plan, releases=releases)


def federation(settings: RunSettings, *, noise: bool = True, seed: object = None) -> Federation:
    """Build one by hand; `seed` fixes every client's Poisson coins (the operating system draws the rest)."""
    dataset = load(settings.data)

    def unet() -> object:
        return build_unet(
            settings.model,
            image_shape=dataset.image_shape,
            n_classes=dataset.n_classes,
            n_timesteps=settings.diffusion.timesteps,
        )

    model, scratch = unet(), unet()
    plan = plan_for(settings, dataset, model)
    plan = plan if noise else without_noise(plan)
    objective = Objective(settings.diffusion)
    book = Book()
    parts = partition(
        dataset.train.labels,
        settings.federation.clients,
        scheme="dirichlet",
        beta=0.5,
        classes_per_client=2,
        seed=0,
    )
    contributors = {}
    for client_id, indices in enumerate(parts):
        images = dataset.train.subset(indices)
        contributors[client_id] = Contributor(
            client_id=client_id,
            plan=plan,
            images=images,
            data=ClientData(images, patch=1, device="cpu"),
            model=scratch,
            objective=objective,
            **({} if seed is None else {"coins": seeded(seed, client_id)}),
        )
    keys = {c: SigningKey.generate() for c in contributors}
    roster = Roster({c: key.public for c, key in keys.items()})
    clients = {
        c: Client("run", contributor, book, roster=roster, signer=keys[c])
        for c, contributor in contributors.items()
    }
    engine = InProcessEngine({c: client.handle for c, client in clients.items()})
    return Federation(
        plan=plan,
        server=Server("run", plan, model, objective, roster=roster),
        contributors=contributors,
        clients=clients,
        engine=engine,
        book=book,
    )
