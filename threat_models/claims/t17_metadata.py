"""T17: what travels beside the masked vector: the number of images, the loss, the length of a frame.

Flower's `FitRes` carries `num_examples` and all metrics in clear.  Ours carries them, where a run wants them,
as further masked coordinates.  They are then as safe as a coordinate is: with n−1 accomplices who know their
own counts the sum gives the last one away (mode `distributed` and `client` send none, their divisor is
public).

Source: secure_aggregation.md, section 2, weakness 6.
"""

from __future__ import annotations

import struct
from contextlib import nullcontext

import numpy as np

from secure_fed_diffusion.secagg import FixedPoint
from threat_models.adversaries.curious_server import ClientFrames
from threat_models.claim import Arm, Claim, Staged, Tags, Threshold
from threat_models.peers import flower_secagg_plus as flower
from threat_models.staging.forging import HEADER
from threat_models.staging.secagg_round import Round, make_params, make_session
from threat_models.weakened.metadata import FRACTION_BITS, without_masked_metadata
from threat_models.weakened.patching import without

N_CLIENTS, VICTIM, N_WEIGHTS = 5, 0, 32
LEAST, MOST = 1_000, 100_000


def stage(arm: Arm, seed: int) -> Staged[ClientFrames]:
    """Send update, count and loss as one vector; record what the victim sends."""
    generator = np.random.default_rng(seed)
    counts = generator.integers(LEAST, MOST, size=N_CLIENTS)
    grid = FixedPoint(clip=1.0, fraction_bits=FRACTION_BITS, modulus_bits=32, max_clients=N_CLIENTS)
    params = make_params(N_CLIENTS, 4, dimension=N_WEIGHTS + 2)
    with without(without_masked_metadata) if arm is Arm.OFF else nullcontext():
        a_round = Round(make_session(params, run_id=f"seed {seed}".encode()), label=f"{seed}")
        for v, count in enumerate(counts):
            weights = grid.encode(generator.uniform(-1, 1, N_WEIGHTS)).vector
            loss = round(generator.uniform(0.1, 2.0) * 2**FRACTION_BITS)
            a_round.vectors[v] = np.concatenate([weights, np.array([count, loss], dtype=np.uint32)])
        sent = []
        for phase in ("advertise", "share_keys", "masked_input"):
            answers = a_round.answers()
            sent.append(bytes(answers[VICTIM]))
            if phase != "masked_input":
                a_round.close(answers)
    accomplices: dict[int, int] = {}
    total = None
    if arm is Arm.DROPPED:
        a_round.close(answers)
        a_round.finish()
        total = int(a_round.server.total[-2])
        accomplices = {v: int(count) for v, count in enumerate(counts) if v != VICTIM}
    view = ClientFrames(frames=tuple(sent), count_coordinate=total, told_counts=accomplices)
    return Staged(view, int(counts[VICTIM]))


def attack(view: ClientFrames) -> int | None:
    """Take the accomplices' counts off the sum; else look for a number of the right size in every frame."""
    if view.count_coordinate is not None and view.told_counts:
        return view.count_coordinate - sum(view.told_counts.values())
    for frame in reversed(view.frames):
        payload = frame[HEADER:]
        for form in ("<Q", ">Q", "<d", ">d"):
            width = struct.calcsize(form)
            for start in reversed(range(len(payload) - width + 1)):
                (value,) = struct.unpack_from(form, payload, start)
                if LEAST <= value < MOST and value == int(value):
                    return int(value)
    return None


def judge(guess: int | None, truth: int) -> float:
    """Return 1 if the count was read exactly."""
    return float(guess == truth)


CLAIM = Claim(
    id="T17",
    title="Counts and losses beside the vector",
    adversary="curious_server",
    asset="how many images a client has",
    statement=(
        "Nothing that a client sends in clear depends on how many images it has or how well it fits them."
    ),
    defence="counts and metrics are masked coordinates, or are not sent",
    dropped_assumption="at least one other client does not tell the server its own count",
    view=ClientFrames,
    stage=stage,
    attack=attack,
    judge=judge,
    metric="share of trials in which the count is read exactly",
    threshold=Threshold(succeeds=0.99, fails=0.01),
    source="secure_aggregation.md, section 2",
    tags=Tags(stride=("Information disclosure",), linddun=("Detecting", "Data disclosure")),
    peers={flower.NAME: flower.counts_beside_the_vector},
)
