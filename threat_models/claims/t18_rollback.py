"""T18: a client's state is rolled back; it answers the same step twice, with the same masks.

A client that outlives its process writes snapshots.  Whoever can restart it from an old one (an operator, a
cluster that moves it, a server that makes it crash) gets a second answer under the same masks.  A latch, kept
apart from the snapshot, lets each step be answered one way only.  A copy of the whole machine rolls the latch
back too: the promise ends there.

Source: secagg/client.py, `Client.snapshot`; Parno et al., Memoir (2011), on rollback of sealed state.
"""

from __future__ import annotations

from secure_fed_diffusion import secagg
from secure_fed_diffusion.errors import PolicyError
from threat_models.adversaries.malicious_server import RepeatedRound
from threat_models.claim import Arm, Claim, Staged, Tags, Threshold
from threat_models.staging.forging import masked_vector_of
from threat_models.staging.secagg_round import (
    Round,
    fixed_entropy,
    make_params,
    make_session,
    make_vectors,
    signing_key,
)
from threat_models.staging.two_vectors import Ring, difference, share_read

DIMENSION, VICTIM = 256, 0


class Disk:
    """A latch that a restarted process finds as it was left."""

    def __init__(self, written: dict[bytes, bytes] | None = None) -> None:
        self.written = dict(written or {})

    def __call__(self, key: bytes, value: bytes) -> bool:
        """Write once; True if this very value is there."""
        return self.written.setdefault(key, value) == value


def never_refuses(key: bytes, value: bytes) -> bool:
    """Stand in for a latch that is not there."""
    return True


def stage(arm: Arm, seed: int) -> Staged[RepeatedRound]:
    """Snapshot the victim before its masked input, let it answer, restore it and let it answer again."""
    session = make_session(make_params(dimension=DIMENSION, profile="active"), run_id=f"seed {seed}".encode())
    latch: secagg.Latch = never_refuses if arm is Arm.OFF else Disk()
    a_round = Round(session, label=f"{seed}", latches={VICTIM: latch})
    a_round.run_to("masked_input")
    snapshot = a_round.clients[VICTIM].snapshot()
    at_snapshot = Disk(latch.written) if isinstance(latch, Disk) else latch
    vectors = [make_vectors(session, seed=2 * seed + turn)[VICTIM] for turn in range(2)]
    seen = []
    for turn, vector in enumerate(vectors):
        if turn:
            a_round.clients[VICTIM] = secagg.Client.restore(
                session,
                VICTIM,
                snapshot,
                latch=at_snapshot if arm is Arm.DROPPED else latch,
                policy=a_round.policy,
                entropy=fixed_entropy(f"{seed} again"),
                signer=signing_key(VICTIM),
            )
        a_round.vectors[VICTIM] = vector  # another batch, other noise: an honest client's next try differs
        try:
            frame = a_round.answer(VICTIM)
        except PolicyError:
            continue
        seen.append(masked_vector_of(a_round, frame))
    return Staged(RepeatedRound(vectors=tuple(seen)), difference(tuple(vectors)))


def attack(view: RepeatedRound) -> Ring:
    """Subtract the first answer from the second."""
    return difference(view.vectors)


CLAIM = Claim(
    id="T18",
    title="Rollback of a client's state",
    adversary="malicious_server",
    asset="the change of one client's vector between two answers",
    statement="A client restored from an old snapshot never answers a step in a second way.",
    defence="a latch: every answer's digest is written once, before the answer leaves",
    dropped_assumption="the latch lies where a rollback of the client does not reach",
    view=RepeatedRound,
    stage=stage,
    attack=attack,
    judge=share_read,
    metric="share of coordinates of x₁ − x₀ read exactly",
    threshold=Threshold(succeeds=0.99, fails=0.01),
    source="Parno et al., IEEE S&P 2011",
    tags=Tags(stride=("Information disclosure", "Tampering"), linddun=("Data disclosure",)),
)
