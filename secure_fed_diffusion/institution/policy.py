"""What an institution puts up with: each proposal is held to its own bounds, whoever made it.

A refusal names the value, the bound and the key of `institution.toml` that set it.  Some things no key
allows: mode `none`, contributions in clear, an auditor's records among the institution's own, a cohort with
clients that the pinned roster does not know.

Not protected against: a policy that its owner made too loose; what the code that answers is told to do
outside of it (the institution runs its own installed code, never what a coordinator sends).

>>> at_least("clients per round", 2, 3, "policy.min_cohort")
'2 clients per round proposed, policy.min_cohort asks for at least 3'
"""

from __future__ import annotations

import math

from secure_fed_diffusion.errors import PolicyError
from secure_fed_diffusion.federation.class_covariances import covariance_length
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.settings import LocalSettings, RunSettings, StepSettings
from secure_fed_diffusion.institution.agreement import Agreement
from secure_fed_diffusion.institution.settings import DataFile, PolicySettings
from secure_fed_diffusion.secagg import Roster

# No key moves these: beyond them lies work for this machine, or for its accountant, and no better model.
_HERE = "every institution"
MOST_EPOCHS, MOST_DRAWS, MOST_TIMESTEPS = 1_000, 1_024, 100_000
MOST_CHANNELS, MOST_RESOLUTIONS, MOST_LAYERS = 4_096, 10, 16
LEAST_RATE, LEAST_NOISE, MOST_NOISE = 1e-6, 0.1, 1e6


def at_least(what: str, proposed: int, bound: int, key: str) -> str | None:
    """Return the complaint, or None."""
    return f"{proposed} {what} proposed, {key} asks for at least {bound}" if proposed < bound else None


def at_most(what: str, proposed: int, bound: int, key: str) -> str | None:
    """Return the complaint, or None."""
    return f"{proposed:,} {what} proposed, {key} allows at most {bound:,}" if proposed > bound else None


def before_planning(
    settings: RunSettings,
    agreement: Agreement,
    roster: Roster,
    policy: PolicySettings,
    data: DataFile | None = None,
) -> list[str]:
    """Return what forbids to make a plan at all: another plan or form of data, or too much work.

    It looks at the settings alone: no accountant runs, no model is built, no record is looked at.
    """
    federation, diffusion, model = settings.federation, settings.diffusion, settings.model
    recipe = getattr(settings.modes, settings.privacy.mode)
    rounds = settings.warmup.rounds + recipe.rounds
    epochs = getattr(recipe, "local_epochs", 1)
    own = settings.warmup.reserved_attempts or 0
    reserved = federation.reserved_attempts + (own if settings.warmup.rounds else 0)
    attempts = rounds + reserved
    steps = attempts
    if isinstance(recipe, LocalSettings):  # capped: each has its own bound below, and nothing overflows here
        steps = math.ceil(attempts * max(1.0, min(epochs, 1e9) / max(recipe.sampling_rate, LEAST_RATE)))
    image_length = math.prod(agreement.image_shape) * len(agreement.class_names)
    covariances = settings.warmup.covariances
    covariance_values = covariance_length(
        agreement.image_shape, n_classes=len(agreement.class_names), frequencies=covariances.frequencies
    )
    found = [
        at_most("rounds", rounds, policy.max_rounds, "policy.max_rounds"),
        at_most("reserved attempts", reserved, policy.max_rounds, "policy.max_rounds"),
        at_most("steps in all attempts", steps, policy.max_steps, "policy.max_steps"),
        at_most("parameters", agreement.dimension, policy.max_parameters, "policy.max_parameters"),
        at_most("values of class means", image_length, policy.max_parameters, "policy.max_parameters"),
        at_most(
            "values of class covariances",
            covariance_values if covariances.draws else 0,
            policy.max_parameters,
            "policy.max_parameters",
        ),
        at_most("clients", federation.clients, len(roster), "the pinned roster"),
        at_most("local epochs", math.ceil(epochs), MOST_EPOCHS, _HERE),
        at_most("draws a record", diffusion.noise_multiplicity, MOST_DRAWS, _HERE),
        at_most("timesteps", diffusion.timesteps, MOST_TIMESTEPS, _HERE),
        at_most("channels", max(model.channels), MOST_CHANNELS, _HERE),
        at_most("resolutions", len(model.channels), MOST_RESOLUTIONS, _HERE),
        at_most("layers a block", model.layers_per_block, MOST_LAYERS, _HERE),
    ]
    phases = recipe.phases if isinstance(recipe, StepSettings) else ()
    own_rates = [phase.sampling_rate for phase in phases] or [getattr(recipe, "sampling_rate", 1.0)]
    released = (settings.warmup, covariances) if covariances.draws else (settings.warmup,)
    rates = (*(each.sampling_rate for each in released), *own_rates)
    if min(rates) < LEAST_RATE:
        found.append(f"a sampling rate of {min(rates):g} proposed, {_HERE} asks for at least {LEAST_RATE:g}")
    scales = [phase.noise_scale for phase in phases] or [1.0]
    training = [agreement.noise_multiplier * scale for scale in scales]
    noise = (*(each.noise_multiplier for each in released), *training)
    if settings.privacy.mode != "none" and not LEAST_NOISE <= min(noise) <= max(noise) <= MOST_NOISE:
        found.append(
            f"noise multipliers {', '.join(f'{each.noise_multiplier:g}' for each in released)} (warm-up) and "
            f"{', '.join(f'{each:g}' for each in training)} proposed, {_HERE} asks for {LEAST_NOISE:g} to "
            f"{MOST_NOISE:g}"
        )
    if policy.plans and agreement.plan_digest not in policy.plans:
        found.append(f"plan {agreement.plan_digest} proposed, policy.plans names {len(policy.plans)} others")
    if data is not None and tuple(agreement.image_shape) != tuple(data.image_shape):
        found.append(f"images of {agreement.image_shape} proposed, data.image_shape is {data.image_shape}")
    if data is not None and len(agreement.class_names) != data.classes:
        found.append(f"{len(agreement.class_names)} classes proposed, data.classes is {data.classes}")
    return [complaint for complaint in found if complaint is not None]


