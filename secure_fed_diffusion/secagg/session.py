"""The one round that everything is bound to: its id salts every key and stands in every frame.

Two parties that differ in run, round, attempt, parameters, cohort or model have different ids, so
their frames are refused and their masks do not cancel: a replayed frame, a reused mask and a model
that the server showed to one client only all fail (arXiv 2111.07380 for the last).

Not protected against: the id names the round, it does not authenticate the server.

>>> params = SecAggParams(n_clients=3, threshold=2, dimension=4, modulus_bits=8)
>>> Session(run_id=b"run", round=0, attempt=0, cohort=(7, 2, 9), params=params, model_digest=bytes(32)).cohort
(2, 7, 9)
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from hashlib import sha256

from ..errors import ConfigError
from .graph import Graph
from .params import SecAggParams, require_integer

SUITE = b"secure_fed_diffusion secagg v1: X25519, HKDF-SHA-256, AES-256-GCM, AES-256-CTR, Shamir 2^256+297"
DIGEST_BYTES = 32
MAX_ID = (1 << 32) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One attempt at one round.

    `cohort` is sorted on construction; `id` (32 bytes) and `graph` follow from the rest.
    """

    run_id: bytes
    round: int
    attempt: int
    cohort: tuple[int, ...]
    params: SecAggParams
    model_digest: bytes
    id: bytes = field(init=False, repr=False)
    graph: Graph = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for key in ("round", "attempt"):
            require_integer(key, getattr(self, key), 0, MAX_ID)
        for key in ("run_id", "model_digest"):
            if not isinstance(getattr(self, key), bytes):
                raise ConfigError(f"expected bytes, got {type(getattr(self, key)).__name__}", key=key)
        if len(self.model_digest) != DIGEST_BYTES:
            raise ConfigError(
                f"expected {DIGEST_BYTES} bytes, got {len(self.model_digest)}", key="model_digest"
            )
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
        object.__setattr__(self, "id", self._digest())
        graph = Graph(seed=self.id, cohort=cohort, n_neighbours=self.params.n_neighbours)
        object.__setattr__(self, "graph", graph)

    def _digest(self) -> bytes:
        """SHA-256 over every field, each with its length before it."""
        params = self.params
        numbers = (params.n_clients, params.threshold, params.dimension, params.modulus_bits)
        fields = (
            SUITE,
            params.profile.encode(),
            self.run_id,
            struct.pack("<II", self.round, self.attempt),
            struct.pack("<5Q", *numbers, params.n_neighbours or 0),
            struct.pack(f"<{len(self.cohort)}I", *self.cohort),
            self.model_digest,
        )
        return sha256(b"".join(struct.pack("<Q", len(value)) + value for value in fields)).digest()
