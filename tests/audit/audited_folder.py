"""A run's folder as an auditor finds it, made without any training: a true ledger and simulated sums."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from secure_fed_diffusion.audit.canaries import Canaries
from secure_fed_diffusion.audit.journal import AuditTerms, Journal, RoundNotes
from secure_fed_diffusion.dp import Ledger, Mechanism, View
from tests.dp.plans import shares, terms

CLIENTS, SURVIVORS, LEAST, CANARIES, ROUNDS = 6, 5, 4, 200, 6
FALSE_ALARM = 1e-6  # so that a correct run is accused once in a million tests
MAGNITUDE = 8190


def training(kind: str = "shares") -> Mechanism:
    if kind == "central":
        return shares(0.0, kind=kind, server_stddev=12_000.0, sampling_rate=0.25, min_survivors=LEAST)
    return shares(6_000.0, sampling_rate=0.25, min_survivors=LEAST)


def write_folder(
    root: Path,
    *,
    kind: str = "shares",
    canaries: int = CANARIES,
    rounds: int = ROUNDS,
    noise: float = 1.0,
    planned: int | None = None,
    seed: int = 0,
    failed_attempt: bool = False,
) -> Path:
    """Write one round of class means, then `rounds` of training whose noise is `noise` times the plan's.

    Coins and noise are seeded: up to one run in twenty of these may have a lower bound above its true ε, as a
    confidence of 0.95 allows, and a test must not be that run now and then.
    """
    rng, coins = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    mechanism = training(kind)
    wide = {"server_stddev": 80_000.0} if kind == "central" else {}
    prototypes = shares(0.0 if wide else 40_000.0, kind=kind, sampling_rate=0.5, min_survivors=LEAST, **wide)
    view = View(name="released_model")
    root.mkdir(parents=True, exist_ok=True)
    promised = terms(
        budget_epsilon=None,
        guard=view,
        mechanisms={"prototypes": prototypes, "training": mechanism},
        views=(View(name="sum"), view),
    )
    journal = Journal(root)
    dealt = Canaries.flip(canaries, clients=CLIENTS, entropy=coins.bytes) if canaries else None
    if dealt is not None:
        journal.write_terms(
            AuditTerms(
                canaries=dealt,
                confidence=0.95,
                false_alarm=FALSE_ALARM,
                planned_rounds=planned or max(1, rounds),
            )
        )
    with Ledger.create(root / "ledger.jsonl", promised) as ledger:
        for number in range(1, rounds + 2):
            survivors = tuple(sorted(rng.choice(CLIENTS, SURVIVORS, replace=False).tolist()))
            name = "prototypes" if number == 1 else "training"
            attempt = int(failed_attempt and number == 2)
            for client_id in survivors:
                for tried in range(attempt + 1):
                    ledger.charge(client_id, round=number, attempt=tried, mechanism=name)
            if dealt is not None:
                journal.append(_notes(rng, dealt, number, attempt, name, survivors, mechanism, noise))
    return root


def _notes(
    rng: np.random.Generator,
    dealt: Canaries,
    number: int,
    attempt: int,
    name: str,
    survivors: tuple[int, ...],
    mechanism: Mechanism,
    noise: float,
) -> RoundNotes:
    draws = 1 if mechanism.kind == "central" else len(survivors)
    stddev = mechanism.draw_stddev * math.sqrt(draws)
    rates = dealt.rates(mechanism.sampling_rate, survivors)
    counts = ((rng.random(len(dealt)) < rates) & dealt.included).astype(np.int64)
    sums = MAGNITUDE * counts + np.rint(rng.normal(0.0, noise * stddev, len(dealt))).astype(np.int64)
    carries = name == "training"
    return RoundNotes(
        number=number,
        attempt=attempt,
        release=name,
        survivors=survivors,
        sampling_rate=mechanism.sampling_rate,
        sensitivity=mechanism.sensitivity,
        noise_stddev=stddev,
        magnitude=MAGNITUDE,
        sums=sums if carries else None,
        counts=counts if carries else None,
    )
