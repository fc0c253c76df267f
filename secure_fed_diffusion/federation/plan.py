"""One object that ties sampler, clip, rounding, noise, divisor, masks and accountant together.

A `Plan` is made once, before any work, and is the same at every client and at the server: nobody takes
a clip, a noise or a cohort from a frame.  It fixes the cohorts in advance (public, balanced: nobody is
amplified by client sampling), counts the most charges that any client can meet, and calibrates the
noise to that count and to the least number of honest survivors.

Guard views, in which the budget holds: `distributed` and `client` the server together with `colluders`
participants; `central` the released model (its server is trusted); `local` the raw update; `none` has
no budget.  Unit: one example (add/remove), in `client` one client (zero-out).

Formal guarantees: at most `max_charges` charges a client, each one use of the release's mechanism; with
the accountant's conversion the whole run is (epsilon, delta) in the guard view, against
computationally bounded adversaries, for a server that follows the protocol (semi-honest profile).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np

from secure_fed_diffusion import secagg
from secure_fed_diffusion.diffusion.objective import DiffusionSettings
from secure_fed_diffusion.dp.accounting import epsilon
from secure_fed_diffusion.dp.calibration import calibrate
from secure_fed_diffusion.dp.grid import IntegerGrid
from secure_fed_diffusion.dp.mechanism import INNER_STDDEV, Mechanism, View
from secure_fed_diffusion.dp.terms import Terms
from secure_fed_diffusion.errors import ConfigError, PrivacyError
from secure_fed_diffusion.federation.settings import (
    AveragingSettings,
    FederationSettings,
    LocalSettings,
    Mode,
    ModeSettings,
    ModesSettings,
    PrivacySettings,
    SecureSumSettings,
    StepSettings,
    WarmupSettings,
)
from secure_fed_diffusion.secagg.params import MIN_MODULUS_BITS

ReleaseName = Literal["prototypes", "training"]
FLOAT_RING_BITS = 48  # updates that are no integers: 2^-20 of their range even under weights of 2^20
MAX_RECORDS = 1 << 20  # most records a client may weigh with in FedAvg
WRAP_STDDEVS = 12.0  # a coordinate of the noise is farther out with probability below 1e-32
BATCH_SLACK = 1.5  # a Poisson sample this much above its expected size would wrap; see `Release.headroom`


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A kind of sum: what its contributions are, and what one of them costs."""

    name: ReleaseName
    mechanism: Mechanism
    steps: int  # uses of the mechanism in one charge
    length: int  # coordinates of the sum, the weight of FedAvg included
    grid: IntegerGrid  # of the clipped vectors
    fixed_point: secagg.FixedPoint | None  # encodes updates that are not on the grid
    modulus_bits: int
    divisor: int  # public; what the sum is divided by

    @property
    def headroom(self) -> str:
        """Say what the ring holds: a matter of correctness, never of privacy."""
        return (
            f"{self.modulus_bits} bits hold a sample {BATCH_SLACK} times its expected size with every record "
            f"at its bound on one coordinate, and noise up to {WRAP_STDDEVS:.0f} standard deviations "
            "(exceeded with probability below 1e-32 a coordinate)"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round: its number, counted from 1, what is summed, and who takes part."""

    number: int
    release: ReleaseName
    cohort: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that the clients and the server agree on before the first frame."""

    mode: Mode
    seed: int
    recipe: ModeSettings
    federation: FederationSettings
    secure_sum: SecureSumSettings
    privacy: PrivacySettings
    warmup: WarmupSettings
    diffusion: DiffusionSettings
    patch: int
    image_shape: tuple[int, int, int]
    n_classes: int
    dimension: int
    releases: Mapping[ReleaseName, Release]
    rounds: tuple[Round, ...]
    guard: View
    noise_multiplier: float  # of the training release, in the guard view; 0 in mode `none`

    @property
    def masked(self) -> bool:
        """Whether contributions travel under masks."""
        return self.federation.masked or self.mode not in ("none", "central")

    @property
    def budget_epsilon(self) -> float | None:
        """The budget that the ledger keeps, or None where nothing is promised."""
        return None if self.mode == "none" else self.privacy.epsilon

    @property
    def noise_overhead(self) -> float:
        """How much more noise than `central` the sum carries when everyone survives: sqrt(h / h_min)."""
        if self.mode not in ("distributed", "client"):
            return 1.0
        federation = self.federation
        honest = federation.min_survivors - federation.colluders
        return math.sqrt(federation.clients_per_round / honest)

    def views(self) -> tuple[View, ...]:
        """Return the views that are reported each round, the guard among them."""
        colluding = {0, self.federation.colluders}
        sums = tuple(View(name="sum", colluders=c) for c in sorted(colluding))
        return (View(name="raw_update"), *sums, View(name="released_model"))

    def max_charges(self) -> dict[str, int]:
        """Return the most uses of each mechanism that one client can be charged for."""
        counts = {
            name: most_participations(self.rounds, name) * release.steps
            for name, release in self.releases.items()
        }
        counts["training"] += self.federation.reserved_attempts * self.releases["training"].steps
        return counts

    def terms(self, run_id: str, config_digest: str) -> Terms:
        """Return the first line of this plan's ledger."""
        return Terms(
            run_id=run_id,
            config_digest=config_digest,
            delta=self.privacy.delta,
            budget_epsilon=self.budget_epsilon,
            guard=self.guard,
            accountant=self.privacy.accountant,
            mechanisms={name: release.mechanism for name, release in self.releases.items()},
            views=self.views(),
            max_charges=self.max_charges(),
            note="cohorts are public and fixed in advance: no amplification by client sampling",
        )

    def secagg_params(self, release: ReleaseName) -> secagg.SecAggParams:
        """Return the parameters of the secure sum of `release`."""
        return secagg.SecAggParams(
            n_clients=self.federation.clients_per_round,
            threshold=self.secure_sum.threshold,
            dimension=self.releases[release].length,
            modulus_bits=self.releases[release].modulus_bits,
            n_neighbours=self.secure_sum.n_neighbours,
        )

    def session(self, run_id: str, number: int, attempt: int, model_digest: bytes) -> secagg.Session:
        """Return the session of one attempt at one round."""
        planned = self.rounds[number - 1]
        return secagg.Session(
            run_id=run_id.encode(),
            round=number,
            attempt=attempt,
            cohort=planned.cohort,
            params=self.secagg_params(planned.release),
            model_digest=model_digest,
        )

    def policy(self) -> secagg.Policy:
        """Return what each client insists on, whatever the server proposes."""
        federation, secure_sum = self.federation, self.secure_sum
        return secagg.Policy(
            min_cohort=federation.clients_per_round,
            min_survivors=max(2, federation.min_survivors),
            min_threshold=secure_sum.threshold,
            min_neighbours=secure_sum.n_neighbours or 2,
        )


def most_participations(rounds: tuple[Round, ...], release: str) -> int:
    """Return the largest number of rounds of `release` that any one client takes part in."""
    counts: dict[int, int] = {}
    for planned in rounds:
        if planned.release == release:
            for client_id in planned.cohort:
                counts[client_id] = counts.get(client_id, 0) + 1
    return max(counts.values(), default=0)


def make_plan(
    *,
    seed: int,
    federation: FederationSettings,
    secure_sum: SecureSumSettings,
    privacy: PrivacySettings,
    modes: ModesSettings,
    warmup: WarmupSettings,
    diffusion: DiffusionSettings,
    patch: int,
    image_shape: tuple[int, int, int],
    n_classes: int,
    dimension: int,
    public_records: int,
) -> Plan:
    """Check how the settings fit together, calibrate the noise, and return the plan.

    Args:
        seed: public; decides the cohorts and the draws that do not depend on data.
        dimension: trainable parameters of the model.
        public_records: declared size of all clients' data together; only sizes the divisor of the warm-up
            and the ring, so a wrong declaration costs utility and never privacy.

    Raises:
        ConfigError: settings that contradict each other; names the key, the value and the bound.
        PrivacyError: no noise meets the budget (the warm-up alone may exceed it).
    """
    mode = privacy.mode
    recipe: ModeSettings = getattr(modes, mode)
    _check_threshold(federation, secure_sum)
    rounds = _schedule(federation, warmup.draws, recipe.rounds, seed)
    guard = _guard(mode, federation)
    build = partial(
        _releases,
        mode=mode,
        recipe=recipe,
        federation=federation,
        secure_sum=secure_sum,
        warmup=warmup,
        image_length=math.prod(image_shape) * n_classes + n_classes,
        dimension=dimension,
        public_records=public_records,
        guard=guard,
    )
    unchecked = Plan(
        mode=mode,
        seed=seed,
        recipe=recipe,
        federation=federation,
        secure_sum=secure_sum,
        privacy=privacy,
        warmup=warmup,
        diffusion=diffusion,
        patch=patch,
        image_shape=image_shape,
        n_classes=n_classes,
        dimension=dimension,
        releases=build(1.0),
        rounds=rounds,
        guard=guard,
        noise_multiplier=0.0,
    )
    multiplier = 0.0 if mode == "none" else _calibrated(unchecked, build)
    plan = replace(unchecked, releases=build(multiplier), noise_multiplier=multiplier)
    for name in plan.releases:
        plan.secagg_params(name)  # refuses a ring or a threshold that cannot be, before any work
    return plan


def _calibrated(plan: Plan, build: Callable[[float], Mapping[ReleaseName, Release]]) -> float:
    """Return the smallest multiplier of the training release that keeps the whole plan in its budget."""
    most = plan.max_charges()

    def counts(multiplier: float) -> dict[Mechanism, int]:
        return {
            release.mechanism: most[name] for name, release in build(multiplier).items() if most[name] > 0
        }

    warm_up = {
        release.mechanism: most[name]
        for name, release in plan.releases.items()
        if name == "prototypes" and most[name] > 0
    }
    alone = epsilon(warm_up, delta=plan.privacy.delta, view=plan.guard, accountant=plan.privacy.accountant)
    if alone >= plan.privacy.epsilon:  # no noise on the training could make up for it
        raise PrivacyError(
            f"privacy.epsilon={plan.privacy.epsilon} cannot be met: the warm-up alone costs {alone:.3g}; raise "
            f"warmup.noise_multiplier={plan.warmup.noise_multiplier} or lower warmup.draws={plan.warmup.draws}"
        )
    try:
        return calibrate(
            counts,
            target_epsilon=plan.privacy.epsilon,
            delta=plan.privacy.delta,
            view=plan.guard,
            accountant=plan.privacy.accountant,
        )
    except PrivacyError as error:
        raise PrivacyError(
            f"privacy.epsilon={plan.privacy.epsilon} cannot be met: {error}; raise it, or spend less on the "
            f"warm-up: warmup.noise_multiplier={plan.warmup.noise_multiplier}, draws={plan.warmup.draws}"
        ) from error


def _check_threshold(federation: FederationSettings, secure_sum: SecureSumSettings) -> None:
    cohort, colluders, threshold = federation.clients_per_round, federation.colluders, secure_sum.threshold
    if threshold > cohort:
        raise ConfigError(
            f"expected secagg.threshold <= federation.clients_per_round={cohort}, got {threshold}",
            key="secagg.threshold",
        )
    holders = cohort if secure_sum.n_neighbours is None else secure_sum.n_neighbours + 1
    if 2 * threshold <= holders + colluders:
        raise ConfigError(
            f"expected 2 * threshold > holders + colluders = {holders} + {colluders} (a server that shows "
            f"two survivor lists would learn one input), got 2 * {threshold}",
            key="secagg.threshold",
        )
    if secure_sum.n_neighbours is None and federation.min_survivors < threshold:
        raise ConfigError(
            f"expected min_survivors >= secagg.threshold={threshold}, got {federation.min_survivors}",
            key="federation.min_survivors",
        )
    for event in federation.vanish:
        if event.client >= federation.clients:
            raise ConfigError(f"no client {event.client}", key="federation.vanish.client")


def _schedule(
    federation: FederationSettings, n_prototypes: int, n_training: int, seed: int
) -> tuple[Round, ...]:
    """Fix every cohort: those with the fewest rounds so far, ties by a public permutation."""
    rng = np.random.default_rng([seed, 0xC0])
    names: list[ReleaseName] = ["prototypes"] * n_prototypes + ["training"] * n_training
    counts: dict[str, np.ndarray] = {
        name: np.zeros(federation.clients, dtype=int) for name in ("prototypes", "training")
    }
    rounds = []
    for number, name in enumerate(names, start=1):
        ties = rng.permutation(federation.clients)
        order = sorted(range(federation.clients), key=lambda c: (counts[name][c], ties[c]))
        cohort = tuple(sorted(order[: federation.clients_per_round]))
        counts[name][list(cohort)] += 1
        rounds.append(Round(number=number, release=name, cohort=cohort))
    return tuple(rounds)


def _guard(mode: Mode, federation: FederationSettings) -> View:
    match mode:
        case "distributed" | "client":
            return View(name="sum", colluders=federation.colluders)
        case "local":
            return View(name="raw_update")
        case "central" | "none":
            return View(name="released_model")


def _releases(
    multiplier: float,
    *,
    mode: Mode,
    recipe: ModeSettings,
    federation: FederationSettings,
    secure_sum: SecureSumSettings,
    warmup: WarmupSettings,
    image_length: int,
    dimension: int,
    public_records: int,
    guard: View,
) -> dict[ReleaseName, Release]:
    """Describe both kinds of sum at one noise multiplier of the training release."""
    cohort = federation.clients_per_round
    share_of_records = cohort / federation.clients

    def describe(name: ReleaseName, grid: IntegerGrid, z: float, rate: float) -> Mechanism:
        by_client = mode == "client"
        stddev = math.sqrt((z * grid.norm_bound) ** 2 + INNER_STDDEV**2) if mode != "none" else 0.0
        honest = federation.min_survivors - federation.colluders
        share = {"distributed": stddev / math.sqrt(honest), "client": stddev / math.sqrt(honest)}
        return Mechanism(
            kind={"none": "none", "central": "central", "local": "local"}.get(mode, "shares"),  # type: ignore[arg-type]
            unit="client" if by_client else "example",
            relation="zero_out" if by_client else "add_remove",
            sampling_rate=1.0 if by_client else rate,
            sensitivity=float(grid.norm_bound),
            share_stddev=stddev if mode == "local" else share.get(mode, 0.0),
            server_stddev=stddev if mode == "central" else 0.0,
            min_survivors=federation.min_survivors,
            integer=True,
            dimension=grid_length[name],
        )

    def ring_bits(mechanism: Mechanism, grid: IntegerGrid, batch: float) -> int:
        """Return the bits for `batch` vectors at their bound, and the noise of a full cohort."""
        participants = 1 if mode == "central" else cohort
        noise = WRAP_STDDEVS * mechanism.draw_stddev * math.sqrt(participants)
        return math.ceil(math.log2(2 * (BATCH_SLACK * batch * grid.norm_bound + noise) + 2))

    grid_length = {"prototypes": image_length, "training": dimension}
    releases: dict[ReleaseName, Release] = {}

    grid = IntegerGrid.for_dimension(image_length, warmup.clip_norm)
    mechanism = describe("prototypes", grid, warmup.noise_multiplier, warmup.sampling_rate)
    batch = cohort if mode == "client" else public_records * share_of_records * warmup.sampling_rate
    releases["prototypes"] = Release(
        name="prototypes",
        mechanism=mechanism,
        steps=1,
        length=image_length,
        grid=grid,
        fixed_point=None,
        modulus_bits=_bits(secure_sum, ring_bits(mechanism, grid, batch)),
        divisor=max(1, round(batch)),
    )

    grid = IntegerGrid.for_dimension(dimension, recipe.clip_norm)
    rate = getattr(recipe, "sampling_rate", 1.0)
    mechanism = describe("training", grid, multiplier, rate)
    fixed_point = None
    length = dimension
    if isinstance(recipe, StepSettings):
        bits = _bits(secure_sum, ring_bits(mechanism, grid, recipe.divisor))
        steps, divisor = 1, recipe.divisor
    elif mode == "client":
        bits = _bits(secure_sum, ring_bits(mechanism, grid, cohort))
        steps, divisor = 1, cohort
    else:  # none, local: float updates
        bits = FLOAT_RING_BITS if secure_sum.modulus_bits == "auto" else secure_sum.modulus_bits
        max_weight = MAX_RECORDS if mode == "none" else 1
        length = dimension + 1 if mode == "none" else dimension
        fixed_point = _fixed_point(recipe, bits, cohort, max_weight)
        steps, divisor = (recipe.steps, cohort) if isinstance(recipe, LocalSettings) else (1, cohort)
    releases["training"] = Release(
        name="training",
        mechanism=mechanism,
        steps=steps,
        length=length,
        grid=grid,
        fixed_point=fixed_point,
        modulus_bits=bits,
        divisor=divisor,
    )
    return releases


def _fixed_point(
    recipe: LocalSettings | AveragingSettings, bits: int, cohort: int, max_weight: int
) -> secagg.FixedPoint:
    try:
        encoding = secagg.FixedPoint.finest(
            clip=recipe.update_range, modulus_bits=bits, max_clients=cohort, max_weight=max_weight
        )
    except ConfigError as error:
        raise ConfigError(f"no headroom in {bits} bits: {error}", key="secagg.modulus_bits") from error
    if encoding.fraction_bits < 12:
        raise ConfigError(
            f"{bits} bits leave steps of 2^-{encoding.fraction_bits}, coarser than 2^-12",
            key="secagg.modulus_bits",
        )
    return encoding


def _bits(secure_sum: SecureSumSettings, needed: int) -> int:
    """Return the ring's width: the least with headroom, or the configured one if it has."""
    if secure_sum.modulus_bits == "auto":
        return max(MIN_MODULUS_BITS, needed)
    if secure_sum.modulus_bits < needed:
        raise ConfigError(
            f"no headroom: this plan's sums and noise need {needed} bits, got {secure_sum.modulus_bits}",
            key="secagg.modulus_bits",
        )
    return secure_sum.modulus_bits
