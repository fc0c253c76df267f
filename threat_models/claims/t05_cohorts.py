"""T5: two rounds whose cohorts differ by one client; the difference of their sums is that client's update.

Nothing in the protocol forbids such cohorts: people drop out.  Each sum carries its own noise, so the
difference carries twice that.  The noise hides the client only from a server that cannot run the client's
generator itself.

Source: threats_and_audit.md, T5.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from threat_models.adversaries.curious_server import TwoSums
from threat_models.claim import Arm, Claim, Staged, Tags, Threshold
from threat_models.staging.noisy_sums import (
    CLIP_NORM,
    IntegerGrid,
    cosine,
    from_the_system,
    noise_share,
    predictable,
    sums,
    unit_vectors,
)

N_CLIENTS, DIMENSION = 6, 256
VICTIM = N_CLIENTS - 1
NOISE_MULTIPLIER = 1.0
LOG = (tuple(range(N_CLIENTS)), tuple(range(N_CLIENTS - 1)))


def stage(arm: Arm, seed: int) -> Staged[TwoSums]:
    """Run two rounds, with the victim and without; nobody's update changes in between."""
    vectors = unit_vectors(N_CLIENTS, DIMENSION, seed)
    noise_multiplier = 0.0 if arm is Arm.OFF else NOISE_MULTIPLIER
    both = sums(
        [{v: vectors[v] for v in log} for log in LOG],
        n_clients=N_CLIENTS,
        noise_multiplier=noise_multiplier,
        source=predictable(seed) if arm is Arm.DROPPED else from_the_system,
    )
    view = TwoSums(
        with_victim=both[0],
        without_victim=both[1],
        logs=LOG,
        noise_multiplier=noise_multiplier,
        generator_seed=seed if arm is Arm.DROPPED else None,
    )
    return Staged(view, vectors[VICTIM].copy())


def attack(view: TwoSums) -> npt.NDArray[np.float64]:
    """Subtract; take off the noise too where the generator is known."""
    return _without_noise(view, 0, view.with_victim) - _without_noise(view, 1, view.without_victim)


def _without_noise(view: TwoSums, number: int, total: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    if view.generator_seed is None:
        return total
    source, log = predictable(view.generator_seed), view.logs[number]
    shares = [
        noise_share(
            len(total), noise_multiplier=view.noise_multiplier, n_shares=len(log), source=source(number, v)
        )
        for v in log
    ]
    return total - IntegerGrid.for_dimension(len(total), CLIP_NORM).to_float(np.sum(shares, axis=0))


def judge(guess: npt.NDArray[np.float64], truth: Any) -> float:
    """Return the cosine with the victim's update."""
    return cosine(guess, truth)


CLAIM = Claim(
    id="T5",
    title="Cohorts that differ by one",
    adversary="curious_server",
    asset="one client's update",
    statement=(
        "The sums of two rounds with and without a client do not show its update: both carry fresh noise."
    ),
    defence="fresh noise shares in every round",
    dropped_assumption="the server cannot predict the clients' generators",
    view=TwoSums,
    stage=stage,
    attack=attack,
    judge=judge,
    metric="cosine with the victim's update",
    threshold=Threshold(succeeds=0.99, fails=0.3),
    source="threats_and_audit.md, T5",
    tags=Tags(stride=("Information disclosure",), linddun=("Linking", "Data disclosure")),
)
