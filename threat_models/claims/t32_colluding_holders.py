"""T32 and T32b: clients that tell the server all they know.

T32: t - 1 holders of the victim's shares hand over their shares of both kinds and their own keys; that opens
nothing.  Off: shares that are the secret itself.  Dropped: t holders.

T32b, not promised by any secure sum: all clients but one subtract their own vectors from the sum.
"""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from typing import Any

import numpy as np

from threat_models.adversaries.colluding_clients import Coalition
from threat_models.claim import Arm, Claim, Staged, Tags, Threshold
from threat_models.staging.reading import Vector, read_input, read_sum
from threat_models.staging.recorded_round import VICTIM, RecordedRound, coordinates_read
from threat_models.weakened.keys_and_lists import without_a_threshold
from threat_models.weakened.patching import without

N_CLIENTS, THRESHOLD = 9, 6


def stage(arm: Arm, seed: int) -> Staged[Coalition]:
    """Run a round as it should be; some holders tell the server what they hold."""
    with without(without_a_threshold) if arm is Arm.OFF else nullcontext():
        a_round = RecordedRound.of_seed("active", seed, n_clients=N_CLIENTS, threshold=THRESHOLD)
        a_round.run_to("masked_input")
        n_accomplices = THRESHOLD if arm is Arm.DROPPED else THRESHOLD - 1
        accomplices = range(1, n_accomplices + 1)
        secrets = a_round.own_secrets_of(accomplices)
        a_round.run_to("unmask")
        told = a_round.tell(accomplices)
        a_round.finish()
        threshold = 1 if arm is Arm.OFF else THRESHOLD
        return _coalition(a_round, told=told, own_secrets=secrets, threshold=threshold)


def stage_all_but_one(arm: Arm, seed: int) -> Staged[Coalition]:
    """Run a round whose other members all work together; off, without masks."""
    case = "unsafe_unmasked" if arm is Arm.OFF else "active"
    a_round = RecordedRound.of_seed(case, seed).finish()
    inputs = {v: x.astype(np.uint64) for v, x in a_round.vectors.items() if v != VICTIM}
    return _coalition(a_round, told_inputs=inputs)


def _coalition(a_round: RecordedRound, **told: Any) -> Staged[Coalition]:
    staged = a_round.staged(**told)
    fields = {entry.name: getattr(staged.view, entry.name) for entry in dataclasses.fields(staged.view)}
    return Staged(Coalition(**fields), staged.truth)


def attack(view: Coalition) -> Vector:
    """Take off every mask that the shares and keys open."""
    return read_input(view)


def attack_all_but_one(view: Coalition) -> Vector:
    """Subtract the accomplices' vectors from the sum."""
    return read_sum(view)


HOLDERS = Claim(
    id="T32",
    title="Holders of shares that collude",
    adversary="colluding_clients",
    asset="one client's vector",
    statement="The server and t - 1 holders of a client's shares learn nothing of its vector beyond the sum.",
    defence="Shamir's threshold t for both secrets of each client",
    dropped_assumption="fewer than t holders of the victim's shares collude",
    view=Coalition,
    stage=stage,
    attack=attack,
    judge=coordinates_read,
    metric="share of the victim's coordinates read exactly",
    threshold=Threshold(succeeds=0.99, fails=0.01),
    source="Bonawitz et al., CCS 2017, section 6; Shamir 1979",
    tags=Tags(stride=("Information disclosure",), linddun=("Data disclosure",)),
)

ALL_BUT_ONE = Claim(
    id="T32b",
    title="Everyone but one client",
    adversary="colluding_clients",
    asset="one client's vector",
    statement="Not promised by any secure sum: all clients but one subtract, and read that one's vector.",
    defence="none: it follows from the sum; only noise helps (T33b says how much)",
    dropped_assumption=None,
    view=Coalition,
    stage=stage_all_but_one,
    attack=attack_all_but_one,
    judge=coordinates_read,
    metric="share of the victim's coordinates read exactly",
    threshold=Threshold(succeeds=0.99, fails=0.01),
    promised=False,
    source="secagg/README.md, who learns what",
    tags=Tags(stride=("Information disclosure",), linddun=("Data disclosure",)),
)

CLAIMS = (HOLDERS, ALL_BUT_ONE)
