"""How the settings of a plan must fit together, and how much noise its budget takes.

Not protected against: settings that fit together and promise little; `remarks` says some of that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from secure_fed_diffusion.diffusion.settings import DiffusionSettings
from secure_fed_diffusion.dp.accounting import epsilon
from secure_fed_diffusion.dp.calibration import calibrate
from secure_fed_diffusion.dp.mechanism import Mechanism, View
from secure_fed_diffusion.errors import ConfigError, HopelessBudgetError
from secure_fed_diffusion.federation.participation import FederationSettings, SecureSumSettings
from secure_fed_diffusion.federation.release import ReleasePlanner
from secure_fed_diffusion.federation.schedule import PHASES, Round
from secure_fed_diffusion.federation.settings import (
    Mode,
    ModeSettings,
    PrivacySettings,
    StepSettings,
)
from secure_fed_diffusion.federation.warmup_settings import WarmupSettings

_LARGE_EPSILON = 50.0  # more than any budget that somebody would defend


def check_threshold(mode: Mode, federation: FederationSettings, secure_sum: SecureSumSettings) -> None:
    """Refuse a threshold under which a round cannot end, or a server that lies would learn an input.

    Raises:
        ConfigError: names the key, the value and the bound.
    """
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
    several = secure_sum.rounds_per_setup > 1
    if several and secure_sum.n_neighbours is not None and cohort < federation.clients:
        raise ConfigError(
            f"expected 1, or federation.clients_per_round={cohort} equal to federation.clients="
            f"{federation.clients}: a client's few neighbours would be in too few rounds of a set-up of all "
            f"clients, got {secure_sum.rounds_per_setup}",
            key="secagg.rounds_per_setup",
        )
    members = federation.clients if several else cohort
    holders = members if secure_sum.n_neighbours is None else secure_sum.n_neighbours + 1
    if 2 * threshold <= holders + colluders:
        whose = f" (all {members} clients: secagg.rounds_per_setup > 1)" if several else ""
        raise ConfigError(
            f"expected 2 * threshold > holders + colluders = {holders} + {colluders}{whose}, or a server "
            f"that shows two survivor lists would learn one input; got 2 * {threshold}",
            key="secagg.threshold",
        )
    if secure_sum.n_neighbours is None and federation.min_survivors < threshold:
        raise ConfigError(
            f"expected min_survivors >= secagg.threshold={threshold}, got {federation.min_survivors}",
            key="federation.min_survivors",
        )


def check_canaries(mode: Mode, canaries: int) -> None:
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


def check_frequencies(warmup: WarmupSettings, image_shape: tuple[int, int, int]) -> None:
    """Refuse more frequencies than an image has.

    Raises:
        ConfigError: names the most.
    """
    most, asked = min(image_shape[1:]), warmup.covariances.frequencies
    if warmup.covariances.draws and asked > most:
        raise ConfigError(
            f"expected at most {most}, the image's lesser side, got {asked}",
            key="warmup.covariances.frequencies",
        )


def check_label_balance(mode: Mode, recipe: ModeSettings, warmup: WarmupSettings) -> None:
    """Refuse to balance classes whose sizes nobody has released.

    Raises:
        ConfigError: there are no class means to take noisy counts from.
    """
    if isinstance(recipe, StepSettings) and recipe.label_balance and not warmup.draws:
        raise ConfigError(
            "expected warmup.draws >= 1, got 0: the shares of the classes come from the class means' noisy "
            "counts; without noise they would be a release that nobody pays for",
            key=f"modes.{mode}.label_balance",
        )


def check_truncation(diffusion: DiffusionSettings, warmup: WarmupSettings) -> None:
    """Refuse to start sampling from Gaussians that nobody has released.

    Raises:
        ConfigError: there are no class means.
    """
    if diffusion.truncation < 1 and not warmup.draws:
        raise ConfigError(
            f"expected 1 with warmup.draws=0, got {diffusion.truncation:g}: sampling would start from class "
            "means and covariances, which nobody releases",
            key="diffusion.truncation",
        )


def noise_multiplier_for(
    privacy: PrivacySettings, guard: View, most: Mapping[str, int], planner: ReleasePlanner
) -> float:
    """Return the multiplier of the training release that keeps the whole plan in its budget.

    `most` are the most uses of each release that one client can be charged for.

    Raises:
        HopelessBudgetError: the configured multiplier, or the warm-up alone, overspends.
        PrivacyError: no multiplier meets the budget.
    """

    def counts(multiplier: float) -> dict[Mechanism, int]:
        found: Counter[Mechanism] = Counter()  # two phases may be the same mechanism: they add up
        for name, release in planner.releases(multiplier).items():
            if most[name]:
                found[release.mechanism] += most[name]
        return found

    def cost(steps: Mapping[Mechanism, int]) -> float:
        return epsilon(steps, delta=privacy.delta, view=guard, accountant=privacy.accountant)

    warm_up: Counter[Mechanism] = Counter()
    for name, release in planner.releases(1.0).items():
        if name not in PHASES and most[name]:
            warm_up[release.mechanism] += most[name]
    alone = cost(warm_up) if warm_up else 0.0
    if alone >= privacy.epsilon:  # no noise on the training could make up for it
        covariances = planner.warmup.covariances
        also = (
            f" (or warmup.covariances.noise_multiplier={covariances.noise_multiplier:g}, "
            f"warmup.covariances.draws={covariances.draws})"
        )
        raise HopelessBudgetError(
            f"privacy.epsilon={privacy.epsilon:g} is less than the warm-up alone costs, {alone:.3g}: raise "
            f"warmup.noise_multiplier={planner.warmup.noise_multiplier:g} or lower "
            f"warmup.draws={planner.warmup.draws}{also if covariances.draws else ''}"
        )
    if privacy.noise_multiplier is not None:
        asked = cost(counts(privacy.noise_multiplier))
        if asked > privacy.epsilon:
            raise HopelessBudgetError(
                f"privacy.noise_multiplier={privacy.noise_multiplier:g} would spend ε = {asked:.4g} in the "
                f"view {guard.key}, privacy.epsilon={privacy.epsilon:g}"
            )
        return privacy.noise_multiplier
    return calibrate(
        counts,
        target_epsilon=privacy.epsilon,
        delta=privacy.delta,
        view=guard,
        accountant=privacy.accountant,
    )


def guard_view(mode: Mode, federation: FederationSettings) -> View:
    """Return the view in which the budget of a mode holds."""
    match mode:
        case "distributed" | "client":
            return View(name="sum", colluders=federation.colluders)
        case "local":
            return View(name="raw_update")
        case "central" | "none":
            return View(name="released_model")


def remarks(
    mode: Mode, federation: FederationSettings, privacy: PrivacySettings, rounds: tuple[Round, ...]
) -> list[str]:
    """Say what is allowed and probably not meant: a large ε or δ, a rehearsed loss that cannot happen."""
    cohorts = {planned.number: planned.cohort for planned in rounds}
    idle = [
        f"client {event.client} is in no round {event.round}: it will not vanish there"
        for event in federation.vanish
        if event.client not in cohorts.get(event.round, ())
    ]
    if mode == "none":
        return idle
    said: list[str] = []
    if privacy.epsilon > _LARGE_EPSILON:
        said.append(
            f"privacy.epsilon={privacy.epsilon:g} promises next to nothing: by it one record may make an "
            f"outcome e^{privacy.epsilon:g} times as likely"
        )
    declared = federation.declared_records
    if privacy.delta * declared >= 1.0:
        said.append(
            f"privacy.delta={privacy.delta:g} is not below one over the {declared:,} records declared: "
            "it would allow a mechanism that publishes some record whole"
        )
    return [*said, *idle]
