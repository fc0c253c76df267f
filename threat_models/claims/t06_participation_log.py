"""T6: who took part in which round, and the sums: least squares takes them apart.

The server keeps the sums of many rounds with changing cohorts.  If clients' updates stay alike, each sum is a
row of a linear system with the updates as unknowns.  The more an update drifts from round to round, the less
it is worth (T6b, drift of the update's own length).  With noise every row carries an error; rounds average it
away as the square root of their number, so the promise ends where the ledger lets rounds go on.

Source: Lam et al., arXiv 2106.06089.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from threat_models.adversaries.curious_server import SumsAndLog
from threat_models.claim import Arm, Claim, Staged, Tags, Threshold
from threat_models.staging.noisy_sums import cosine, sums, unit_vectors

N_CLIENTS, DIMENSION = 5, 16
NOISE_MULTIPLIER = 1.0
ROUNDS, MANY_ROUNDS = 12, 200


def stage(arm: Arm, seed: int, *, drift: float) -> Staged[SumsAndLog]:
    """Run rounds of three or four of the clients, drawn anew each time."""
    generator = np.random.default_rng([seed, 2])
    vectors = unit_vectors(N_CLIENTS, DIMENSION, seed)
    n_rounds = MANY_ROUNDS if arm is Arm.DROPPED else ROUNDS
    logs = [
        generator.choice(N_CLIENTS, size=3 + number % 2, replace=False).tolist()
        if number
        else list(range(N_CLIENTS))
        for number in range(n_rounds)
    ]
    moved = drift * generator.normal(size=(n_rounds, N_CLIENTS, DIMENSION)) / np.sqrt(DIMENSION)
    seen = sums(
        [{v: vectors[v] + moved[number, v] for v in sorted(log)} for number, log in enumerate(logs)],
        n_clients=N_CLIENTS,
        noise_multiplier=0.0 if arm is Arm.OFF else NOISE_MULTIPLIER,
    )
    took_part = np.array([[float(v in log) for v in range(N_CLIENTS)] for log in logs])
    return Staged(SumsAndLog(sums=seen, participation=took_part), vectors.copy())


def attack(view: SumsAndLog) -> npt.NDArray[np.float64]:
    """Solve for everybody's mean update."""
    return np.linalg.lstsq(view.participation, view.sums, rcond=None)[0]


def judge(guess: npt.NDArray[np.float64], truth: Any) -> float:
    """Return the mean over the clients of the cosine with their update."""
    return float(np.mean([cosine(found, own) for found, own in zip(guess, truth, strict=True)]))


def _claim(claim_id: str, title: str, *, drift: float, succeeds: float) -> Claim[Any, Any]:
    return Claim(
        id=claim_id,
        title=title,
        adversary="curious_server",
        asset="each client's mean update",
        statement=(
            f"A log of who took part in {ROUNDS} rounds, with the noised sums, does not show the update of a "
            "single client."
        ),
        defence=f"fresh noise in every sum (noise multiplier {NOISE_MULTIPLIER:g})",
        dropped_assumption=f"the ledger stops after {ROUNDS} rounds; it lets {MANY_ROUNDS} pass",
        view=SumsAndLog,
        stage=partial(stage, drift=drift),
        attack=attack,
        judge=judge,
        metric="mean cosine with a client's update",
        threshold=Threshold(succeeds=succeeds, fails=0.55),
        source="arXiv 2106.06089",
        tags=Tags(stride=("Information disclosure",), linddun=("Linking", "Data disclosure")),
    )


CLAIMS = (
    _claim("T6", "Disaggregation across rounds", drift=0.0, succeeds=0.85),
    _claim("T6b", "Disaggregation of updates that drift", drift=0.5, succeeds=0.7),
)
