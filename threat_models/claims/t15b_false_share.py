"""T15b: a client that gives a false share of another's secret, when there is none to spare.

The server puts the shares together, finds that they do not give what their owner committed to, and ends the
round: no total rather than a false one.  (With one share to spare the false one is left out and the pair is
noted.)  Dropped: the owner itself masks with another seed than it committed to.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion.errors import RecoveryError
from secure_fed_diffusion.secagg.keyring import RoundSecrets
from secure_fed_diffusion.secagg.messages import UnmaskShares
from threat_models.adversaries.poisoner import Published
from threat_models.claim import Arm, Claim, Staged, Tags, Threshold
from threat_models.staging import forging
from threat_models.staging.recorded_round import RecordedRound
from threat_models.staging.secagg_round import plain_sum, signing_key
from threat_models.weakened.keys_and_lists import without_the_check_of_recovered_secrets
from threat_models.weakened.patching import without

LIAR, ABSENT = 2, 0
Sum = npt.NDArray[np.integer[Any]]


def stage(arm: Arm, seed: int) -> Staged[Published]:
    """Let one client lie about its shares, or mask with a seed of its own; the truth is the right sum."""
    with without(without_the_check_of_recovered_secrets) if arm is Arm.OFF else nullcontext():
        a_round = RecordedRound.of_seed("active", seed).run_to("masked_input")
        if arm is Arm.DROPPED:
            ring = a_round.clients[LIAR]._setup.keyring
            ring.rounds[0] = RoundSecrets(ring.rounds[0].mask_key, bytes(32))
        a_round.run_to("unmask")
        frames = a_round.answers(without=[ABSENT])  # t are left: none to spare
        if arm is not Arm.DROPPED:
            frames[LIAR] = _with_false_shares(a_round, frames[LIAR])
        right = plain_sum(a_round.session, a_round.vectors, a_round.session.cohort)
        try:
            a_round.close(frames)
        except RecoveryError:
            return Staged(Published(total=None), right)
        return Staged(Published(total=a_round.server.total.astype(np.uint64)), right)


def _with_false_shares(a_round: RecordedRound, frame: bytes) -> bytes:
    told = forging.unmask_shares_of(a_round, frame)
    lie = UnmaskShares(self_mask={v: share ^ 1 for v, share in told.self_mask.items()}, mask_key={})
    return forging.signed_payload(a_round, LIAR, frame, lie.encode(), signing_key(LIAR))


def attack(view: Published) -> Sum | None:
    """Hand out what came of it."""
    return view.total


def judge(guess: Sum | None, truth: Sum) -> float:
    """Which part of the published coordinates is false; nothing published is nothing false."""
    return 0.0 if guess is None else float(np.mean(guess != truth))


CLAIM = Claim(
    id="T15b",
    title="A false share",
    adversary="poisoner",
    asset="the sum that everybody trains on",
    statement="A client that lies about shares can stop a round; it cannot get a false sum published.",
    defence="each recovered secret is checked against what its owner advertised or committed to",
    dropped_assumption="the secret's owner is honest (a lying owner may as well send any vector, T34)",
    view=Published,
    stage=stage,
    attack=attack,
    judge=judge,
    metric="share of the published sum that is false",
    threshold=Threshold(succeeds=0.99, fails=0.01),
    source="secure_aggregation, section 3; threats_and_audit, T15",
    tags=Tags(stride=("Tampering",), atlas=("AML.T0031",)),
)
