"""A round of any profile that can be stopped anywhere and whose frames one can lay hands on.

The machines are the real `secagg.Client` and `secagg.Server`; only what carries the frames is here, so a
claim or a test can be the server, the network or a client that does not follow the protocol.

Not for anything but tests and claims: keys and vectors come from fixed labels.

>>> Round(make_session(make_params(3, 2))).finish().is_exact()
True
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any, Self

import numpy as np

from secure_fed_diffusion import entropy, secagg
from secure_fed_diffusion.secagg.phases import PROFILES
from secure_fed_diffusion.secagg.simulate import answer

PHASES = tuple(step.phase for step in PROFILES["semi_honest"])
STEPS = PROFILES["semi_honest"]

CASES: dict[str, dict[str, Any]] = {
    "semi_honest": {},
    "semi_honest_sparse": {"n_clients": 9, "threshold": 4, "n_neighbours": 6},
    "active": {"profile": "active"},
    "active_sparse": {"n_clients": 9, "threshold": 5, "n_neighbours": 6, "profile": "active"},
    "verifiable": {"profile": "active", "verifiable": True},
    "unsafe_unmasked": {"profile": "unsafe_unmasked"},
}
"""A set of parameters for every way that a round can go, to be given to `make_params`."""


def fixed_entropy(label: str = "test") -> entropy.Entropy:
    """The same bytes in every run, another stream for each label."""
    return entropy.Keystream(sha256(label.encode()).digest()).read


def make_params(n_clients: int = 5, threshold: int = 4, **changes: Any) -> secagg.SecAggParams:
    """Parameters of a small sum."""
    settings: dict[str, Any] = {"dimension": 16, "modulus_bits": 32, **changes}
    return secagg.SecAggParams(n_clients=n_clients, threshold=threshold, **settings)


def signing_key(client_id: int) -> secagg.SigningKey:
    """The same long-term key for a client in every run."""
    return secagg.SigningKey(sha256(f"signing key {client_id}".encode()).digest())


def make_roster(cohort: Iterable[int]) -> secagg.Roster:
    """The roster of the cohort's `signing_key`s."""
    return secagg.Roster({v: signing_key(v).public for v in cohort})


def make_session(
    params: secagg.SecAggParams | None = None, cohort: Iterable[int] | None = None, **changes: Any
) -> secagg.Session:
    """A session; under the profile `active` its roster holds the cohort's `signing_key`s."""
    params = params or make_params()
    members = tuple(cohort or range(params.n_clients))
    settings: dict[str, Any] = {
        "run_id": b"run",
        "round": 3,
        "attempt": 0,
        "model_digest": bytes(32),
        **changes,
    }
    if params.signed:
        settings.setdefault("roster", make_roster(members))
    return secagg.Session(cohort=members, params=params, **settings)


def make_vectors(session: secagg.Session, seed: int = 0) -> dict[int, np.ndarray]:
    """Vectors over the whole ring, or over what a verifiable sum has headroom for."""
    generator = np.random.default_rng(seed)
    params = session.params
    top = 2**params.modulus_bits - 1
    if params.verifiable:
        low, high = -params.max_centred, params.max_centred
        drawn = {v: generator.integers(low, high, params.dimension, endpoint=True) for v in session.cohort}
        return {v: vector.astype(np.uint64) & np.uint64(top) for v, vector in drawn.items()}
    return {
        v: generator.integers(0, top, params.dimension, dtype=np.uint64, endpoint=True)
        for v in session.cohort
    }


def plain_sum(session: secagg.Session, vectors: Mapping[int, np.ndarray], ids: Iterable[int]) -> np.ndarray:
    """The sum of these clients' vectors in the ring."""
    total = np.zeros(session.params.dimension, dtype=np.uint64)
    for v in ids:
        total += vectors[v]
    return total & np.uint64(2**session.params.modulus_bits - 1)


def model_of(number: int) -> bytes:
    """A digest that stands for the model of round `number` of a set-up."""
    return sha256(f"model {number}".encode()).digest()


