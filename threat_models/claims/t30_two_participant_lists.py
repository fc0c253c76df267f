"""T30: a server that lies in the rounds of one set-up: different participants to different clients.

In the set-up it passes the victim the shares of two peers alone; then it names to the victim two others as
the participants of the next round, and to the rest everybody.  The victim would mask with nobody but itself,
and the rest, who see it on the survivor list, would open its self mask.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from secure_fed_diffusion.secagg import codec
from secure_fed_diffusion.secagg.messages import ShareDelivery
from secure_fed_diffusion.secagg.phases import Kind
from threat_models.adversaries.malicious_server import Exchange
from threat_models.claim import Arm, Claim, Staged, Tags, Threshold
from threat_models.staging import forging
from threat_models.staging.reading import read_input
from threat_models.staging.recorded_round import VICTIM, RecordedRound, coordinates_read
from threat_models.staging.secagg_round import model_of
from threat_models.weakened.keys_and_lists import without_a_check_of_participants
from threat_models.weakened.patching import without

N_CLIENTS, THRESHOLD = 5, 3
KNOWN, NAMED = (1, 2), (VICTIM, 3, 4)


def stage(arm: Arm, seed: int) -> Staged[Exchange]:
    """Give the victim a round of its own, and let the others unmask theirs with it on the list.

    With t accomplices there is no need to lie about participants, and the server does not.
    """
    with without(without_a_check_of_participants) if arm is Arm.OFF else nullcontext():
        a_round = RecordedRound.of_seed(
            "active", seed, n_clients=N_CLIENTS, threshold=THRESHOLD, n_rounds=2
        ).run_to("masked_input")
        named = a_round.session.cohort if arm is Arm.DROPPED else NAMED
        alone: dict[str, Any] = {"model_digest": model_of(1), "participants": named}
        slot = a_round.session.slot(1, commitment=a_round.server.commitment, **alone)
        sealed = forging.delivery_of(a_round, VICTIM).sealed
        some = ShareDelivery(sealed=sealed if arm is Arm.DROPPED else {v: sealed[v] for v in KNOWN})
        a_round.finish(dropouts={VICTIM: "masked_input"})
        a_round.begin_apart(1, {VICTIM: alone}, model_digest=model_of(1))
        payload = some.encode(a_round.session.params)
        opening = codec.pack(Kind.SHARE_DELIVERY, session_id=slot.id, client_id=VICTIM, payload=payload)
        a_round.ask(VICTIM, "masked_input", opening)
        others = sorted(set(a_round.session.cohort) - {VICTIM})
        for v in others:
            a_round.ask(v, "masked_input", a_round.inbox[v])
        told = a_round.tell(range(1, THRESHOLD + 1) if arm is Arm.DROPPED else ())
        a_round.unmask_after(dict.fromkeys(others, a_round.session.cohort))
        return a_round.staged(told=told, participants=named)


CLAIM = Claim(
    id="T30",
    title="Two lists of participants",
    adversary="malicious_server",
    asset="one client's vector",
    statement=(
        "Naming participants gives a server no more than naming dropouts does: no client enters a round "
        "masked with fewer than t holders of its secrets."
    ),
    defence="a later round is entered only with t holders that the client masks with",
    dropped_assumption="at most 2t − holders − 1 holders of the victim's shares work with the server",
    view=Exchange,
    stage=stage,
    attack=read_input,
    judge=coordinates_read,
    metric="share of the victim's coordinates read exactly",
    threshold=Threshold(succeeds=0.99, fails=0.01),
    source="secagg/README.md, why several rounds cost no privacy; this project",
    tags=Tags(stride=("Information disclosure",), linddun=("Data disclosure",)),
)
