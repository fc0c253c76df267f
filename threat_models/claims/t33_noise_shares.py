"""T33 and T33b: accomplices take their own noise shares off the sum; what is left is the honest clients'.

In mode `distributed` each client adds a share of the noise, and ε is worked out for the least number h of
honest shares in a sum.  The victim adds C to some coordinates by coins of its own; the server and its
accomplices subtract all they know and guess each coin.  With standard deviation s for each share no test is
right more often than Φ(C / (2 s √h)): .64 with h = 8 here, .84 with h = 1, which is the raw update again.

The same in ε (δ = 1e-5, Poisson rate .1, 100 steps, each share as large as the clip; tests/threat_models
works them out anew): raw update 7.05; sum with 2, 5 and 10 honest shares 3.87, 2.01 and 1.30; with n - 1
accomplices 7.05.

T33: as many accomplices as the plan assumes.  Off: no noise.  Dropped: Sybils, more than the plan assumes.
T33b, not promised: with n - 1 accomplices a client has its own share and nothing else.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion.dp.noise import discrete_gaussian
from secure_fed_diffusion.secagg.encoding import centred
from threat_models.adversaries.colluding_clients import Coalition
from threat_models.claim import Arm, Claim, Counts, Staged, Tags, Threshold
from threat_models.staging.reading import read_sum
from threat_models.staging.recorded_round import VICTIM, RecordedRound
from threat_models.staging.secagg_round import fixed_entropy

N_CLIENTS, THRESHOLD, DIMENSION = 10, 7, 4096
ASSUMED = 2
SHARE_STDDEV, STEP = 100.0, 200
Coins = npt.NDArray[np.bool_]


def stage(arm: Arm, seed: int) -> Staged[Coalition]:
    """Sum noise shares and one client's coins; the plan's number of accomplices, or all but one, tell."""
    n_accomplices = N_CLIENTS - 1 if arm is Arm.DROPPED else ASSUMED
    return _stage(seed, n_accomplices, noise=arm is not Arm.OFF)


def stage_all_but_one(arm: Arm, seed: int) -> Staged[Coalition]:
    """The same with all but one as accomplices."""
    return _stage(seed, N_CLIENTS - 1, noise=arm is not Arm.OFF)


def _stage(seed: int, n_accomplices: int, *, noise: bool) -> Staged[Coalition]:
    a_round = RecordedRound.of_seed(
        "active", seed, n_clients=N_CLIENTS, threshold=THRESHOLD, dimension=DIMENSION
    )
    coins = np.random.default_rng(seed).random(DIMENSION) < 0.5
    for v in a_round.session.cohort:
        entropy = fixed_entropy(f"noise of {v} in {seed}")
        vector = discrete_gaussian(SHARE_STDDEV, DIMENSION, entropy) * int(noise)
        if v == VICTIM:
            vector = vector + STEP * coins
        a_round.vectors[v] = vector.astype(np.uint64) & np.uint64(2**32 - 1)
    a_round.finish()
    accomplices = a_round.session.cohort[-n_accomplices:]
    view = a_round.exchange(told_inputs={v: a_round.vectors[v].copy() for v in accomplices})
    fields = {entry.name: getattr(view, entry.name) for entry in dataclasses.fields(view)}
    return Staged(Coalition(**fields), coins)


def attack(view: Coalition) -> Coins:
    """Subtract what the accomplices put in; the likelier coin is the nearer one."""
    residual = centred(read_sum(view), 32)
    return residual > STEP / 2


def judge(guess: Coins, truth: Coins) -> Counts:
    """How many coins were guessed."""
    return Counts(int(np.sum(guess == truth)), len(truth))


ASSUMED_COLLUDERS = Claim(
    id="T33",
    title="Noise shares that accomplices take off",
    adversary="colluding_clients",
    asset="one record's part in the sum",
    statement="Mode distributed keeps its budget against the server and the colluders that the plan names.",
    defence="noise calibrated to the least number of honest shares, min_survivors less colluders",
    dropped_assumption="no more colluders, Sybils among them, than the plan names",
    view=Coalition,
    stage=stage,
    attack=attack,
    judge=judge,
    metric="coins guessed of the victim's (no test: .50; bound with 8 honest shares: .64)",
    threshold=Threshold(succeeds=0.8, fails=0.7),
    source="Kairouz et al. 2021; threats_and_audit, section 1",
    tags=Tags(stride=("Information disclosure",), linddun=("Detecting",)),
)

ALL_BUT_ONE = Claim(
    id="T33b",
    title="Mode distributed with n - 1 colluders",
    adversary="colluding_clients",
    asset="one record's part in the sum",
    statement="Not promised: with n - 1 colluders the sum protects no better than one noise share, "
    "as little as the raw update (ε 7.05 where ten shares give 1.30).",
    defence="none; mode local adds each client's noise in full",
    dropped_assumption=None,
    view=Coalition,
    stage=stage_all_but_one,
    attack=attack,
    judge=judge,
    metric="coins guessed of the victim's (no test: .50; bound with 8 honest shares: .64)",
    threshold=Threshold(succeeds=0.8, fails=0.7),
    promised=False,
    source="threats_and_audit, section 1",
    tags=Tags(stride=("Information disclosure",), linddun=("Detecting",)),
)

CLAIMS = (ASSUMED_COLLUDERS, ALL_BUT_ONE)
