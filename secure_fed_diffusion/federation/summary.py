"""The last page of a run: what was promised, what it cost and what it bought, as `summary.json` holds it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from secure_fed_diffusion.dp.ledger import Ledger
from secure_fed_diffusion.dp.mechanism import CLIENT_SAMPLING
from secure_fed_diffusion.dp.realised import SPENT_ASSUMPTION
from secure_fed_diffusion.evaluation import names
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.rounds import epsilon_by_view, planned_by_view
from secure_fed_diffusion.federation.schedule import PHASES
from secure_fed_diffusion.federation.settings import StepSettings

STATEMENT = {
    "none": "Mode none protects nothing: it is the baseline that the others are measured against.",
    "central": "Whoever holds every released model; the server itself is trusted with each sum.",
    "local": "Everyone who does not break AES-256, the server and all other clients together included.",
    "distributed": "The server together with {colluders} of the clients, and whoever holds the models.",
    "client": "The server together with {colluders} of the clients; the unit is a whole client.",
}

PROFILE = {
    "active": "The server may do what it likes: clients sign whose contributions are in each sum.",
    "semi_honest": "The server must follow the protocol: against one that lies nothing holds.",
}


def summarize(
    plan: Plan,
    ledger: Ledger,
    lines: Sequence[Mapping[str, Any]],
    *,
    floor: Mapping[str, float],
    class_names: Sequence[str],
    elapsed: float,
) -> dict[str, Any]:
    """Return the summary of a run whose rounds left `lines` in `metrics.jsonl`.

    `elapsed` are the seconds since this process began its rounds; shown in whole minutes, because they
    grow with how many records the clients drew.
    """
    evaluated = [line for line in lines if "prototype_accuracy" in line]
    metrics = {
        key: value
        for key, value in (evaluated[-1] if evaluated else {}).items()
        if names.is_metric(key) and key not in floor
    }
    parts: dict[str, float] = {}
    for line in lines:
        for part, value in line["seconds"].items():
            parts[part] = round(parts.get(part, 0.0) + value, 3)
    mechanism = plan.releases["training"].mechanism
    return {
        "mode": plan.mode,
        "target_epsilon": plan.budget_epsilon,
        "plan_epsilon": (planned := planned_by_view(ledger)),  # the guarantee
        "epsilon": epsilon_by_view(plan, ledger),  # what was spent of it
        "epsilon_assumption": None if planned is None else SPENT_ASSUMPTION,
        "delta": plan.privacy.delta,
        "unit": mechanism.unit,
        "relation": mechanism.relation,
        "guard_view": plan.guard.key,
        "accountants": ["pld", "rdp"],
        "noise_multiplier": plan.noise_multiplier,
        "phases": _phases(plan),
        "noise_overhead": plan.noise_overhead,
        "floor": dict(floor),
        "metrics": metrics,
        "class_names": list(class_names),
        "clients": plan.federation.clients,
        "clients_per_round": plan.federation.clients_per_round,
        "colluders": plan.federation.colluders,
        "masked": plan.masked,
        "parameters": plan.dimension,
        "rounds": len(lines),
        "bytes_up": sum(line["bytes_up"] for line in lines),
        "bytes_down": sum(line["bytes_down"] for line in lines),
        "seconds": 60 * math.ceil(elapsed / 60),
        "seconds_by_part": parts,
        "ledger_head": ledger.head,
        "finished": len(lines) == len(plan.rounds),
        "profile": plan.secure_sum.profile if plan.masked else None,
        "client_sampling": CLIENT_SAMPLING,
        "statement": statement(plan),
    }


def statement(plan: Plan) -> str:
    """Say in a few sentences what the run's ε holds against, the server's honesty included, and which ε."""
    said = STATEMENT[plan.mode].format(colluders=plan.federation.colluders)
    if plan.mode == "none":
        return said
    profile = f" {PROFILE[plan.secure_sum.profile]}" if plan.mode in ("distributed", "client") else ""
    return f"{said}{profile} What holds is the plan's ε: how often a round failed may have been chosen."


def _phases(plan: Plan) -> list[dict[str, float | int | str]]:
    """Return what a charge of each phase of a batch schedule is, [] where there is one phase alone."""
    recipe = plan.recipe
    if not isinstance(recipe, StepSettings) or len(recipe.phases) == 1:
        return []
    most = plan.max_charges()
    return [
        {
            "mechanism": name,
            "from_round": phase.from_round,
            "noise_multiplier": plan.noise_multiplier * phase.noise_scale,
            "sampling_rate": phase.sampling_rate,
            "max_charges": most[name],
        }
        for name, phase in zip(PHASES, recipe.phases, strict=False)
    ]
