"""T14d: a server that proposes a ring of two, where masks drawn below the largest value are all zero.

Then what is sent is the parities: with a quantiser of one step, the signs.  Our smallest ring has more bits,
the client's policy may ask for more still, and masks reach every value.  Dropped: t holders of the victim's
shares work with the server; the ring is then of no matter.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np

from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.secagg import codec
from threat_models.adversaries.malicious_server import OURS, Exchange
from threat_models.claim import Arm, Claim, Staged, Tags, Threshold
from threat_models.peers import flower_secagg_plus as flower
from threat_models.staging.reading import Vector, read_input
from threat_models.staging.recorded_round import DIMENSION, VICTIM, RecordedRound, Refusal, Truth
from threat_models.weakened.masks_and_seeds import without_a_least_ring
from threat_models.weakened.patching import without

N_CLIENTS, THRESHOLD = 7, 5


def stage(arm: Arm, seed: int) -> Staged[Exchange]:
    """Propose one bit a value; the truth is the victim's parities."""
    bits = 32 if arm is Arm.DROPPED else 1
    terms: dict[str, Any] = {"n_clients": N_CLIENTS, "threshold": THRESHOLD, "modulus_bits": bits}
    with without(without_a_least_ring) if arm is Arm.OFF else nullcontext():
        try:
            a_round = RecordedRound.of_seed("semi_honest", seed, **terms)
        except ConfigError as error:  # the client has no such parameters: there is no session
            refusal = Refusal(VICTIM, "advertise", type(error).__name__, str(error), ())
            parities = np.random.default_rng(seed).integers(0, 2, DIMENSION, dtype=np.uint64)
            view = Exchange(protocol=OURS, victim=VICTIM, threshold=THRESHOLD, frames=())
            return Staged(view, Truth(parities, (refusal,)))
        a_round.run_to("masked_input")
        a_round.answers()
        told = a_round.tell(range(1, THRESHOLD + 1)) if arm is Arm.DROPPED else {}
        return a_round.staged(a_round.vectors[VICTIM] % 2, told=told)


def attack(view: Exchange) -> Vector:
    """Read the bits as they are, or with the shares of accomplices."""
    if view.protocol != OURS or view.told:
        return read_input(view) % 2
    sent = [frame for frame in view.frames if frame.sender == view.victim and frame.phase == "masked_input"]
    bits = np.zeros(0, dtype=np.uint8)
    for frame in sent:
        payload = np.frombuffer(frame.content[codec.HEADER_BYTES :], dtype=np.uint8)
        bits = np.unpackbits(payload, bitorder="little")
    return bits.astype(np.uint64)


def judge(guess: Vector, truth: Truth) -> float:
    """Which part of the parities was read, beyond what coins would: 0 for a guess, 1 for all."""
    if guess.shape != truth.vector.shape:
        return 0.0
    return float(max(0.0, 2 * np.mean(guess == truth.vector % 2) - 1))


CLAIM = Claim(
    id="T14d",
    title="A ring of two",
    adversary="malicious_server",
    asset="the signs of one client's vector",
    statement="A server cannot propose a ring so small that masks hide nothing.",
    defence="a least ring in the parameters and in each client's policy; masks uniform over the whole ring",
    dropped_assumption="fewer than t holders of the victim's shares work with the server",
    view=Exchange,
    stage=stage,
    attack=attack,
    judge=judge,
    metric="share of the victim's parities read, beyond coins",
    threshold=Threshold(succeeds=0.99, fails=0.01),
    source="secure_aggregation, section 2, weaknesses 1 and 3",
    tags=Tags(stride=("Information disclosure",), linddun=("Data disclosure",)),
    peers={flower.NAME: flower.modulus_of_two},
)
