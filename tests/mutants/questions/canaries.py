"""Do canaries in real runs say what the plan and the ledger say?"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import binomtest, chi2

from secure_fed_diffusion.audit.conformance import NoiseShares, conformance
from secure_fed_diffusion.audit.evidence import evidence, lower_bound, sum_views, unconditional_bound
from secure_fed_diffusion.audit.realised import realised_epsilons
from tests.mutants.laboratory import Laboratory, Played
from tests.mutants.questions.check import LEVEL, Table

CANARIES = Table()
check = CANARIES.check


def _accusations(played: Played) -> str | None:
    if played.seen is None or played.it.auditor is None:
        return "no canaries were seen"
    found = evidence(played.seen, played.it.auditor.terms).conformance.failures
    return ", ".join(found) or None


@check("A0 conformance", "Canaries in the sums of a masked run: noise, magnitude, correlations, sampling.")
def _a0(lab: Laboratory) -> str | None:
    return _accusations(lab.distributed)


@check("A0 of a trusted server", "The same in a run whose server adds the noise.")
def _a0_central(lab: Laboratory) -> str | None:
    return _accusations(lab.central)


@check("A0 noise shares", "Each client's own noise in 1,000 directions: variance, correlation of any two.")
def _a0_shares(lab: Laboratory) -> str | None:
    played = lab.distributed
    if played.seen is None:
        return "no canaries were seen"
    stddev = played.it.plan.releases["training"].mechanism.share_stddev
    shares = NoiseShares(draws=played.shares, stddevs=np.full(len(played.shares), stddev))
    failures = conformance(played.seen, shares=shares, false_alarm=1e-4).failures
    names = ("noise variance of the shares", "correlation between clients")
    return ", ".join(name for name in failures if name in names) or None


@check("A0 batch sizes", "How many records the clients of that run drew: the mean, and the spread.")
def _a0_batches(lab: Laboratory) -> str | None:
    played = lab.distributed
    rate = played.it.plan.releases["training"].mechanism.sampling_rate
    held, drawn = np.array(played.batches).T
    total = binomtest(int(drawn.sum()), int(held.sum()), rate).pvalue
    spread = float(((drawn - held * rate) ** 2 / (held * rate * (1 - rate))).sum())
    pattern = 2 * min(chi2.cdf(spread, len(drawn)), chi2.sf(spread, len(drawn)))
    if min(total, pattern) < LEVEL:
        return f"{drawn.sum()} of {held.sum()} records, the rate is {rate:g}"
    return None


@check("A6 anytime", "The same canaries: e-values against less noise than the plan says.")
def _a6(lab: Laboratory) -> str | None:
    played = lab.distributed
    if played.seen is None or played.it.auditor is None:
        return "no canaries were seen"
    found = evidence(played.seen, played.it.auditor.terms)
    return "too little noise" if found.highest_e_value >= found.alarm else None


def _above(lab: Laboratory, played: Played, bound: Any) -> str | None:
    it = played.it
    if played.seen is None or it.auditor is None:
        return "no canaries were seen"
    _, view = sum_views(it.plan.releases["training"].mechanism)
    last = played.outcomes[-1].planned.number
    upper = realised_epsilons(it.ledger_path, it.auditor.rounds, view=view, wanted=[last])[last]
    lower = bound(played.seen, delta=it.plan.privacy.delta, confidence=0.95).epsilon
    return f"ε is at least {lower:.1f}, the ledger says at most {upper:.1f}" if lower > upper else None


@check("A1 lower bound", "The likelihood-ratio bound of the same run is not above the ledger's ε.")
def _a1(lab: Laboratory) -> str | None:
    return _above(lab, lab.distributed, lower_bound)


@check("A3 one run", "Neither is the bound of Steinke et al., which assumes nothing but fair coins.")
def _a3(lab: Laboratory) -> str | None:
    return _above(lab, lab.distributed, unconditional_bound)
