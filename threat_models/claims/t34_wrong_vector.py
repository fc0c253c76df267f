"""T34 and T34b: what one client can do to everybody else's round, and no secure sum without proofs stops.

T34: it sends any vector of the ring, here -1000 times the mean of the others, past its own clip: the sum
points the other way.  T34b: in the set-up it seals garbage for everyone; each receiver refuses, names it, and
is gone, so the round ends.  Off is without masks, or without signatures; on has everything on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion import secagg
from secure_fed_diffusion.errors import TooFewClientsError
from secure_fed_diffusion.secagg.encoding import centred
from secure_fed_diffusion.secagg.messages import Shares
from threat_models.adversaries.poisoner import Published
from threat_models.claim import Arm, Claim, Staged, Tags, Threshold
from threat_models.staging import forging
from threat_models.staging.recorded_round import RecordedRound
from threat_models.staging.secagg_round import signing_key

LIAR, BOOST, N_CLIENTS = 3, 1000, 5
Sum = npt.NDArray[np.integer[Any]]


def stage(arm: Arm, seed: int) -> Staged[Published]:
    """Sum four updates on the grid and one vector that no clip saw; the truth is the mean of the four."""
    a_round = RecordedRound.of_seed("unsafe_unmasked" if arm is Arm.OFF else "active", seed)
    dimension = a_round.session.params.dimension
    grid = secagg.FixedPoint(clip=1.0, fraction_bits=16, modulus_bits=32, max_clients=N_CLIENTS)
    generator = np.random.default_rng(seed)
    updates = {v: 0.2 + generator.normal(0, 0.1, dimension) for v in a_round.session.cohort if v != LIAR}
    a_round.vectors = {v: grid.encode(update).vector for v, update in updates.items()}
    honest = np.mean(list(updates.values()), axis=0)
    false = np.rint(-BOOST * honest * 2**grid.fraction_bits).astype(np.int64)
    a_round.vectors[LIAR] = false.astype(np.uint64) & np.uint64(2**32 - 1)
    a_round.finish()
    return Staged(Published(total=a_round.server.total.astype(np.uint64)), honest)


def stage_equivocation(arm: Arm, seed: int) -> Staged[Published]:
    """Seal garbage for everyone; the truth is what the others said as they refused."""
    a_round = RecordedRound.of_seed("semi_honest" if arm is Arm.OFF else "active", seed).run_to("share_keys")
    frames = a_round.answers()
    frames[LIAR] = _garbage(a_round, frames[LIAR], seed)
    a_round.close(frames)
    answers = {v: a_round.ask(v, "masked_input", frame) for v, frame in a_round.inbox.items() if v != LIAR}
    for v, answer in answers.items():
        if answer is not None:
            a_round.server.receive(v, answer)
    try:
        a_round.inbox = a_round.server.advance()
    except TooFewClientsError:
        return Staged(Published(total=None), tuple(a_round.refusals))
    a_round.finish()
    return Staged(Published(total=a_round.server.total.astype(np.uint64)), tuple(a_round.refusals))


def _garbage(a_round: RecordedRound, frame: bytes, seed: int) -> bytes:
    params, generator = a_round.session.params, np.random.default_rng(seed)
    shares = Shares.decode(forging.payload_of(a_round, frame), params)
    sealed = {v: generator.bytes(len(row)) for v, row in shares.sealed.items()}
    payload = Shares(commitments=shares.commitments, sealed=sealed).encode(params)
    return forging.signed_payload(a_round, LIAR, frame, payload, signing_key(LIAR))


def attack(view: Published) -> Sum | None:
    """Hand out what came of it."""
    return view.total


def judge(guess: Sum | None, truth: npt.NDArray[np.float64]) -> float:
    """How far the sum points away from the honest mean: minus the cosine."""
    if guess is None:
        return 0.0
    total = centred(guess.astype(np.uint64), 32).astype(np.float64)
    return float(-(total @ truth) / (np.linalg.norm(total) * np.linalg.norm(truth)))


def judge_equivocation(guess: Sum | None, truth: object) -> float:
    """Whether the round ended without a sum."""
    return float(guess is None)


WRONG_VECTOR = Claim(
    id="T34",
    title="A client that sends a wrong vector",
    adversary="poisoner",
    asset="the sum that everybody trains on",
    statement="Not promised: one client can decide the sum; masks hide its vector, no proof bounds it.",
    defence="none: the clip is the client's own, and masking hides that it was skipped",
    dropped_assumption=None,
    view=Published,
    stage=stage,
    attack=attack,
    judge=judge,
    metric="minus the cosine of the sum with the honest mean",
    threshold=Threshold(succeeds=0.99, fails=0.1),
    promised=False,
    source="threats_and_audit, T16; integer_mechanism, section 6 (norm proofs: a non-goal, with its reason)",
    tags=Tags(stride=("Tampering",), atlas=("AML.T0020",)),
)

EQUIVOCATION = Claim(
    id="T34b",
    title="A client that lies in the set-up",
    adversary="poisoner",
    asset="the round",
    statement="Not promised: one client that seals garbage in the set-up ends the round; it is named.",
    defence="none for the round; its name, and whoever got its garbage has paid nothing for it",
    dropped_assumption=None,
    view=Published,
    stage=stage_equivocation,
    attack=attack,
    judge=judge_equivocation,
    metric="rounds that end without a sum",
    threshold=Threshold(succeeds=0.99, fails=0.01),
    promised=False,
    source="secagg/README.md, what is not protected",
    tags=Tags(stride=("Denial of service",), atlas=("AML.T0029",)),
)

CLAIMS = (WRONG_VECTOR, EQUIVOCATION)
