"""T31 and T31b: a network that drops, repeats, reorders and alters frames.

T31: in the middle of losses, old frames and frames sent twice, one bit of one masked input is flipped.  Under
`active` the altered frame lacks its signature and the sum is right or there is none.  Off is the profile
semi_honest, which signs nothing.  Dropped: the network has the signing key of that client.

T31b, not promised: whoever controls the channel stops every round by holding back enough frames.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion.errors import TooFewClientsError
from threat_models.adversaries.network import Aftermath
from threat_models.claim import Arm, Claim, Counts, Staged, Tags, Threshold
from threat_models.staging.recorded_round import RecordedRound
from threat_models.staging.secagg_round import plain_sum, signing_key
from threat_models.staging.wire import MeddlingNetwork

N_CLIENTS, THRESHOLD, N_ROUNDS = 4, 3, 13
N_OUTAGES = 10
Totals = tuple[npt.NDArray[np.integer[Any]] | None, ...]


def stage(arm: Arm, seed: int) -> Staged[Aftermath]:
    """Carry some rounds; the truth holds the right sum over the survivors that the server announced."""
    totals, right = [], []
    for i in range(N_ROUNDS):
        a_round = _round(arm, seed, i)
        generator = np.random.default_rng((seed, i))
        target = int(generator.integers(N_CLIENTS))
        network = MeddlingNetwork(
            a_round,
            generator,
            target,
            losses=N_CLIENTS - THRESHOLD,
            stolen=signing_key(target) if arm is Arm.DROPPED else None,
        )
        total = network.carry()
        totals.append(total)
        survivors = a_round.server.survivors if total is not None else ()
        right.append(plain_sum(a_round.session, a_round.vectors, survivors))
    return Staged(Aftermath(totals=tuple(totals)), tuple(right))


def stage_outage(arm: Arm, seed: int) -> Staged[Aftermath]:
    """Cut off one client more than a round can lose, each time in another phase."""
    totals: list[npt.NDArray[np.uint64] | None] = []
    for i in range(N_OUTAGES):
        a_round = _round(arm, seed, i)
        phases = a_round.phases
        dropouts = dict.fromkeys(range(N_CLIENTS - THRESHOLD + 1), phases[i % len(phases)])
        try:
            a_round.finish(dropouts=dropouts)
        except TooFewClientsError:
            totals.append(None)
        else:
            totals.append(a_round.server.total.astype(np.uint64))
    return Staged(Aftermath(totals=tuple(totals)), None)


def _round(arm: Arm, seed: int, number: int) -> RecordedRound:
    case = "semi_honest" if arm is Arm.OFF else "active"
    return RecordedRound.of_seed(case, 100 * seed + number, n_clients=N_CLIENTS, threshold=THRESHOLD)


def attack(view: Aftermath) -> Totals:
    """Hand out what came of it."""
    return view.totals


def judge(guess: Totals, truth: tuple[npt.NDArray[np.uint64], ...]) -> Counts:
    """In how many rounds a false sum was taken for good."""
    pairs = zip(guess, truth, strict=True)
    false = [total is not None and not np.array_equal(total, right) for total, right in pairs]
    return Counts(sum(false), len(guess))


def judge_outage(guess: Totals, truth: object) -> Counts:
    """How many rounds ended without a sum."""
    return Counts(sum(total is None for total in guess), len(guess))


FALSE_SUM = Claim(
    id="T31",
    title="A network that meddles",
    adversary="network",
    asset="the sum that everybody trains on",
    statement="Under the profile active a network that alters, repeats or reorders frames can stop a round; "
    "it cannot make a false sum.",
    defence="every client frame signed over session or round, sender, kind and content",
    dropped_assumption="the signing keys are not stolen",
    view=Aftermath,
    stage=stage,
    attack=attack,
    judge=judge,
    metric="rounds with a false sum",
    threshold=Threshold(succeeds=0.9, fails=0.1),
    source="secagg/README.md, the profile active; this project",
    tags=Tags(stride=("Tampering", "Spoofing")),
)

OUTAGE = Claim(
    id="T31b",
    title="A network that cuts clients off",
    adversary="network",
    asset="the round",
    statement="Not promised: whoever controls the channel stops a round by cutting off n - t + 1 clients.",
    defence="none: t of n clients must be heard",
    dropped_assumption=None,
    view=Aftermath,
    stage=stage_outage,
    attack=attack,
    judge=judge_outage,
    metric="rounds that end without a sum",
    threshold=Threshold(succeeds=0.9, fails=0.1),
    promised=False,
    tags=Tags(stride=("Denial of service",), atlas=("AML.T0029",)),
)

CLAIMS = (FALSE_SUM, OUTAGE)
