"""`institution.toml`: everything that an institution decides itself, in one file that never leaves it.

Paths are taken from the file's own folder.  Whatever stands under `[policy]` and `[budget]` holds
whatever a coordinator proposes; `privacy.md` and `deployment.md` say what each bound is good for.

Not protected against: a policy that its owner made too loose.

>>> PolicySettings().modes
('distributed', 'client', 'local')
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

from secure_fed_diffusion.config import load_as
from secure_fed_diffusion.dp.accounting import Accountant
from secure_fed_diffusion.dp.mechanism import RELATIONS_OF_UNIT, Relation, Unit
from secure_fed_diffusion.errors import ConfigError

ProtectedMode = Literal["distributed", "client", "local", "central"]


def _require(condition: bool, key: str, expected: str, value: object) -> None:
    if not condition:
        finite = "" if not isinstance(value, float) or math.isfinite(value) else "a finite number, "
        raise ConfigError(f"expected {finite}{expected}, got {value!r}", key=key)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """The institution's own records: an .npz with `images` (uint8) and `labels` (integers), no other's.

    `name` names the data set in this institution's ledger: one name, one budget, for good.
    `classes` and `image_shape` (c, h, w) are what the institutions agreed on: the file is held to them here,
    and a proposal to them alone, so no proposal can ask what the labels are.
    """

    classes: int
    image_shape: tuple[int, int, int]
    name: str = "my records"
    file: str = "records.npz"

    def __post_init__(self) -> None:
        _require(self.classes >= 1, "data.classes", ">= 1", self.classes)
        _require(min(self.image_shape) >= 1, "data.image_shape", "[c, h, w], each >= 1", self.image_shape)
        _require(bool(self.name.strip()), "data.name", "a name", self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who this institution is among the others: its Ed25519 key, and everybody's public keys.

    `roster_root` is the fingerprint of the roster, as the institutions compared it over another channel.
    """

    key: str = "signing.key"
    roster: str = "roster.json"
    roster_root: str = ""

    def __post_init__(self) -> None:
        _require(
            re.fullmatch(r"[0-9a-f]{64}|", self.roster_root) is not None,
            "identity.roster_root",
            "64 hexadecimal digits",
            self.roster_root,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SuperLink:
    """Where the coordinator's SuperLink is, and how the two know each other on the wire.

    `node_key` is the P-384 key that the coordinator registered; `poll_seconds` is how often to ask for work.
    """

    address: str = "localhost:9092"
    ca_certificate: str = "ca.crt"
    node_key: str = "node.key"
    poll_seconds: float = 0.5

    def __post_init__(self) -> None:
        host, _, port = self.address.rpartition(":")
        _require(
            bool(host) and port.isdecimal() and 0 < int(port) < 1 << 16,
            "superlink.address",
            '"host:port"',
            self.address,
        )
        _require(
            math.isfinite(self.poll_seconds) and 0.05 <= self.poll_seconds <= 60,
            "superlink.poll_seconds",
            "0.05 <= poll_seconds <= 60",
            self.poll_seconds,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySettings:
    """The least that this institution asks of a run, whoever proposes it.

    `profile` "active": the server may lie; "semi_honest" accepts either.  `colluders`: the noise, the
    threshold and the survivor rule must hold with this many of the other clients in the server's hands.
    `plans`: digests of the plans that may be joined (empty: any that the rest of the policy allows).
    `max_steps`: of DP-SGD that one client may be charged for in a run, repeats included.
    `min_neighbours`: unset, every client masks with every other; set, sparse graphs of this degree too.
    """

    modes: tuple[ProtectedMode, ...] = ("distributed", "client", "local")
    profile: Literal["active", "semi_honest"] = "active"
    colluders: int = 1
    min_cohort: int = 3
    min_survivors: int = 3
    min_threshold: int = 2
    min_neighbours: int | None = None
    max_rounds: int = 1_000
    max_steps: int = 100_000
    max_parameters: int = 100_000_000
    plans: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _require(bool(self.modes), "policy.modes", "at least one mode", self.modes)
        for name in ("min_cohort", "min_survivors", "min_threshold"):
            _require(getattr(self, name) >= 2, f"policy.{name}", ">= 2", getattr(self, name))
        for name in ("max_rounds", "max_steps", "max_parameters"):
            _require(getattr(self, name) >= 1, f"policy.{name}", ">= 1", getattr(self, name))
        _require(self.colluders >= 0, "policy.colluders", ">= 0", self.colluders)
        least = self.min_neighbours
        _require(least is None or least >= 2, "policy.min_neighbours", ">= 2", least)
        digests = all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in self.plans)
        _require(digests, "policy.plans", "digests of 64 hexadecimal digits", self.plans)


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSettings:
    """What all agreements together may spend on any record here; `unit` is what a record stands for."""

    epsilon: float
    delta: float
    accountant: Accountant = "pld"
    unit: Unit = "example"
    relation: Relation = "add_remove"

    def __post_init__(self) -> None:
        _require(math.isfinite(self.epsilon) and self.epsilon > 0, "budget.epsilon", "> 0", self.epsilon)
        _require(0 < self.delta < 1, "budget.delta", "0 < delta < 1", self.delta)
        allowed = RELATIONS_OF_UNIT[self.unit]
        _require(self.relation in allowed, "budget.relation", " or ".join(allowed), self.relation)


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSettings:
    """Where this institution computes, and the folder that keeps its ledgers and its state."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 1
    state: str = "state"

    def __post_init__(self) -> None:
        _require(self.threads >= 0, "machine.threads", ">= 0", self.threads)


@dataclass(frozen=True, slots=True, kw_only=True)
class InstitutionSettings:
    """One institution; `[budget]` and the form of `[data]` have no default: nobody else can know them."""

    budget: BudgetSettings
    data: DataFile
    identity: Identity = field(default_factory=Identity)
    superlink: SuperLink = field(default_factory=SuperLink)
    policy: PolicySettings = field(default_factory=PolicySettings)
    machine: MachineSettings = field(default_factory=MachineSettings)


_PATHS = {
    "data": ("file",),
    "identity": ("key", "roster"),
    "superlink": ("ca_certificate", "node_key"),
    "machine": ("state",),
}


def load(path: Path) -> InstitutionSettings:
    """Read `institution.toml`, its paths made absolute.

    Raises:
        ConfigError: the file is missing or no TOML, or a key or value in it is wrong.
    """
    settings = load_as(InstitutionSettings, path)
    folder = path.resolve().parent
    sections = {item.name: getattr(settings, item.name) for item in fields(settings)}
    for section, names in _PATHS.items():
        named = {name: str(folder / Path(getattr(sections[section], name)).expanduser()) for name in names}
        sections[section] = replace(sections[section], **named)
    return replace(settings, **sections)
