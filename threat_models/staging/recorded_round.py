"""A round of the real machines whose every frame is kept: what a malicious server's `Exchange` is made of.

`ask` lets a client take a step on a frame that the adversary chose; a client that refuses says nothing, and
the refusal goes to the truth, for tests to look at.  `tell` is an accomplice handing over what it holds.

Not for anything but claims and tests: keys and vectors follow from the seed.

>>> a_round = RecordedRound.of_seed("active", 0).run_to("consistency")
>>> len(a_round.frames), a_round.exchange().victim
(25, 0)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion import secagg
from secure_fed_diffusion.errors import SecureAggregationError
from threat_models.adversaries.malicious_server import OURS, Exchange, Frame
from threat_models.claim import Staged
from threat_models.staging import forging
from threat_models.staging.secagg_round import (
    CASES,
    Round,
    make_params,
    make_session,
    make_vectors,
)

VICTIM = 0
DIMENSION = 64


@dataclass(frozen=True, slots=True)
class Refusal:
    """A client that would not go on: its own words, which no server hears."""

    client_id: int
    phase: str
    error: str
    message: str
    culprits: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Truth:
    """What the judge compares with, and what the tests look at."""

    vector: npt.NDArray[np.uint64]
    refusals: tuple[Refusal, ...] = field(default=(), repr=False)


def coordinates_read(guess: npt.NDArray[np.uint64], truth: Truth) -> float:
    """Return which part of the true vector was found exactly; by luck, 2^-32 of it."""
    return float(np.mean(guess == truth.vector)) if guess.shape == truth.vector.shape else 0.0


class RecordedRound(Round):
    """A `Round` that keeps frames and refusals; `number` is the round of the set-up that is on."""

    def __init__(self, session: secagg.Session | None = None, **settings: Any) -> None:
        self.frames: list[Frame] = []
        self.refusals: list[Refusal] = []
        self.number = 0
        super().__init__(session, **settings)

    @classmethod
    def of_seed(
        cls,
        case: str,
        seed: int,
        *,
        policy: secagg.Policy | None = None,
        real: Iterable[int] | None = None,
        roster: secagg.Roster | None = None,
        **changes: Any,
    ) -> Self:
        """Make a round whose session, keys and vectors are the seed's own; `changes` are parameters."""
        params = make_params(**(CASES[case] | {"dimension": DIMENSION} | changes))
        bound_to: dict[str, Any] = {"run_id": f"seed {seed}".encode()}
        if roster is not None:
            bound_to["roster"] = roster
        a_round = cls(make_session(params, **bound_to), label=f"{seed}", policy=policy, real=real)
        a_round.vectors = make_vectors(a_round.session, seed)
        return a_round

    def step(self, client_id: int, phase: str, frame: bytes) -> bytes:
        """Let a client take a step, and keep both frames."""
        if frame:
            self.frames.append(Frame("server", client_id, phase, frame, self.number))
        answer = self._deliver(client_id, phase, frame)
        if answer:
            self.frames.append(Frame(client_id, "server", phase, bytes(answer), self.number))
        return answer

    def _deliver(self, client_id: int, phase: str, frame: bytes) -> bytes:
        """Bring a client its frame and return its answer; over another transport, where there is one."""
        return super().step(client_id, phase, frame)

    def ask(self, client_id: int, phase: str, frame: bytes) -> bytes | None:
        """Let a client take a step on any frame; None if it refuses."""
        try:
            return self.step(client_id, phase, frame)
        except SecureAggregationError as error:
            self.refusals.append(
                Refusal(client_id, phase, type(error).__name__, str(error), tuple(error.culprits))
            )
            return None

    def begin_apart(self, number: int, bound_to: Mapping[int, Mapping[str, Any]], **of_the_rest: Any) -> None:
        """Open a further round that the server describes to some clients in another way than to the rest."""
        self.number = number
        self.inbox = self.server.begin(number, **of_the_rest)
        for v in self.inbox:
            self.clients[v].begin(number, **bound_to.get(v, of_the_rest))

    def tell(self, client_ids: Iterable[int]) -> dict[int, dict[int, tuple[int, int]]]:
        """Return the shares that these accomplices hold in the open round."""
        held = forging.shares_held_by(self, client_ids)
        return {v: {u: (pair.mask_key, pair.self_mask) for u, pair in held[v].items()} for v in held}

    def own_secrets_of(self, client_ids: Iterable[int]) -> dict[int, tuple[bytes, bytes]]:
        """Return the private keys (sealing, masking) of these accomplices, before the round uses them."""
        rings = {v: self.clients[v]._setup.keyring for v in client_ids}
        return {v: (ring.cipher_key, ring.rounds[self.number].mask_key) for v, ring in rings.items()}

    def unmask_after(self, lists: Mapping[int, Iterable[int]], *, signed_by: Iterable[int] = ()) -> None:
        """Show each client its survivor list, then the signatures over that list, as the profile has it.

        `signed_by` are accomplices, who sign every list; whoever refuses a list signs none.
        """
        told = {v: frozenset(ids) for v, ids in lists.items()}
        if not self.session.params.signed:
            for v, ids in told.items():
                self.ask(v, "unmask", forging.survivor_frame(self, v, ids))
            return
        signatures: dict[frozenset[int], dict[int, bytes]] = {
            ids: {v: forging.signature_of(self, v, ids) for v in signed_by} for ids in set(told.values())
        }
        for v, ids in told.items():
            answer = self.ask(v, "consistency", forging.survivor_frame(self, v, ids))
            if answer is not None:
                signatures[ids][v] = forging.signature_in(answer)
        for v, ids in told.items():
            if v in signatures[ids]:
                self.ask(v, "unmask", forging.consistency_frame(self, v, signatures[ids]))

    def exchange(self, **told: Any) -> Exchange:
        """Return what the server has seen, with what accomplices and its own keys add."""
        params = self.session.params
        settings = {"threshold": params.threshold, "round": self.number, **told}
        return Exchange(
            protocol=OURS,
            victim=VICTIM,
            frames=tuple(self.frames),
            params=params,
            session_id=self.session.id,
            **settings,
        )

    def staged(self, vector: npt.NDArray[Any] | None = None, **told: Any) -> Staged[Exchange]:
        """Return the trial: the exchange, and the victim's vector (or another) as the truth."""
        truth = self.vectors[VICTIM] if vector is None else vector
        return Staged(self.exchange(**told), Truth(truth.astype(np.uint64), tuple(self.refusals)))
