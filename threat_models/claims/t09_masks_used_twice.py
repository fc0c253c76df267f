"""T9: masks used twice; the difference of two masked vectors is the difference of the vectors.

Round number and cohort are in the derivation of every mask, and each round of a set-up has keys and seeds of
its own.  Both rest on the client's generator: one that repeats its output (a virtual machine that was cloned
while it ran), asked to join the same session twice, uses the same masks twice.

Source: threats_and_audit.md, T9; Fed-BioMed's masking, where a round number used twice is a two-time pad.
"""

from __future__ import annotations

from contextlib import nullcontext

from threat_models.adversaries.curious_server import MaskedVectors
from threat_models.claim import Arm, Claim, Staged, Tags, Threshold
from threat_models.staging.forging import masked_vector_of
from threat_models.staging.secagg_round import Round, make_params, make_session, make_vectors
from threat_models.staging.two_vectors import Ring, difference, share_read
from threat_models.weakened.masks_and_seeds import without_the_round_in_the_derivation
from threat_models.weakened.patching import without

DIMENSION, VICTIM = 256, 0


def stage(arm: Arm, seed: int) -> Staged[MaskedVectors]:
    """Run two rounds of one set-up; in `dropped` two sessions of the same name with a cloned generator."""
    params = make_params(dimension=DIMENSION, n_rounds=2)
    session = make_session(params, run_id=f"seed {seed}".encode())
    seen, inputs = [], []
    with without(without_the_round_in_the_derivation) if arm is Arm.OFF else nullcontext():
        a_round = Round(session, label=f"{seed}")
        for number in range(2):
            if number and arm is Arm.DROPPED:
                a_round = Round(session, label=f"{seed}")
            elif number:
                a_round.begin(number)
            a_round.vectors = make_vectors(session, seed=2 * seed + number)
            a_round.run_to("masked_input")
            frames = a_round.answers()
            seen.append(masked_vector_of(a_round, frames[VICTIM]))
            inputs.append(a_round.vectors[VICTIM])
            a_round.close(frames)
            a_round.finish()
    return Staged(MaskedVectors(vectors=tuple(seen)), difference(tuple(inputs)))


def attack(view: MaskedVectors) -> Ring:
    """Subtract one masked vector from the other."""
    return difference(view.vectors)


CLAIM = Claim(
    id="T9",
    title="Masks used twice",
    adversary="curious_server",
    asset="the change of one client's vector between rounds",
    statement="No mask is used twice: two masked vectors of a client say nothing about their difference.",
    defence="round and cohort in every key derivation; fresh keys and seeds for each round",
    dropped_assumption="a client's generator does not repeat its output (it was cloned)",
    view=MaskedVectors,
    stage=stage,
    attack=attack,
    judge=share_read,
    metric="share of coordinates of x₁ − x₀ read exactly",
    threshold=Threshold(succeeds=0.99, fails=0.01),
    source="threats_and_audit.md, T9",
    tags=Tags(stride=("Information disclosure",), linddun=("Data disclosure", "Linking")),
)
