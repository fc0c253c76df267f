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
computationally bounded adversaries; under the profile semi_honest for a server that follows the protocol,
under active for one that does not.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from secure_fed_diffusion import secagg
from secure_fed_diffusion.diffusion.objective import DiffusionSettings
from secure_fed_diffusion.dp.accounting import epsilon
from secure_fed_diffusion.dp.calibration import calibrate
from secure_fed_diffusion.dp.mechanism import CLIENT_SAMPLING, Mechanism, View
from secure_fed_diffusion.dp.terms import Terms
from secure_fed_diffusion.errors import BudgetExceededError, ConfigError
from secure_fed_diffusion.federation.release import Release, ReleasePlanner
from secure_fed_diffusion.federation.schedule import (
    ReleaseName,
    Round,
    make_schedule,
    most_participations,
)
from secure_fed_diffusion.federation.settings import (
    FederationSettings,
    Mode,
    ModeSettings,
    ModesSettings,
    PrivacySettings,
    SecureSumSettings,
    WarmupSettings,
)


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
    canaries: int = 0  # coordinates that the auditor's records have to themselves, behind the model's

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
        """Return the most uses of each mechanism that one client can be charged for, repeats included."""
        return {
            name: (most + self.federation.reserved_attempts) * release.steps if most else 0
            for name, release in self.releases.items()
            for most in [most_participations(self.rounds, name)]
        }

    @property
    def digest(self) -> str:
        """SHA-256 of what is computed and what it costs: in every session, so two plans share no mask."""
        agreed = (self.terms("", "").to_dict(), self.recipe, self.warmup, self.diffusion, self.patch)
        return hashlib.sha256(repr(agreed).encode()).hexdigest()

    @property
    def _profile(self) -> str:
        if not self.masked:
            return "none, contributions travel in clear"
        meaning = {
            "active": "holds against a server that lies",
            "semi_honest": "the server follows the protocol",
        }
        return f"{self.secure_sum.profile}, {meaning[self.secure_sum.profile]}"

    def remarks(self) -> list[str]:
        """Say what is allowed and probably not meant: a large δ, a rehearsed loss that cannot happen."""
        cohorts = {planned.number: planned.cohort for planned in self.rounds}
        idle = [
            f"client {event.client} is in no round {event.round}: it will not vanish there"
            for event in self.federation.vanish
            if event.client not in cohorts.get(event.round, ())
        ]
        declared = self.federation.declared_records
        if self.mode == "none" or self.privacy.delta * declared < 1.0:
            return idle
        return [
            f"privacy.delta={self.privacy.delta:g} is not below one over the {declared:,} records declared: "
            "it would allow a mechanism that publishes some record whole",
            *idle,
        ]

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
            max_charges={} if self.mode == "none" else self.max_charges(),
            note=f"{CLIENT_SAMPLING} Secure sum: {self._profile}.",
        )

    def secagg_params(self, release: ReleaseName) -> secagg.SecAggParams:
        """Return the parameters of the secure sum of `release`."""
        return secagg.SecAggParams(
            n_clients=self.federation.clients_per_round,
            threshold=self.secure_sum.threshold,
            dimension=self.releases[release].length,
            modulus_bits=self.releases[release].modulus_bits,
            n_neighbours=self.secure_sum.n_neighbours,
            profile=self.secure_sum.profile,
        )

    def session(
        self,
        run_id: str,
        number: int,
        attempt: int,
        model_digest: bytes,
        *,
        roster: secagg.Roster | None = None,
    ) -> secagg.Session:
        """Return the session of one attempt at one round; the profile active needs the roster."""
        planned = self.rounds[number - 1]
        return secagg.Session(
            run_id=f"{run_id}/{self.digest}".encode(),
            round=number,
            attempt=attempt,
            cohort=planned.cohort,
            params=self.secagg_params(planned.release),
            model_digest=model_digest,
            roster=roster if self.secure_sum.profile == "active" else None,
        )

    def policy(self) -> secagg.Policy:
        """Return what each client insists on, whatever the server proposes."""
        federation, secure_sum = self.federation, self.secure_sum
        return secagg.Policy(
            min_cohort=federation.clients_per_round,
            min_survivors=max(2, federation.min_survivors),
            min_threshold=secure_sum.threshold,
            min_neighbours=secure_sum.n_neighbours or 2,
            colluders=federation.colluders,
            profiles=(secure_sum.profile,),
        )


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
    canaries: int = 0,
) -> Plan:
    """Check how the settings fit together, calibrate the noise, and return the plan.

    Args:
        seed: public; decides the cohorts and the draws that do not depend on data.
        dimension: trainable parameters of the model.
        canaries: how many synthetic records the auditor plants, each on a coordinate of its own.
        public_records: declared size of all clients' data together; only sizes the warm-up's ring, so a
            wrong declaration can cost the correctness of that sum and never privacy.

    Raises:
        ConfigError: settings that contradict each other; names the key, the value and the bound.
        BudgetExceededError: the configured noise, or the warm-up alone, would overspend.
        PrivacyError: no noise meets the budget.
    """
    mode = privacy.mode
    recipe: ModeSettings = getattr(modes, mode)
    _check_threshold(mode, federation, secure_sum)
    _check_canaries(mode, canaries)
    planner = ReleasePlanner(
        mode=mode,
        recipe=recipe,
        federation=federation,
        secure_sum=secure_sum,
        warmup=warmup,
        image_length=math.prod(image_shape) * n_classes + n_classes,
        dimension=dimension,
        public_records=public_records,
        canaries=canaries,
    )
    # a trial's noise may need a wider ring than the final one's, so only the final ring is checked
    trial = replace(planner, secure_sum=replace(secure_sum, modulus_bits="auto"))
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
        releases=trial.releases(1.0),
        rounds=make_schedule(federation, n_prototypes=warmup.draws, n_training=recipe.rounds, seed=seed),
        guard=_guard(mode, federation),
        noise_multiplier=0.0,
        canaries=canaries,
    )
    multiplier = 0.0 if mode == "none" else _noise_for(unchecked, trial)
    plan = replace(unchecked, releases=planner.releases(multiplier), noise_multiplier=multiplier)
    for name in plan.releases:
        try:
            plan.secagg_params(name)  # refuses a ring or a threshold that cannot be, before any work
        except ConfigError as error:
            raise ConfigError(error.reason, key=f"secagg.{error.key}") from error
    return plan


