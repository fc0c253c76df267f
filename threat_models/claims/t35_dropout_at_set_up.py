"""T35: a network that cuts one client off during the set-up.

As many clients as the threshold allows may go in any phase, the first two as well.  Dropped: one more goes.
At a peer that needs everyone who was there at the start, one is enough to end the round.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion.errors import TooFewClientsError
from threat_models.adversaries.network import Aftermath
from threat_models.claim import Arm, Claim, Staged, Tags, Threshold
from threat_models.peers import flower_secagg_plus as flower
from threat_models.staging.recorded_round import RecordedRound
from threat_models.weakened.keys_and_lists import without_tolerance_at_set_up
from threat_models.weakened.patching import without

N_CLIENTS, THRESHOLD = 5, 4
CUT_OFF = ((1, "advertise"), (2, "advertise"), (1, "share_keys"), (4, "share_keys"))
Totals = tuple[npt.NDArray[np.integer[Any]] | None, ...]


def stage(arm: Arm, seed: int) -> Staged[Aftermath]:
    """Lose one client in each of four rounds, or it and its neighbour."""
    totals: list[npt.NDArray[np.uint64] | None] = []
    with without(without_tolerance_at_set_up) if arm is Arm.OFF else nullcontext():
        for i, (client_id, phase) in enumerate(CUT_OFF):
            a_round = RecordedRound.of_seed("active", 10 * seed + i, n_clients=N_CLIENTS, threshold=THRESHOLD)
            lost = {client_id: phase}
            if arm is Arm.DROPPED:
                lost[(client_id + 1) % N_CLIENTS] = phase
            try:
                a_round.finish(dropouts=lost)
            except TooFewClientsError:
                totals.append(None)
            else:
                totals.append(a_round.server.total.astype(np.uint64))
    return Staged(Aftermath(totals=tuple(totals)), None)


def attack(view: Aftermath) -> Totals:
    """Hand out what came of it."""
    return view.totals


def judge(guess: Totals, truth: object) -> float:
    """Which part of the rounds ended without a sum."""
    return float(np.mean([total is None for total in guess]))


CLAIM = Claim(
    id="T35",
    title="A dropout during the set-up",
    adversary="network",
    asset="the round",
    statement="A round outlives the loss of n - t clients, in the set-up as well.",
    defence="only those who shared their keys are counted on",
    dropped_assumption="at least t clients stay",
    view=Aftermath,
    stage=stage,
    attack=attack,
    judge=judge,
    metric="rounds that end without a sum",
    threshold=Threshold(succeeds=0.99, fails=0.01),
    source="secure_aggregation, section 2, weakness 5",
    tags=Tags(stride=("Denial of service",)),
    peers={flower.NAME: flower.dropout_at_set_up},
)
