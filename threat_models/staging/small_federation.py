"""A small federation of the real system, whose every frame and contribution a claim may look at.

`Plan`, `Contributor`, `Client` and `Server` are the package's own: its sampler, clip, integer grid, noise
shares, masks and optimiser.  A claim chooses the network, who holds which images, and what is left out
(`noise=0`: the defence is off).  Ledgers are left out: no claim here is about what is charged.

>>> settings = settings_for("distributed", clients=3, rounds=1)
>>> settings.federation.clients_per_round, settings.secagg.threshold
(3, 3)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import sha256
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from secure_fed_diffusion import config
from secure_fed_diffusion.data.datasets import Dataset, ImageSet, load
from secure_fed_diffusion.data.settings import DataSettings
from secure_fed_diffusion.diffusion.objective import Objective, draw
from secure_fed_diffusion.engines.in_process import InProcessEngine
from secure_fed_diffusion.entropy import Entropy, Keystream, system
from secure_fed_diffusion.federation.client import Client
from secure_fed_diffusion.federation.contribution import Contributor
from secure_fed_diffusion.federation.messages import Announcement
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.prepare import plan_for
from secure_fed_diffusion.federation.release import Release
from secure_fed_diffusion.federation.schedule import Round
from secure_fed_diffusion.federation.server import Server
from secure_fed_diffusion.federation.settings import RunSettings
from secure_fed_diffusion.secagg import Roster, SigningKey
from secure_fed_diffusion.secagg.encoding import centred
from secure_fed_diffusion.training.local import ClientData, record_names
from secure_fed_diffusion.training.vectors import flatten, load_flat
from threat_models.staging.denoisers import TIMESTEPS

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def settings_for(mode: str, *, clients: int, rounds: int, **changes: Any) -> RunSettings:
    """Return the settings of a run whose whole federation takes part in each round.

    Every other participant may collude (`colluders` = n - 1), so each client's own noise share is the
    whole noise; a claim on fewer colluders says so in `changes`, whose keys are written section__key.
    """
    overrides = {
        "privacy.mode": mode,
        "privacy.epsilon": 1e9,
        "privacy.noise_multiplier": 1.0,
        "privacy.accountant": "rdp",
        "federation.clients": clients,
        "federation.clients_per_round": clients,
        "federation.min_survivors": clients,
        "federation.colluders": clients - 1,
        "secagg.threshold": clients,
        "diffusion.timesteps": TIMESTEPS,
        "sampler.steps": 2,
        "warmup.draws": 0,
        f"modes.{mode}.rounds": rounds,
    } | {key.replace("__", "."): value for key, value in changes.items()}
    return config.parse("", [f"{key}={_toml(value)}" for key, value in overrides.items()])


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@lru_cache(maxsize=1)
def digits() -> Dataset:
    """Load scikit-learn's digits, once."""
    return load(DataSettings(name="digits"))


def chosen_digits(n: int, seed: int, *, split: str = "train") -> ImageSet:
    """Return `n` images that `seed` chooses."""
    images: ImageSet = getattr(digits(), split)
    return images.subset(np.random.default_rng(seed).permutation(len(images))[:n])


def in_unit_range(images: npt.NDArray[np.uint8]) -> Floats:
    """Return pixels in [0, 1]."""
    return images.astype(np.float64) / 255.0


def predictable(label: object) -> Entropy:
    """Return a generator that whoever knows `label` can run again: what the claims drop or fix."""
    return Keystream(sha256(repr(label).encode()).digest()).read


@lru_cache(maxsize=64)
def _plan(settings: RunSettings, build: Callable[[], nn.Module]) -> Plan:
    return plan_for(settings, digits(), build())


def with_noise(plan: Plan, factor: float) -> Plan:
    """Return the plan with `factor` times its noise (0: none is drawn) and all else as it is."""

    def changed(release: Release) -> Release:
        own, servers = release.mechanism.share_stddev, release.mechanism.server_stddev
        mechanism = replace(release.mechanism, share_stddev=factor * own, server_stddev=factor * servers)
        return replace(release, mechanism=mechanism)

    return replace(plan, releases={name: changed(release) for name, release in plan.releases.items()})


class Book:
    """Stands where the ledger stands and never refuses."""

    def charge(self, client_id: int, *, round: int, attempt: int, mechanism: str, steps: int = 1) -> None:  # noqa: A002
        """Take a charge."""


