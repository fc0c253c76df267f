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

from secure_fed_diffusion.errors import PolicyError
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.settings import RunSettings
from secure_fed_diffusion.institution.settings import PolicySettings
from secure_fed_diffusion.secagg import Roster


def at_least(what: str, proposed: int, bound: int, key: str) -> str | None:
    """Return the complaint, or None."""
    return f"{proposed} {what} proposed, {key} asks for at least {bound}" if proposed < bound else None


def at_most(what: str, proposed: int, bound: int, key: str) -> str | None:
    """Return the complaint, or None."""
    return f"{proposed:,} {what} proposed, {key} allows at most {bound:,}" if proposed > bound else None


def too_large(settings: RunSettings, dimension: int, roster: Roster, policy: PolicySettings) -> list[str]:
    """Return what makes a configuration too large to make a plan of, one sentence each."""
    rounds = settings.warmup.draws + getattr(settings.modes, settings.privacy.mode).rounds
    found = [
        at_most("rounds", rounds, policy.max_rounds, "policy.max_rounds"),
        at_most("parameters", dimension, policy.max_parameters, "policy.max_parameters"),
        at_most("clients", settings.federation.clients, len(roster), "the pinned roster"),
    ]
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
    if policy.plans and plan.digest not in policy.plans:
        found.append(f"plan {plan.digest} proposed, policy.plans names {len(policy.plans)} others")
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
