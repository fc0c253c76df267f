"""T4: which of two known updates did a client send?  The server reads it off the sum.

The masks hide every single vector and give away the exact sum.  With side knowledge (two candidates for each
client) one inner product with the sum names the one that was sent, whatever the number of clients.  Noise is
what bounds it: at noise multiplier σ no test on one sum does better than Φ(1/σ) between opposite vectors at
the clip (the (0, δ) point of the Gaussian mechanism's curve, replace-one), 0.60 at σ = 4.  The bound is for
one release: a server that may ask the same question a hundred times has its answer, which is what the
ledger is there to refuse.

Source: Ngo et al., arXiv 2403.17775 (the sum is not private); threats_and_audit.md, T4.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from threat_models.adversaries.curious_server import SumsAndCandidates
from threat_models.claim import Arm, Claim, Counts, Staged, Tags, Threshold
from threat_models.staging.noisy_sums import sums, unit_vectors

N_CLIENTS, DIMENSION = 8, 256
NOISE_MULTIPLIER = 4.0
SET_UPS, ROUNDS = 8, 1
REPEATED_SET_UPS, REPEATED_ROUNDS = 2, 100


def stage(arm: Arm, seed: int) -> Staged[SumsAndCandidates]:
    """Let every client send one of two opposite updates, by a coin; in `dropped` a hundred times over."""
    repeated = arm is Arm.DROPPED
    n_set_ups, n_rounds = (REPEATED_SET_UPS, REPEATED_ROUNDS) if repeated else (SET_UPS, ROUNDS)
    first = unit_vectors(n_set_ups * N_CLIENTS, DIMENSION, seed).reshape(n_set_ups, N_CLIENTS, DIMENSION)
    coins = np.random.default_rng([seed, 1]).integers(2, size=(n_set_ups, N_CLIENTS)).astype(bool)
    sent = np.where(coins[:, :, None], first, -first)
    seen = [
        sums(
            [dict(enumerate(vectors))] * n_rounds,
            n_clients=N_CLIENTS,
            noise_multiplier=0.0 if arm is Arm.OFF else NOISE_MULTIPLIER,
        )
        for vectors in sent
    ]
    return Staged(SumsAndCandidates(sums=np.array(seen), first=first, second=-first), coins)


def attack(view: SumsAndCandidates) -> npt.NDArray[np.bool_]:
    """Test each client's two candidates on the mean of a set-up's sums: True for the first."""
    middle = (view.first + view.second).sum(axis=1) / 2
    residual = view.sums.mean(axis=1) - middle
    return np.einsum("sd,snd->sn", residual, view.first - view.second) > 0


def judge(guess: npt.NDArray[np.bool_], truth: Any) -> Counts:
    """Count the coins that were guessed."""
    return Counts(int(np.sum(guess == truth)), truth.size)


CLAIM = Claim(
    id="T4",
    title="Which of two updates was sent",
    adversary="curious_server",
    asset="which update a client sent",
    statement=(
        "From one noised sum no server tells two candidate updates apart better than the (ε, δ) of the "
        "release allows; without noise secure aggregation does not stop it at all."
    ),
    defence="a noise share in every vector (noise multiplier 4, replace-one bound 0.60)",
    dropped_assumption="the ledger refuses to answer the same question in 100 rounds",
    view=SumsAndCandidates,
    stage=stage,
    attack=attack,
    judge=judge,
    metric="share of coins guessed (chance 0.50)",
    threshold=Threshold(succeeds=0.88, fails=0.75),
    source="arXiv 2403.17775",
    tags=Tags(stride=("Information disclosure",), linddun=("Linking", "Detecting"), atlas=("AML.T0024.000",)),
)
