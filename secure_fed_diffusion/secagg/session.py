"""What everything is bound to: the session of a key set-up, and the rounds that it pays for.

A session's id stands in the frames of the set-up and salts what is sealed there; a round's id stands in
its own frames and salts its masks.  Two parties that differ in run, round, attempt, parameters, cohort,
roster or model have different ids, so their frames are refused and their masks do not cancel: a
replayed frame, a reused mask and a model that the server showed to one client only all fail (arXiv
2111.07380 for the last).

Not protected against: the ids name the round, they do not authenticate the server.

>>> params = SecAggParams(n_clients=3, threshold=2, dimension=4, modulus_bits=8, n_rounds=5)
>>> session = Session(run_id=b"run", round=0, attempt=0, cohort=(7, 2, 9), params=params,
...                   model_digest=bytes(32))
>>> session.cohort, session.slot(3, model_digest=bytes(32)).participants
((2, 7, 9), (2, 7, 9))
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256

from ..errors import ConfigError
from .graph import Graph
from .params import SecAggParams, require_integer
from .signing import Roster

SUITE = b"secure_fed_diffusion secagg v3: X25519, HKDF-SHA-256, AES-256-GCM, AES-256-CTR, Ed25519, Shamir"
LABEL_SLOT = b"secure_fed_diffusion secagg v3 round of a session"
DIGEST_BYTES = 32
NO_COMMITMENT = bytes(DIGEST_BYTES)
MAX_ID = (1 << 32) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One attempt at one key set-up; `round` and `model_digest` are those of its first round.

    `cohort` is sorted on construction; `id` (32 bytes) and `graph` follow from the rest.  `roster` is
    each party's own pinned copy: needed under the profile `active`, refused under the others.
    """

    run_id: bytes
    round: int
    attempt: int
    cohort: tuple[int, ...]
    params: SecAggParams
    model_digest: bytes
    roster: Roster | None = None
    id: bytes = field(init=False, repr=False)
    graph: Graph = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for key in ("round", "attempt"):
            require_integer(key, getattr(self, key), 0, MAX_ID)
        if not isinstance(self.run_id, bytes):
            raise ConfigError(f"expected bytes, got {type(self.run_id).__name__}", key="run_id")
        require_digest("model_digest", self.model_digest)
        cohort = tuple(sorted(self.cohort))
        if len(cohort) != self.params.n_clients:
            raise ConfigError(
                f"expected n_clients={self.params.n_clients} ids, got {len(cohort)}", key="cohort"
            )
        if len(set(cohort)) != len(cohort):
            raise ConfigError("expected distinct client ids", key="cohort")
        for client_id in cohort:
            require_integer("cohort", client_id, 0, MAX_ID)
        object.__setattr__(self, "cohort", cohort)
        self._require_roster(cohort)
        object.__setattr__(self, "id", self._digest())
        # Where clients choose their neighbours, anyone of the cohort may become one.
        n_neighbours = None if self.params.client_chosen_graph else self.params.n_neighbours
        graph = Graph(seed=self.id, cohort=cohort, n_neighbours=n_neighbours)
        object.__setattr__(self, "graph", graph)

    def _require_roster(self, cohort: tuple[int, ...]) -> None:
        if not self.params.signed:
            if self.roster is not None:
                raise ConfigError(f"profile {self.params.profile} checks no signatures", key="roster")
            return
        if self.roster is None:
            raise ConfigError("profile active needs the pinned public keys of the clients", key="roster")
        unknown = [client_id for client_id in cohort if client_id not in self.roster]
        if unknown:
            raise ConfigError(f"no public key for the clients {unknown[:20]} of the cohort", key="roster")

    def slot(
        self,
        number: int = 0,
        *,
        model_digest: bytes | None = None,
        participants: Iterable[int] | None = None,
        commitment: bytes = NO_COMMITMENT,
    ) -> Slot:
        """Return round `number` of this set-up, 0 being the first; both ends must make the same.

        `participants` are those of the cohort that it asks for (default: all), `commitment` is the root
        over the adverts that the profile `active` binds its rounds to (`choice`).

        Raises:
            ConfigError: no such round, strangers, or too few participants for the threshold.
        """
        require_integer("number", number, 0, self.params.n_rounds - 1, upper_name="n_rounds - 1")
        if model_digest is None:
            if number:
                raise ConfigError("a later round needs the digest of its own model", key="model_digest")
            model_digest = self.model_digest
        require_digest("model_digest", model_digest)
        chosen = self.cohort if participants is None else tuple(sorted(participants))
        if len(set(chosen)) != len(chosen) or not set(chosen) <= set(self.cohort):
            raise ConfigError("expected distinct clients of the cohort", key="participants")
        require_integer("participants", len(chosen), self.params.threshold, self.params.n_clients)
        return Slot(
            number=number,
            participants=chosen,
            id=_hash(
                LABEL_SLOT,
                self.id,
                commitment,
                struct.pack("<I", number),
                struct.pack(f"<{len(chosen)}I", *chosen),
                model_digest,
            ),
        )

    def _digest(self) -> bytes:
        """SHA-256 over every field, each with its length before it."""
        params = self.params
        numbers = (params.n_clients, params.threshold, params.dimension, params.modulus_bits)
        return _hash(
            SUITE,
            params.profile.encode(),
            self.run_id,
            struct.pack("<II", self.round, self.attempt),
            struct.pack("<5Q", *numbers, params.n_neighbours or 0),
            struct.pack("<I?", params.n_rounds, params.verifiable),
            struct.pack(f"<{len(self.cohort)}I", *self.cohort),
            self.roster.root if self.roster else b"",
            self.model_digest,
        )


@dataclass(frozen=True, slots=True)
class Slot:
    """One round of a session: its number, who is asked, and the id (32 bytes) that its masks hang on."""

    number: int
    participants: tuple[int, ...]
    id: bytes = field(repr=False)


def require_digest(key: str, digest: bytes) -> None:
    """Refuse what is not 32 bytes."""
    if not isinstance(digest, bytes):
        raise ConfigError(f"expected bytes, got {type(digest).__name__}", key=key)
    if len(digest) != DIGEST_BYTES:
        raise ConfigError(f"expected {DIGEST_BYTES} bytes, got {len(digest)}", key=key)


def _hash(*parts: bytes) -> bytes:
    return sha256(b"".join(struct.pack("<Q", len(part)) + part for part in parts)).digest()
