"""Is the plan made without data, is its ε the accountant's, and are sums of too few shares refused?"""

from __future__ import annotations

import math
from dataclasses import replace
from unittest.mock import patch

from secure_fed_diffusion import dp
from secure_fed_diffusion.audit.tradeoff import gaussian_delta
from secure_fed_diffusion.dp.mechanism import INNER_STDDEV, View
from secure_fed_diffusion.errors import RunError
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.server import Server
from tests.mutants.laboratory import ROUNDS, Laboratory, digits
from tests.mutants.questions.check import Table

PLAN = Table()
check = PLAN.check


@check("plan: no data", "The plan made for a data set and for its neighbour is one and the same.")
def _plan_without_data(lab: Laboratory) -> str | None:
    whole = digits()
    neighbour = replace(whole, train=whole.train.subset(slice(0, len(whole.train) - 1)))
    same = lab.plan("distributed").releases == lab.plan("distributed", dataset=neighbour).releases
    return None if same else "one record less gives another plan"


@check("plan: noise", "At the fewest honest survivors the shares carry the multiplier that the plan states.")
def _plan_noise(lab: Laboratory) -> str | None:
    plan = lab.plan("distributed")
    mechanism = plan.releases["training"].mechanism
    honest = plan.federation.min_survivors - plan.federation.colluders
    carried = math.sqrt(honest * mechanism.share_stddev**2 - INNER_STDDEV**2) / mechanism.sensitivity
    if not math.isclose(carried, plan.noise_multiplier, rel_tol=1e-9):
        return f"{carried:.3f} of the {plan.noise_multiplier:.3f} stated"
    return None


@check("plan: budget", "The plan's mechanisms, priced at the multiplier it states, keep the budget.")
def _plan_budget(lab: Laboratory) -> str | None:
    plan = lab.plan("distributed")
    training = plan.releases["training"].mechanism
    told = replace(
        training,
        kind="central",
        share_stddev=0.0,
        server_stddev=math.hypot(plan.noise_multiplier * training.sensitivity, INNER_STDDEV),
    )
    prototypes = plan.releases["prototypes"].mechanism
    honest = plan.federation.min_survivors - plan.federation.colluders
    first = replace(
        prototypes,
        kind="central",
        share_stddev=0.0,
        server_stddev=prototypes.share_stddev * math.sqrt(honest),
    )
    most = ROUNDS + plan.federation.reserved_attempts
    counts = {told: most, first: 1 + plan.federation.reserved_attempts}
    spent = dp.epsilon(counts, delta=plan.privacy.delta, view=View(name="released_model"))
    budget = plan.privacy.epsilon
    return None if spent <= budget * (1 + 1e-6) else f"ε = {spent:.2f} of {budget:g}"


@check("accountant: closed form", "δ(ε) of one step, and of many full-batch ones, is the closed form's.")
def _closed_form(lab: Laboratory) -> str | None:
    plan = lab.plan("distributed")
    release = plan.releases["training"]
    mechanism, norm_bound = release.mechanism, release.grid.norm_bound
    honest = plan.federation.min_survivors - plan.federation.colluders
    multiplier = math.sqrt(honest * mechanism.share_stddev**2 - INNER_STDDEV**2) / norm_bound
    rate = plan.recipe.sampling_rate  # type: ignore[union-attr]
    for epsilon in (0.1, 0.5, 1.0):
        # Removing a record: (1−q)·N(0) + q·N(1) against N(0).
        one = rate * gaussian_delta(1.0 / multiplier, math.log1p(math.expm1(epsilon) / rate))
        many = gaussian_delta(math.sqrt(ROUNDS) / multiplier, epsilon)
        for n, q, truth in ((1, rate, one), (ROUNDS, 1.0, many)):
            told = dp.delta({replace(mechanism, sampling_rate=q): n}, epsilon=epsilon, view=plan.guard)
            if not truth * (1 - 1e-6) <= told <= truth * 1.02:
                return f"δ({epsilon:g}) of {n} steps at rate {q:g} = {told:.3g}, it is {truth:.3g}"
    return None


@check("sums: fewest survivors", "A sum of fewer shares than the accountant was told of is never released.")
def _fewest(lab: Laboratory) -> str | None:
    for n_lost, least in ((1, 4), (2, 4), (1, 5)):
        it = lab.federation("distributed", f"federation.min_survivors={least}")
        told = it.plan.releases["training"].mechanism.min_survivors
        it.engine.absent = lambda number, client_id, phase, n=n_lost: (
            client_id < n and phase == "masked_input"
        )
        try:
            outcome = next(it.rounds())
        except RunError:
            continue
        finally:
            it.ledger.close()
        if len(outcome.survivors) < told:
            return f"a sum of {len(outcome.survivors)} was released, the accountant counts on {told}"
    return None


@check("sums: each side refuses", "Too few shares are refused by the clients alone, and by the server alone.")
def _each_side(lab: Laboratory) -> str | None:
    policy = Plan.policy
    careless = {
        "clients": patch.object(Server, "_require_noise", lambda self, n: None),
        "server": patch.object(Plan, "policy", lambda self: replace(policy(self), min_survivors=2)),
    }
    for side, other_side_is_careless in careless.items():
        it = lab.federation("distributed", "federation.min_survivors=5")
        it.engine.absent = lambda number, client_id, phase: (client_id, phase) == (0, "masked_input")
        with other_side_is_careless:
            try:
                outcome = next(it.rounds())
            except RunError:
                continue
            finally:
                it.ledger.close()
        return f"the {side} let a sum of {len(outcome.survivors)} pass, the plan asks for 5"
    return None
