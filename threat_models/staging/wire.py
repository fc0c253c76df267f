"""A network between the clients and the server that drops, repeats, reorders and alters frames.

Everything else runs as it does without it: real machines, which refuse what they refuse.  A server that takes
a frame by mistake goes on with it; a round that loses too many ends with no total.

Not for anything but claims.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion import secagg
from secure_fed_diffusion.errors import SecureAggregationError, TooFewClientsError
from secure_fed_diffusion.secagg import codec
from secure_fed_diffusion.secagg.phases import DONE
from threat_models.staging import forging
from threat_models.staging.recorded_round import RecordedRound


@dataclass(slots=True)
class MeddlingNetwork:
    """Carries one round; `losses` are the clients that it may cost, `stolen` a client's signing key."""

    a_round: RecordedRound
    generator: np.random.Generator
    target: int
    losses: int
    stolen: secagg.SigningKey | None = None
    _archive: list[bytes] = field(default_factory=list)  # frames of clients, to be sent again
    _shown: list[bytes] = field(default_factory=list)  # frames of the server, to be sent again

    def carry(self) -> npt.NDArray[np.uint64] | None:
        """Run the round; return the server's total, or None if it got none."""
        server = self.a_round.server
        while server.phase != DONE:
            phase, answers = server.phase, {}
            for v in self._shuffled(self.a_round.inbox):
                if (answer := self._down(v, phase)) is not None:
                    answers[v] = answer
            for v in self._shuffled(answers):
                self._up(v, phase, answers[v])
            try:
                self.a_round.inbox = server.advance()
            except TooFewClientsError:
                return None
        return server.total.astype(np.uint64)

    def _down(self, client_id: int, phase: str) -> bytes | None:
        """Bring a client its frame, or an old one, or none."""
        frame = self.a_round.inbox[client_id]
        if self._meddles_with(client_id):
            self.losses -= 1
            if not self._shown or self.generator.random() < 0.5:
                return None
            stale = self._shown[int(self.generator.integers(len(self._shown)))]
            return self.a_round.ask(client_id, phase, stale)
        if frame:
            self._shown.append(frame)
        return self.a_round.ask(client_id, phase, frame)

    def _up(self, client_id: int, phase: str, answer: bytes) -> None:
        """Bring the server an old frame, an altered one of the target's, then the right one, twice."""
        tried = []
        if self._archive:
            tried.append(self._archive[int(self.generator.integers(len(self._archive)))])
        if client_id == self.target and phase == "masked_input":
            tried.append(self._altered(answer))
        self._archive.append(answer)
        for frame in (*tried, answer, answer):
            try:
                self.a_round.server.receive(client_id, frame)
            except SecureAggregationError:
                continue

    def _altered(self, frame: bytes) -> bytes:
        """Flip one bit of a coordinate, and sign the result if there is a key to sign with."""
        place = codec.HEADER_BYTES + 4 * int(self.generator.integers(self.a_round.session.params.dimension))
        flipped = frame[:place] + bytes([frame[place] ^ 1]) + frame[place + 1 :]
        if self.stolen is None:
            return flipped
        return forging.signed_again(self.a_round, self.target, flipped, self.stolen)

    def _meddles_with(self, client_id: int) -> bool:
        return client_id != self.target and self.losses > 0 and self.generator.random() < 0.05

    def _shuffled(self, among: dict[int, bytes]) -> list[int]:
        order = sorted(among)
        self.generator.shuffle(order)
        return order
