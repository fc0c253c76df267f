"""A round that a test can stop anywhere and whose frames it can lay its hands on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

import numpy as np

from secure_fed_diffusion import entropy, secagg
from secure_fed_diffusion.secagg.phases import PROFILES

PHASES = tuple(step.phase for step in PROFILES["semi_honest"])
STEPS = PROFILES["semi_honest"]


def fixed_entropy(label: str = "test") -> entropy.Entropy:
    """The same bytes in every run, another stream for each label."""
    return entropy.Keystream(sha256(label.encode()).digest()).read


def make_params(n_clients: int = 5, threshold: int = 4, **changes: Any) -> secagg.SecAggParams:
    settings: dict[str, Any] = {"dimension": 16, "modulus_bits": 32, **changes}
    return secagg.SecAggParams(n_clients=n_clients, threshold=threshold, **settings)


def make_session(
    params: secagg.SecAggParams | None = None, cohort: Iterable[int] | None = None, **changes: Any
) -> secagg.Session:
    params = params or make_params()
    settings: dict[str, Any] = {
        "run_id": b"run",
        "round": 3,
        "attempt": 0,
        "model_digest": bytes(32),
        **changes,
    }
    return secagg.Session(cohort=tuple(cohort or range(params.n_clients)), params=params, **settings)


def make_vectors(session: secagg.Session, seed: int = 0) -> dict[int, np.ndarray]:
    generator = np.random.default_rng(seed)
    params = session.params
    high = 2**params.modulus_bits - 1
    return {
        v: generator.integers(0, high, params.dimension, dtype=np.uint64, endpoint=True)
        for v in session.cohort
    }


def plain_sum(session: secagg.Session, vectors: Mapping[int, np.ndarray], ids: Iterable[int]) -> np.ndarray:
    total = np.zeros(session.params.dimension, dtype=np.uint64)
    for v in ids:
        total += vectors[v]
    return total & np.uint64(2**session.params.modulus_bits - 1)


class Round:
    """All clients and the server of a session; `inbox` is what each client is about to be given."""

    def __init__(self, session: secagg.Session | None = None, *, label: str = "test") -> None:
        self.session = session or make_session()
        self.vectors = make_vectors(self.session)
        policy = secagg.Policy.accepting(self.session.params)
        self.clients = {
            v: secagg.Client(self.session, v, policy=policy, entropy=fixed_entropy(f"{label} {v}"))
            for v in self.session.cohort
        }
        self.server = secagg.Server(self.session)
        self.inbox: dict[int, bytes] = dict.fromkeys(self.session.cohort, b"")

    def answer(self, client_id: int, server_frame: bytes | None = None) -> bytes:
        """Let one client take its step of the server's phase."""
        frame = self.inbox[client_id] if server_frame is None else server_frame
        return self.step(client_id, self.server.phase, frame)

    def step(self, client_id: int, phase: str, frame: bytes) -> bytes:
        client = self.clients[client_id]
        if phase == "advertise":
            return client.advertise()
        if phase == "share_keys":
            return client.share_keys(frame)
        if phase == "masked_input":
            return client.masked_input(frame, self.vectors[client_id])
        return client.unmask(frame)

    def answers(self) -> dict[int, bytes]:
        """Let every client that is still in take its step; nothing is delivered."""
        return {v: self.answer(v) for v in self.inbox}

    def close(self, frames: Mapping[int, bytes]) -> None:
        """Deliver and close the phase."""
        for v, frame in frames.items():
            self.server.receive(v, frame)
        self.inbox = self.server.advance()

    def run_to(self, phase: str) -> Round:
        """Run everything before `phase`."""
        while self.server.phase != phase:
            self.close(self.answers())
        return self

    def finish(self) -> Round:
        return self.run_to("done")

    def is_exact(self) -> bool:
        expected = plain_sum(self.session, self.vectors, self.server.survivors)
        return np.array_equal(self.server.total, expected)
