"""What a run may set: who takes part, what is promised, and each mode's own recipe.

`[modes.<mode>]` holds what differs by mode, so one key, `privacy.mode`, turns one run into another under
the same budget.  Every value is checked here, before any work; combinations are checked by `plan`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from secure_fed_diffusion.audit.settings import AuditSettings
from secure_fed_diffusion.data.settings import DataSettings
from secure_fed_diffusion.diffusion.settings import (
    DiffusionSettings,
    ModelSettings,
    SamplerSettings,
    require_network,
    require_sampler,
)
from secure_fed_diffusion.evaluation.settings import EvaluationSettings
from secure_fed_diffusion.federation.participation import FederationSettings, SecureSumSettings, require
from secure_fed_diffusion.federation.phases import PhaseSettings, check_phases
from secure_fed_diffusion.federation.stepping import (
    GradientServerSettings,
    UpdateServerSettings,
    check_server,
)
from secure_fed_diffusion.federation.warmup_settings import WarmupSettings

Mode = Literal["none", "central", "local", "distributed", "client"]
MODES: tuple[Mode, ...] = get_args(Mode)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacySettings:
    """What is promised: (epsilon, delta) for the whole run, in the guard view of the mode.

    The noise is calibrated to `epsilon`, unless `noise_multiplier` fixes it: a plan that would then
    overspend is refused before any work.

    `shared_ledger` is a file that several runs on one data set share, and `shared_epsilon` what they may
    spend together at `delta`; a run that would overspend that is refused before any work.  One that names
    more `federation.colluders` than the others makes these dearer.
    """

    mode: Mode = "distributed"
    epsilon: float = 10.0
    noise_multiplier: float | None = None  # of the training release, in the guard view
    delta: float = 1e-5
    accountant: Literal["pld", "rdp"] = "pld"
    shared_ledger: str | None = None
    shared_epsilon: float | None = None

    def __post_init__(self) -> None:
        """Refuse budgets that are no budgets."""
        require(math.isfinite(self.epsilon) and self.epsilon > 0, "privacy.epsilon", "> 0", self.epsilon)
        require(0 < self.delta < 1, "privacy.delta", "0 < delta < 1", self.delta)
        fixed = self.noise_multiplier
        require(
            fixed is None or (math.isfinite(fixed) and fixed > 0), "privacy.noise_multiplier", "> 0", fixed
        )
        shared = self.shared_epsilon
        require(
            shared is None or (math.isfinite(shared) and shared > 0), "privacy.shared_epsilon", "> 0", shared
        )
        require(
            self.shared_ledger is None or Path(self.shared_ledger).expanduser().is_absolute(),
            "privacy.shared_ledger",
            "an absolute path, the same file from wherever a run is started",
            self.shared_ledger,
        )
        require(
            (self.shared_ledger is None) == (shared is None),
            "privacy.shared_ledger",
            "privacy.shared_ledger and privacy.shared_epsilon together",
            self.shared_ledger if shared is None else None,
        )


def _check_common(settings: object, mode: str) -> None:
    """Check the fields that the mode tables share, where a table has them."""
    for name in ("rounds", "batch", "divisor", "micro_batch"):
        value = getattr(settings, name, 1)
        if value == "auto":
            continue
        require(value >= 1, f"modes.{mode}.{name}", ">= 1", value)
    for name in ("learning_rate", "clip_norm", "local_epochs", "update_range"):
        value = getattr(settings, name, 1.0)
        require(math.isfinite(value) and value > 0, f"modes.{mode}.{name}", "> 0", value)
    clip = getattr(settings, "clip_norm", 1.0)
    require(1e-12 <= clip <= 1e12, f"modes.{mode}.clip_norm", "in [1e-12, 1e12], as float32 bears it", clip)
    rate = getattr(settings, "sampling_rate", 1.0)
    require(0 < rate <= 1, f"modes.{mode}.sampling_rate", "0 < sampling_rate <= 1", rate)
    prox = getattr(settings, "prox_mu", 0.0)
    require(math.isfinite(prox) and prox >= 0, f"modes.{mode}.prox_mu", ">= 0", prox)
    decay = getattr(settings, "ema_decay", 0.0)
    require(0 <= decay < 1, f"modes.{mode}.ema_decay", "0 <= ema_decay < 1", decay)
    gamma = getattr(settings, "clip_gamma", 1.0)
    require(1e-12 <= gamma <= 1e12, f"modes.{mode}.clip_gamma", "in [1e-12, 1e12]", gamma)
    share = getattr(settings, "least_share", 1.0)
    require(0 < share <= 1, f"modes.{mode}.least_share", "0 < least_share <= 1", share)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSettings:
    """`central` and `distributed`: one DP-SGD step a round, one step of the server's optimiser.

    `sampling_rate` and `divisor` (the public expected batch) are declared, never measured.

    `clipping` "automatic" normalises each gradient, g·C/(‖g‖ + clip_gamma): its norm stays below C, so
    sensitivity and charges are those of "flat".

    `schedule` splits the training into phases (see `PhaseSettings`).

    `label_balance` thins the samples of the more frequent classes by shares in [least_share, 1] that come
    from the class means' noisy counts: a record's rate is at most `sampling_rate`, which is what every
    charge is made at.  It costs nothing and saves nothing.
    """

    rounds: int = 60
    sampling_rate: float = 0.25
    divisor: int = 225
    clip_norm: float = 0.05
    clipping: Literal["flat", "automatic"] = "flat"
    clip_gamma: float = 0.01  # "automatic" alone: a gradient of this norm is clipped to half of C
    learning_rate: float = 2e-3
    ema_decay: float = 0.9
    micro_batch: int | Literal["auto"] = 64  # "auto": the largest exact one that memory holds
    label_balance: bool = False
    least_share: float = 0.1
    schedule: tuple[PhaseSettings, ...] = ()
    server: GradientServerSettings = field(default_factory=GradientServerSettings)

    @property
    def phases(self) -> tuple[PhaseSettings, ...]:
        """The whole training: the table's own values, where the schedule does not begin at round 1."""
        own = PhaseSettings(from_round=1, sampling_rate=self.sampling_rate, divisor=self.divisor)
        begins = self.schedule[:1] and self.schedule[0].from_round == 1
        return self.schedule if begins else (own, *self.schedule)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSettings:
    """`local`: `local_epochs / sampling_rate` steps of Opacus DP-SGD on each client, a round."""

    rounds: int = 10
    local_epochs: float = 1.0
    sampling_rate: float = 0.25
    divisor: int = 37  # public: what a client of expected size samples
    clip_norm: float = 0.05
    clipping: Literal["flat", "automatic"] = "flat"  # of each record's gradient, as in `distributed`
    clip_gamma: float = 0.01
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 1e-3
    prox_mu: float = 0.0
    ema_decay: float = 0.5
    micro_batch: int | Literal["auto"] = 64  # "auto": the largest exact one that memory holds
    update_range: float = 1.0  # each coordinate of an update is clipped to +- this before it is masked
    server: UpdateServerSettings = field(default_factory=UpdateServerSettings)

    @property
    def steps(self) -> int:
        """Steps of DP-SGD in one round."""
        return max(1, round(self.local_epochs / self.sampling_rate))