@dataclass(slots=True, kw_only=True)
class SmallFederation:
    """The parts of a run, in hand."""

    plan: Plan
    objective: Objective
    server: Server
    contributors: dict[int, Contributor]
    clients: dict[int, Client]
    frames: list[tuple[str, int, bytes]] = field(default_factory=list)

    @property
    def weights(self) -> npt.NDArray[np.float32]:
        """What the server announces next."""
        return flatten(self.server.model).numpy()

    def announce(self, weights: npt.NDArray[np.float32]) -> None:
        """Put other weights in the server's hand."""
        load_flat(self.server.model, torch.from_numpy(weights))

    def release_of(self, number: int) -> Release:
        """Return what round `number` sums."""
        return self.plan.releases[self.plan.rounds[number - 1].release]

    def announced(self, number: int) -> npt.NDArray[np.float32]:
        """Open round `number` and return what the clients are told: the weights, or the class means."""
        frame = next(iter(self.server.open(number, 0).values()))
        return Announcement.decode(frame, self.plan.announced(number)).weights

    def contribution(self, client_id: int, number: int) -> Floats:
        """Return what one client adds to round `number`, its masks off, decoded."""
        release = self.release_of(number)
        vector = self.contributors[client_id].vector(
            release, self.announced(number), number=number, attempt=0
        )
        return self.decoded(_in_ring(vector, release), number)

    def in_ring(self, vector: npt.NDArray[np.uint64], number: int) -> Integers:
        """Return ring elements of round `number` as centred integers."""
        return _in_ring(vector, self.release_of(number))

    def decoded(self, total: Integers, number: int) -> Floats:
        """Return integers of round `number` in the vectors' own unit."""
        release = self.release_of(number)
        if release.fixed_point is None:
            return release.grid.to_float(total)
        values = np.ldexp(total.astype(np.float64), -release.fixed_point.fraction_bits)
        if self.plan.mode != "none":
            return values
        return values[:-1] / int(total[-1])  # FedAvg's weight travels behind the weighted update

    def record_contributions(self) -> dict[int, Integers]:
        """Return a book that fills with what each client adds, as it adds it: what a colluder can tell."""
        told: dict[int, Integers] = {}
        for client_id, client in self.clients.items():
            client._contributor = _Recorded(self.contributors[client_id], told)
        return told

    def run_round(self, number: int) -> Integers:
        """Run round `number` over the real frames; return its sum, and keep the clients' frames."""
        engine = InProcessEngine({c: client.handle for c, client in self.clients.items()})
        outgoing = self.server.open(number, 0)
        while outgoing:
            phase = self.server.phase
            replies = engine.exchange(outgoing, round=number, phase=phase)
            for error in replies.refusals.values():
                raise error
            self.frames += [(phase, c, frame) for c, frame in replies.frames.items()]
            outgoing = self.server.take(replies.frames)
        return self.server.total()


@dataclass(frozen=True, slots=True)
class _Recorded:
    """A contributor whose owner writes down what it adds."""

    contributor: Contributor
    told: dict[int, Integers]

    @property
    def client_id(self) -> int:
        return self.contributor.client_id

    @property
    def plan(self) -> Plan:
        return self.contributor.plan

    def vector(
        self, release: Release, weights: npt.NDArray[np.float32], *, number: int, attempt: int
    ) -> npt.NDArray[np.uint64]:
        """Return the contribution, and keep a copy."""
        vector = self.contributor.vector(release, weights, number=number, attempt=attempt)
        self.told[self.client_id] = _in_ring(vector, release)
        return vector


def _in_ring(vector: npt.NDArray[np.uint64], release: Release) -> Integers:
    return centred(vector & np.uint64((1 << release.modulus_bits) - 1), release.modulus_bits)


def federation(
    settings: RunSettings,
    build: Callable[[], nn.Module],
    images: Sequence[ImageSet],
    *,
    seed: int,
    noise: float = 1.0,
    weights: npt.NDArray[np.float32] | None = None,
    noise_entropy: Mapping[int, Entropy] | None = None,
    coins: Mapping[int, Entropy] | None = None,
) -> SmallFederation:
    """Build a federation whose client `i` holds `images[i]`.

    `noise` multiplies every draw of noise (0: none).
    `weights` are those that the server begins with (default: an initialisation by `seed`).
    `noise_entropy` replaces the operating system's randomness at some clients, `coins` that of their samples.
    """
    plan = replace(_plan(settings, build), seed=seed)
    plan = plan if noise == 1.0 else with_noise(plan, noise)
    objective = Objective(settings.diffusion)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, scratch = build(), build()
    if weights is not None:
        load_flat(model, torch.from_numpy(weights))
    keys = {c: SigningKey.generate() for c in range(len(images))}
    roster = Roster({c: key.public for c, key in keys.items()})
    contributors = {
        c: Contributor(
            client_id=c,
            plan=plan,
            images=part,
            data=ClientData(part, patch=1, device="cpu"),
            model=scratch,
            objective=objective,
            entropy=(noise_entropy or {}).get(c, system),
            coins=(coins or {}).get(c, system),
        )
        for c, part in enumerate(images)
    }
    clients = {
        c: Client("run", contributor, Book(), roster=roster, signer=keys[c])
        for c, contributor in contributors.items()
    }
    return SmallFederation(
        plan=plan,
        objective=objective,
        server=Server("run", plan, model, objective, roster=roster),
        contributors=contributors,
        clients=clients,
    )


def known_draws(
    plan: Plan, client_id: int, number: int, images: ImageSet
) -> tuple[npt.NDArray[np.int64], Floats]:
    """Return t (n,) and the noise image (n, c, h, w) of each of a client's records in a round.

    Seed, client, round, attempt and the record's own content decide them, so a server that lacks the record
    lacks them too.  An adversary here is handed them, which is more than it has: no defence rests on them.
    """
    key: tuple[int, ...] = (plan.seed, client_id, number, 0)
    epoch: tuple[int, ...] = () if plan.mode in ("central", "distributed") else (0,)
    keys = [(*key, *epoch, *name) for name in record_names(images)]
    draws = draw(plan.diffusion, plan.image_shape, keys=keys)
    return draws.timesteps[:, 0].numpy(), draws.noise[:, 0].numpy().astype(np.float64)


def quietest_round(plan: Plan, images: ImageSet, client_id: int = 0) -> int:
    """Return the training round in which a client's record 0 is noised least: the best one to attack."""
    rounds: tuple[Round, ...] = plan.rounds
    training = [planned.number for planned in rounds if planned.release == "training"]
    return min(training, key=lambda number: int(known_draws(plan, client_id, number, images)[0][0]))