class Round:
    """All clients and the server of a session; `inbox` is what each client is about to be given.

    The client `v` draws from `fixed_entropy(f"{label} {v}")`; where only some are `real`, the caller plays
    the others.  A further round of the same set-up is opened by `begin`; where sums are verifiable the inbox
    of a done round holds the total for each.
    """

    def __init__(
        self,
        session: secagg.Session | None = None,
        *,
        label: str = "test",
        policy: secagg.Policy | None = None,
        latches: Mapping[int, secagg.Latch] | None = None,
        real: Iterable[int] | None = None,
    ) -> None:
        self.session = session or make_session()
        self.vectors = make_vectors(self.session)
        self.policy = policy or secagg.Policy.accepting(self.session.params)
        self.label = label
        self.clients = {
            v: self.new_client(v, latch=(latches or {}).get(v), label=label)
            for v in (self.session.cohort if real is None else real)
        }
        self.server = secagg.Server(self.session)
        self.inbox: dict[int, bytes] = dict.fromkeys(self.session.cohort, b"")

    @classmethod
    def of(cls, case: str, **changes: Any) -> Self:
        """A round of one of `CASES`, with some of its parameters changed."""
        return cls(make_session(make_params(**(CASES[case] | changes))))

    @property
    def phases(self) -> tuple[str, ...]:
        """The phases that the server collects frames in."""
        return tuple(step.phase for step in self.session.params.steps if step.sends is not None)

    def new_client(
        self, client_id: int, *, latch: secagg.Latch | None = None, label: str = "test"
    ) -> secagg.Client:
        """A fresh client of this session; the same label gives it the same randomness."""
        return secagg.Client(
            self.session,
            client_id,
            policy=self.policy,
            entropy=fixed_entropy(f"{label} {client_id}"),
            signer=signing_key(client_id) if self.session.params.signed else None,
            latch=latch,
        )

    def answer(self, client_id: int, server_frame: bytes | None = None) -> bytes:
        """Let one client take its step of the server's phase."""
        frame = self.inbox[client_id] if server_frame is None else server_frame
        return self.step(client_id, self.server.phase, frame)

    def step(self, client_id: int, phase: str, frame: bytes) -> bytes:
        """Let one client take a step."""
        return answer(self.clients[client_id], phase, frame, self.vectors[client_id])

    def answers(self, *, without: Iterable[int] = ()) -> dict[int, bytes]:
        """Let every client that is still in take its step, but for some; nothing is delivered."""
        return {v: self.answer(v) for v in self.inbox if v not in set(without)}

    def close(self, frames: Mapping[int, bytes]) -> None:
        """Deliver and close the phase."""
        for v, frame in frames.items():
            self.server.receive(v, frame)
        self.inbox = self.server.advance()

    def run_to(self, phase: str, *, dropouts: Mapping[int, str] | None = None) -> Self:
        """Run everything before `phase`; `dropouts` names clients and the phase that each is silent in."""
        silent_in = dropouts or {}
        while self.server.phase != phase:
            here = self.server.phase
            self.close(self.answers(without=[v for v, when in silent_in.items() if when == here]))
        return self

    def finish(self, *, dropouts: Mapping[int, str] | None = None) -> Self:
        """Run everything that is left."""
        return self.run_to("done", dropouts=dropouts)

    def begin(
        self, number: int, *, participants: Iterable[int] | None = None, model_digest: bytes | None = None
    ) -> Self:
        """Open a further round at the server and at its participants that can; other vectors."""
        chosen = None if participants is None else tuple(participants)
        digest = model_of(number) if model_digest is None else model_digest
        self.vectors = make_vectors(self.session, seed=number)
        self.inbox = self.server.begin(number, model_digest=digest, participants=chosen)
        for v in self.inbox:
            self.clients[v].begin(number, model_digest=digest, participants=chosen)
        return self

    def verified(self) -> dict[int, np.ndarray]:
        """Let every client that got the total check it; return what each takes it to be."""
        return {v: self.clients[v].verify(frame) for v, frame in self.inbox.items()}

    def is_exact(self) -> bool:
        """Whether the server's total is the sum of the survivors' vectors."""
        expected = plain_sum(self.session, self.vectors, self.server.survivors)
        return np.array_equal(self.server.total, expected)