@dataclass(frozen=True, slots=True, kw_only=True)
class AveragingSettings:
    """`none` and `client`: plain local epochs, then FedAvg (`prox_mu` > 0: FedProx).

    `clip_norm` bounds a whole update in mode `client`, as `clipping` says; `none` does not read it.
    """

    rounds: int = 10
    local_epochs: int = 1
    batch: int = 32
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 1e-3
    prox_mu: float = 0.0
    ema_decay: float = 0.5
    clip_norm: float = 0.5
    clipping: Literal["flat", "automatic"] = "flat"
    clip_gamma: float = 0.01
    update_range: float = 1.0
    server: UpdateServerSettings = field(default_factory=UpdateServerSettings)


ModeSettings = StepSettings | LocalSettings | AveragingSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ModesSettings:
    """One table for each mode."""

    none: AveragingSettings = field(default_factory=AveragingSettings)
    central: StepSettings = field(default_factory=StepSettings)
    local: LocalSettings = field(default_factory=LocalSettings)
    distributed: StepSettings = field(default_factory=StepSettings)
    client: AveragingSettings = field(default_factory=AveragingSettings)

    def __post_init__(self) -> None:
        """Check each table under its own name."""
        for mode in MODES:
            table = getattr(self, mode)
            _check_common(table, mode)
            check_server(table.server, f"modes.{mode}.server")
            if isinstance(table, StepSettings):
                check_phases(table.phases, table.schedule, f"modes.{mode}.schedule", rounds=table.rounds)


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSettings:
    """Where and how a run computes; `seed` is public and never drives a sample, a mask or noise.

    One thread is the fastest for the small models of the experiments; 0 leaves the choice to torch.
    `workers` processes, of so many threads each (of one for 0), compute for the clients of a run in one
    process; 1 is that process itself, and "auto" as many as it may use cores, where the run is long enough to
    pay for their start.  A run with canaries, and one on a GPU, have one.
    """

    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 1
    workers: int | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        """Refuse negative numbers."""
        require(0 <= self.seed < 1 << 31, "run.seed", "0 <= seed < 2^31", self.seed)
        require(self.threads >= 0, "run.threads", ">= 0", self.threads)
        workers = self.workers
        require(workers == "auto" or workers >= 1, "run.workers", '"auto" or >= 1', workers)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """A whole run: one section for each module that owns the values."""

    run: MachineSettings = field(default_factory=MachineSettings)
    data: DataSettings = field(default_factory=DataSettings)
    federation: FederationSettings = field(default_factory=FederationSettings)
    secagg: SecureSumSettings = field(default_factory=SecureSumSettings)
    privacy: PrivacySettings = field(default_factory=PrivacySettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    diffusion: DiffusionSettings = field(default_factory=DiffusionSettings)
    warmup: WarmupSettings = field(default_factory=WarmupSettings)
    modes: ModesSettings = field(default_factory=ModesSettings)
    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    audit: AuditSettings = field(default_factory=AuditSettings)

    def __post_init__(self) -> None:
        """Refuse sections that contradict each other."""
        require_network(self.model, self.diffusion)
        require_sampler(self.diffusion, self.sampler)
