"""From settings to a `Plan`: checks what must fit together, draws the cohorts, calibrates the noise.

Deterministic: the same settings and seed give every end the same plan, to the last bit.

Not protected against: settings that fit together and promise little; `Plan.remarks` says some of that.
"""

from __future__ import annotations

from dataclasses import replace

from secure_fed_diffusion.diffusion.settings import DiffusionSettings, ModelSettings
from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.federation.checks import (
    check_canaries,
    check_frequencies,
    check_label_balance,
    check_threshold,
    check_truncation,
    guard_view,
    noise_multiplier_for,
)
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.release import ReleasePlanner
from secure_fed_diffusion.federation.schedule import make_schedule
from secure_fed_diffusion.federation.settings import (
    FederationSettings,
    ModeSettings,
    ModesSettings,
    PrivacySettings,
    SecureSumSettings,
    StepSettings,
)
from secure_fed_diffusion.federation.warmup_settings import WarmupSettings


def make_plan(
    *,
    seed: int,
    federation: FederationSettings,
    secure_sum: SecureSumSettings,
    privacy: PrivacySettings,
    modes: ModesSettings,
    warmup: WarmupSettings,
    diffusion: DiffusionSettings,
    model: ModelSettings,
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
        HopelessBudgetError: the configured noise, or the warm-up alone, would overspend; or no noise meets
            the budget.
    """
    mode = privacy.mode
    recipe: ModeSettings = getattr(modes, mode)
    check_threshold(mode, federation, secure_sum)
    check_canaries(mode, canaries)
    check_label_balance(mode, recipe, warmup)
    check_frequencies(warmup, image_shape)
    check_truncation(diffusion, warmup)
    planner = ReleasePlanner(
        mode=mode,
        recipe=recipe,
        federation=federation,
        secure_sum=secure_sum,
        warmup=warmup,
        image_shape=image_shape,
        n_classes=n_classes,
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
        model=model,
        image_shape=image_shape,
        n_classes=n_classes,
        dimension=dimension,
        releases=trial.releases(1.0),
        rounds=make_schedule(
            federation,
            n_prototypes=warmup.draws,
            n_covariances=warmup.covariances.draws,
            n_training=recipe.rounds,
            seed=seed,
            phases=[phase.from_round for phase in recipe.phases]
            if isinstance(recipe, StepSettings)
            else (1,),
        ),
        guard=guard_view(mode, federation),
        noise_multiplier=0.0,
        canaries=canaries,
    )
    multiplier = 0.0
    if mode != "none":
        multiplier = noise_multiplier_for(privacy, unchecked.guard, unchecked.max_charges(), trial)
    plan = replace(unchecked, releases=planner.releases(multiplier), noise_multiplier=multiplier)
    for name in plan.releases:
        try:
            plan.secagg_params(name)  # refuses a ring or a threshold that cannot be, before any work
        except ConfigError as error:
            raise ConfigError(error.reason, key=f"secagg.{error.key}") from error
    return plan
