"""T11: a ring too small for the sum; it wraps, and everybody trains on a wrong one.

The server proposes clip, grid, ring and number of clients.  Whether the largest sum fits is proven when the
grid is made, so such terms are refused before anything is sent.  The proof counts on every client to clip: a
client that does not wraps the sum in any ring, and masking hides who it was.

Source: threats_and_audit.md, T11.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion import secagg
from secure_fed_diffusion.errors import ConfigError
from threat_models.adversaries.malicious_server import ReleasedSum
from threat_models.claim import Arm, Claim, Staged, Tags, Threshold
from threat_models.staging.secagg_round import Round, make_params, make_session
from threat_models.weakened.masks_and_seeds import without_a_headroom_proof
from threat_models.weakened.patching import without

N_CLIENTS, DIMENSION = 10, 64
CLIP, FRACTION_BITS = 1.0, 5
SMALL_RING_BITS, RING_BITS = 8, 16


def stage(arm: Arm, seed: int) -> Staged[ReleasedSum]:
    """Propose an 8-bit ring for ten clients near the clip; in `dropped` a fair one that a client abuses."""
    floats = np.random.default_rng(seed).uniform(0.8, 1.0, size=(N_CLIENTS, DIMENSION))
    expected = floats.sum(axis=0)
    bits = RING_BITS if arm is Arm.DROPPED else SMALL_RING_BITS
    with without(without_a_headroom_proof) if arm is Arm.OFF else nullcontext():
        try:
            grid = secagg.FixedPoint(
                clip=CLIP, fraction_bits=FRACTION_BITS, modulus_bits=bits, max_clients=N_CLIENTS
            )
        except ConfigError:
            return Staged(ReleasedSum(total=None), expected)
    params = make_params(N_CLIENTS, N_CLIENTS // 2 + 1, dimension=DIMENSION, modulus_bits=bits)
    a_round = Round(make_session(params), label=f"{seed}")
    a_round.vectors = {v: grid.encode(own).vector for v, own in enumerate(floats)}
    if arm is Arm.DROPPED:
        a_round.vectors[0] = np.full(DIMENSION, 1 << (bits - 1), dtype=np.uint16)  # it did not clip
    a_round.finish()
    return Staged(ReleasedSum(total=grid.decode(a_round.server.total)), expected)


def attack(view: ReleasedSum) -> npt.NDArray[np.float64] | None:
    """Let everybody train on what came out."""
    return view.total


def judge(guess: npt.NDArray[np.float64] | None, truth: Any) -> float:
    """Return which part of the coordinates is off by more than one client's whole range."""
    return 0.0 if guess is None else float(np.mean(np.abs(guess - truth) > CLIP))


CLAIM = Claim(
    id="T11",
    title="A ring too small",
    adversary="malicious_server",
    asset="the sum that everybody trains on",
    statement="No terms under which the sum of clipped vectors could wrap are accepted.",
    defence="a headroom proof when the grid is made",
    dropped_assumption="every client clips",
    view=ReleasedSum,
    stage=stage,
    attack=attack,
    judge=judge,
    metric="share of coordinates that come out wrong",
    threshold=Threshold(succeeds=0.99, fails=0.01),
    source="threats_and_audit.md, T11",
    tags=Tags(stride=("Tampering",), atlas=("AML.T0031",)),
)
