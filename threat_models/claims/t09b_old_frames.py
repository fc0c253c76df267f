"""T9b: frames of one round put into the next, as they are or under the header of the new one.

Every frame is bound to its session and round, and signed over that binding, so an old one is refused.  In the
profile `semi_honest` nothing is signed: the network writes the new round's id over the old one and is
believed.

Source: threats_and_audit.md, T9 (replay); secagg/codec.py.
"""

from __future__ import annotations

from contextlib import ExitStack

from secure_fed_diffusion.errors import SecureAggregationError
from threat_models.adversaries.network import Refusals
from threat_models.claim import Arm, Claim, Counts, Staged, Tags, Threshold
from threat_models.staging import forging
from threat_models.staging.secagg_round import Round, make_params, make_session
from threat_models.weakened.keys_and_lists import without_signatures
from threat_models.weakened.patching import without

N_CLIENTS = 5


def stage(arm: Arm, seed: int) -> Staged[Refusals]:
    """Give the server each client's frame of round 0 in round 1, before the client's own arrives."""
    profile = "semi_honest" if arm is Arm.DROPPED else "active"
    params = make_params(N_CLIENTS, 4, profile=profile, n_rounds=2)
    accepted = []
    with ExitStack() as stack:
        if arm is Arm.OFF:
            stack.enter_context(without(without_signatures))
        a_round = Round(make_session(params, run_id=f"seed {seed}".encode()), label=f"{seed}")
        a_round.run_to("masked_input")
        old = {}
        while a_round.server.phase != "done":
            old[a_round.server.phase] = a_round.answers()
            a_round.close(old[a_round.server.phase])
        a_round.begin(1)
        while a_round.server.phase != "done":
            phase, own = a_round.server.phase, a_round.answers()
            for v in sorted(own):
                if _takes(a_round, v, old[phase][v]):
                    accepted.append(True)
                else:
                    forged = forging.relabelled(bytes(old[phase][v]), forging.round_id(a_round))
                    accepted.append(_takes(a_round, v, forged))
                    if not accepted[-1]:
                        a_round.server.receive(v, own[v])
            try:
                a_round.inbox = a_round.server.advance()
            except SecureAggregationError:
                break  # the old shares do not open the new round: it ends without a sum
    return Staged(Refusals(accepted=tuple(accepted)), None)


def _takes(a_round: Round, client_id: int, frame: bytes) -> bool:
    try:
        a_round.server.receive(client_id, frame)
    except SecureAggregationError:
        return False
    return True


def attack(view: Refusals) -> tuple[bool, ...]:
    """See which frames were taken for new."""
    return view.accepted


def judge(guess: tuple[bool, ...], truth: None) -> Counts:
    """Count them."""
    return Counts(sum(guess), len(guess))


CLAIM = Claim(
    id="T9b",
    title="Frames of an earlier round",
    adversary="network",
    asset="the sum that everybody trains on",
    statement="No frame of one round is taken for one of another, whatever header is put on it.",
    defence="every frame is signed over its session and round",
    dropped_assumption="frames are signed (profile active)",
    view=Refusals,
    stage=stage,
    attack=attack,
    judge=judge,
    metric="share of replayed frames that the server takes",
    threshold=Threshold(succeeds=0.9, fails=0.1),
    source="threats_and_audit.md, T9",
    tags=Tags(stride=("Spoofing", "Tampering"), atlas=("AML.T0031",)),
)
