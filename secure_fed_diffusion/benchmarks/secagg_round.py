"""One real round, driven step by step: what each party computes, sends and receives.

Every client's vector is made from its id when it is due and its masked frame goes to the server at
once, so that n vectors never exist together.  Seconds are those of the processor, for this process;
the sum is checked against the plain one, which is not timed.

Not measured: the network, and what a transport adds to a frame.

    >>> params = secagg.SecAggParams(n_clients=5, threshold=3, dimension=8, modulus_bits=16)
    >>> cost = measure(params, dropouts=frozenset({4}))
    >>> cost.n_survivors, cost.masked_frame_bytes >= 16
    (4, True)
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np

from secure_fed_diffusion import secagg
from secure_fed_diffusion.entropy import Keystream
from secure_fed_diffusion.errors import ConfigError, SecureAggregationError
from secure_fed_diffusion.secagg import encoding
from secure_fed_diffusion.secagg.phases import PROFILES


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundCost:
    """Of one round: medians over the survivors for a client, totals for the server.

    `client_seconds` and `server_seconds` are by phase, `advertise` with the party's own making;
    `session_seconds` is what each party pays before that, for the session and its graph, which here are
    made once and shared.
    """

    n_survivors: int
    session_seconds: float
    client_seconds: dict[str, float]
    server_seconds: dict[str, float]
    bytes_up: float
    bytes_down: float
    masked_frame_bytes: int


@dataclass(slots=True)
class _Meter:
    """Seconds by key, as they are spent."""

    spent: dict[Any, float] = field(default_factory=dict)

    @contextmanager
    def running(self, key: Any) -> Iterator[None]:
        start = time.process_time()
        yield
        self.spent[key] = self.spent.get(key, 0.0) + time.process_time() - start


def vector_of(client_id: int, params: secagg.SecAggParams) -> np.ndarray:
    """Return the client's vector, shape (dimension,), uniform on the ring: a function of its id."""
    vector = np.empty(params.dimension, dtype=encoding.ring_dtype(params.modulus_bits))
    Keystream(sha256(client_id.to_bytes(8, "little")).digest()).fill(vector)
    encoding.reduce_in_place(vector, params.modulus_bits)
    return vector


def session_for(params: secagg.SecAggParams) -> secagg.Session:
    """Return the session of a measured round, with the client ids 0..n - 1."""
    return secagg.Session(
        run_id=b"benchmark",
        round=0,
        attempt=0,
        cohort=tuple(range(params.n_clients)),
        params=params,
        model_digest=bytes(32),
    )


def answer(client: secagg.Client, phase: str, server_frame: bytes, vector: np.ndarray | None) -> bytes:
    """Let a client take its step; `vector` is for `masked_input`.

    Raises:
        ConfigError: no such phase in the profile `semi_honest`.
    """
    if phase == "advertise":
        return client.advertise()
    if phase == "share_keys":
        return client.share_keys(server_frame)
    if phase == "masked_input" and vector is not None:
        return client.masked_input(server_frame, vector)
    if phase == "unmask":
        return client.unmask(server_frame)
    raise ConfigError(f"this driver does not run phase {phase!r}", key="profile")


def measure(params: secagg.SecAggParams, *, dropouts: frozenset[int] = frozenset()) -> RoundCost:
    """Run one round in which `dropouts` vanish before they send their vector.

    Raises:
        SecureAggregationError: the round failed, or its sum is not that of the survivors.
    """
    before = _Meter()
    with before.running("session"):
        session = session_for(params)
    policy = secagg.Policy.accepting(params)
    of_clients, of_server = _Meter(), _Meter()
    clients = {}
    for v in session.cohort:
        with of_clients.running((v, "advertise")):
            clients[v] = secagg.Client(session, v, policy=policy)
    with of_server.running("advertise"):
        server = secagg.Server(session)
    up, down = dict.fromkeys(session.cohort, 0), dict.fromkeys(session.cohort, 0)
    expected = np.zeros(params.dimension, dtype=encoding.ring_dtype(params.modulus_bits))
    masked_frame_bytes = 0
    inbox: dict[int, bytes] = dict.fromkeys(session.cohort, b"")
    phases = tuple(step.phase for step in PROFILES[params.profile])
    for phase in phases:
        while inbox:
            client_id, server_frame = inbox.popitem()
            down[client_id] += len(server_frame)
            if client_id in dropouts and phase == "masked_input":
                continue
            vector = vector_of(client_id, params) if phase == "masked_input" else None
            with of_clients.running((client_id, phase)):
                frame = answer(clients[client_id], phase, server_frame, vector)
            up[client_id] += len(frame)
            if vector is not None:
                expected += vector
                masked_frame_bytes = len(frame)
            with of_server.running(phase):
                server.receive(client_id, frame)
        with of_server.running(phase):
            inbox = dict(server.advance())
    encoding.reduce_in_place(expected, params.modulus_bits)
    survivors = server.survivors
    if not np.array_equal(server.total, expected) or dropouts.intersection(survivors):
        raise SecureAggregationError("the measured round's sum is not that of its survivors")
    return RoundCost(
        n_survivors=len(survivors),
        session_seconds=before.spent["session"],
        client_seconds={
            phase: statistics.median(of_clients.spent[v, phase] for v in survivors) for phase in phases
        },
        server_seconds={phase: of_server.spent[phase] for phase in phases},
        bytes_up=statistics.median(up[v] for v in survivors),
        bytes_down=statistics.median(down[v] for v in survivors),
        masked_frame_bytes=masked_frame_bytes,
    )