def _noise_for(plan: Plan, planner: ReleasePlanner) -> float:
    """Return the multiplier of the training release that keeps the whole plan in its budget.

    Raises:
        BudgetExceededError: the configured multiplier, or the warm-up alone, overspends.
        PrivacyError: no multiplier meets the budget.
    """
    privacy, most = plan.privacy, plan.max_charges()

    def counts(multiplier: float) -> dict[Mechanism, int]:
        releases = planner.releases(multiplier)
        return {release.mechanism: most[name] for name, release in releases.items() if most[name] > 0}

    def cost(steps: Mapping[Mechanism, int]) -> float:
        return epsilon(steps, delta=privacy.delta, view=plan.guard, accountant=privacy.accountant)

    warm_up = plan.releases["prototypes"].mechanism
    alone = cost({warm_up: most["prototypes"]}) if most["prototypes"] else 0.0
    if alone >= privacy.epsilon:  # no noise on the training could make up for it
        raise BudgetExceededError(
            f"privacy.epsilon={privacy.epsilon:g} is less than the warm-up alone costs, {alone:.3g}: raise "
            f"warmup.noise_multiplier={plan.warmup.noise_multiplier:g} or lower "
            f"warmup.draws={plan.warmup.draws}"
        )
    if privacy.noise_multiplier is not None:
        asked = cost(counts(privacy.noise_multiplier))
        if asked > privacy.epsilon:
            raise BudgetExceededError(
                f"privacy.noise_multiplier={privacy.noise_multiplier:g} would spend ε = {asked:.4g} in the "
                f"view {plan.guard.key}, privacy.epsilon={privacy.epsilon:g}"
            )
        return privacy.noise_multiplier
    return calibrate(
        counts,
        target_epsilon=privacy.epsilon,
        delta=privacy.delta,
        view=plan.guard,
        accountant=privacy.accountant,
    )


def _check_threshold(mode: Mode, federation: FederationSettings, secure_sum: SecureSumSettings) -> None:
    cohort, colluders, threshold = federation.clients_per_round, federation.colluders, secure_sum.threshold
    if threshold > cohort:
        raise ConfigError(
            f"expected secagg.threshold <= federation.clients_per_round={cohort}, got {threshold}",
            key="secagg.threshold",
        )
    if secure_sum.n_neighbours is not None and mode in ("distributed", "client"):
        raise ConfigError(
            f"mode {mode} needs the complete graph, got {secure_sum.n_neighbours}: where clients mask with "
            "few others, a sum may come in pieces, each with fewer noise shares than the budget needs",
            key="secagg.n_neighbours",
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


def _check_canaries(mode: Mode, canaries: int) -> None:
    """Refuse canaries where no coordinate can be appended to what is clipped.

    Raises:
        ConfigError: with the reason of the mode.
    """
    reasons = {
        "none": "adds no noise, so there is no bound to audit",
        "local": "takes several steps on the model's own parameters, and a coordinate beside them would not "
        "be stepped along",
        "client": "clips whole client updates, so a canary would have to be a client",
    }
    if canaries and mode in reasons:
        raise ConfigError(
            f"canaries are for the modes distributed and central: mode {mode} {reasons[mode]}",
            key="audit.canaries",
        )


def _guard(mode: Mode, federation: FederationSettings) -> View:
    match mode:
        case "distributed" | "client":
            return View(name="sum", colluders=federation.colluders)
        case "local":
            return View(name="raw_update")
        case "central" | "none":
            return View(name="released_model")
