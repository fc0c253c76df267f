"""T12: a server that shows the U-Net to one client and a dead one to all others.

Of a U-Net whose weights are all zero every gradient is zero but that of the last bias, so a sum over masks is
the victim's update and one number beside it.  The server then needs no colluder.  Here it may also rewrite
the ids in every frame (profile `semi_honest`, which signs nothing), so all that stands against it is the
digest of the model in the keys of shares and masks.

Source: Pasquini, Francati, Ateniese 2022, "Eluding Secure Aggregation in Federated Learning via Model
Inconsistency", arXiv 2111.07380, section 4.
"""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np

from secure_fed_diffusion import secagg
from secure_fed_diffusion.errors import SecureAggregationError
from secure_fed_diffusion.federation.messages import Announcement, wrap
from secure_fed_diffusion.secagg import Session
from secure_fed_diffusion.secagg.encoding import centred
from threat_models.adversaries.malicious_server import SumOverModels
from threat_models.claim import Arm, Claim, Staged, Tags, Threshold
from threat_models.staging.denoisers import by_parameter, unet
from threat_models.staging.forging import relabelled
from threat_models.staging.small_federation import (
    Floats,
    Integers,
    SmallFederation,
    chosen_digits,
    federation,
    settings_for,
)
from threat_models.weakened.keys_and_lists import without_the_model_in_the_session
from threat_models.weakened.patching import without

CLIENTS, EACH = 4, 8
_VICTIM, _ROUND = 0, 1


def stage(arm: Arm, seed: int) -> Staged[SumOverModels]:
    """Run one round of mode `none` under masks; the models are the same for all where collusion is tried."""
    settings = settings_for(
        "none",
        clients=CLIENTS,
        rounds=1,
        secagg__profile="semi_honest",
        modes__none__optimizer="sgd",
        modes__none__learning_rate=0.1,
        modes__none__batch=EACH,
    )
    images = [chosen_digits(EACH, 1000 * seed + c) for c in range(CLIENTS)]
    staged = federation(settings, unet, images, seed=seed)
    true = staged.contribution(_VICTIM, _ROUND)
    told = staged.record_contributions()
    live = staged.weights
    dead = live if arm is Arm.DROPPED else np.zeros_like(live)
    with without(without_the_model_in_the_session) if arm is Arm.OFF else nullcontext():
        try:
            total = _relayed(staged, {c: live if c == _VICTIM else dead for c in range(CLIENTS)})
        except SecureAggregationError:
            return Staged(view=SumOverModels(total=None, others=None), truth=true)
    others = None
    if arm is Arm.DROPPED:
        others = staged.decoded(sum(vector for c, vector in told.items() if c != _VICTIM), _ROUND) * _weight(
            told
        )
    summed = staged.decoded(total, _ROUND) * int(total[-1])
    return Staged(view=SumOverModels(total=summed, others=others), truth=true)


def _weight(told: dict[int, Integers]) -> int:
    return int(sum(vector[-1] for c, vector in told.items() if c != _VICTIM))


def _relayed(staged: SmallFederation, models: dict[int, Floats]) -> Integers:
    """Run a round in which each client has its own model, and every frame is relabelled for its reader."""
    announcements = {c: Announcement(_ROUND, 0, model) for c, model in models.items()}
    sessions = {c: staged.plan.session("run", _ROUND, 0, a.model_digest) for c, a in announcements.items()}
    own = sessions[max(models)]
    server = secagg.Server(own)
    frames = {c: staged.clients[c].handle(a.encode()) for c, a in announcements.items()}
    while True:
        in_setup = server.phase in ("advertise", "share_keys")
        for c, frame in frames.items():
            server.receive(c, relabelled(frame, own.id if in_setup else _round_id(own, server)))
        outgoing = server.advance()
        if not outgoing:
            return centred(server.total.astype(np.uint64), staged.release_of(_ROUND).modulus_bits)
        bound = {
            c: s.id if server.phase == "share_keys" else _round_id(s, server) for c, s in sessions.items()
        }
        frames = {
            c: staged.clients[c].handle(wrap(server.phase, relabelled(frame, bound[c])))
            for c, frame in outgoing.items()
        }


def _round_id(session: Session, server: secagg.Server) -> bytes:
    return session.slot(commitment=server.commitment).id


def attack(view: SumOverModels) -> Floats:
    """Return what is left for the victim; its direction is what counts."""
    if view.total is None:
        return np.zeros(1)
    if view.others is not None:
        return view.total - view.others
    guess = view.total.copy()
    by_parameter(unet(), guess)["conv_out.bias"][:] = 0.0  # the one place where a dead U-Net answers
    return guess


def judge(guess: Floats, truth: Floats) -> float:
    """Return the cosine between the guess and the victim's update, 0 for no guess."""
    if len(guess) != len(truth) or not guess.any():
        return 0.0
    return float(guess @ truth / np.linalg.norm(guess) / np.linalg.norm(truth))


CLAIM = Claim(
    id="T12",
    title="Inconsistent U-Nets",
    adversary="malicious_server",
    asset="one client's update",
    statement=(
        "A server that shows the victim the U-Net and all others a dead one gets no sum: the digest of the "
        "model is in the keys of every share and mask."
    ),
    defence="H(model) in the session's id, the id in every key",
    dropped_assumption="at least one other client of the cohort is honest (dropped: all others tell)",
    view=SumOverModels,
    stage=stage,
    attack=attack,
    judge=judge,
    metric="cosine of what the server isolates with the victim's update",
    threshold=Threshold(succeeds=0.9, fails=0.2),
    source="Pasquini, Francati, Ateniese 2022, arXiv 2111.07380",
    tags=Tags(stride=("Spoofing", "Information disclosure"), linddun=("Data disclosure",)),
)