def complaints(plan: Plan, roster: Roster, policy: PolicySettings) -> list[str]:
    """Return everything in `plan` that the policy does not allow, one sentence each."""
    federation, threshold = plan.federation, plan.secure_sum.threshold
    found = [
        at_least("clients a round", federation.clients_per_round, policy.min_cohort, "policy.min_cohort"),
        at_least("survivors", federation.min_survivors, policy.min_survivors, "policy.min_survivors"),
        at_least("as threshold", threshold, policy.min_threshold, "policy.min_threshold"),
        at_least("tolerated colluders", federation.colluders, policy.colluders, "policy.colluders"),
    ]
    if plan.mode == "none":
        found.append("mode none proposed: it promises nothing, and no key of policy allows it")
    elif plan.mode not in policy.modes:
        found.append(f"mode {plan.mode} proposed, policy.modes allows {', '.join(policy.modes)}")
    if not plan.masked:
        found.append(
            "contributions in clear proposed (federation.masked = false): no key of policy allows it"
        )
    elif policy.profile == "active" and plan.secure_sum.profile != "active":
        found.append(
            f"profile {plan.secure_sum.profile} proposed, policy.profile asks for active: a server that lies "
            "is not excluded"
        )
    if plan.canaries:
        found.append(
            f"{plan.canaries} canaries proposed (audit.canaries): an auditor's records would stand among the "
            "institution's own; no key of policy allows it"
        )
    degree = plan.secure_sum.n_neighbours
    if degree is not None:
        found.append(
            "a sparse graph proposed (secagg.n_neighbours), policy.min_neighbours is not set"
            if policy.min_neighbours is None
            else at_least("neighbours", degree, policy.min_neighbours, "policy.min_neighbours")
        )
    strangers = sorted({c for planned in plan.rounds for c in planned.cohort if c not in roster})
    if strangers:
        found.append(f"cohorts with clients {strangers[:10]} proposed, whom the pinned roster does not know")
    return [complaint for complaint in found if complaint is not None]


def require(found: list[str]) -> None:
    """Refuse a proposal with complaints.

    Raises:
        PolicyError: with all of them.
    """
    if found:
        raise PolicyError(f"this institution's policy refuses the coordinator's proposal: {'; '.join(found)}")
