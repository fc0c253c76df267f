"""The whole protocol on a page: every client, the server and the frames between them, in one process.

For tests, examples and in-process federations.  The clients accept just the parameters that they
are given (`Policy.accepting`), unless a policy is passed.

Not protected against: one process sees everything.  The transcript is what a server sees.

>>> import numpy as np
>>> params = SecAggParams(n_clients=5, threshold=4, dimension=2, modulus_bits=32)
>>> vectors = {i: np.array([i, 1], dtype=np.uint32) for i in range(5)}
>>> result = simulate(params, vectors, dropouts={3: "masked_input"})
>>> result.total.tolist(), result.survivors
([7, 4], (0, 1, 2, 4))
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy.typing as npt

from ..entropy import Entropy, system
from ..errors import ConfigError
from .client import Client
from .encoding import RingVector
from .params import SecAggParams
from .policy import Policy
from .server import Server
from .session import DIGEST_BYTES, Session
from .signing import Roster, SigningKey


@dataclass(frozen=True, slots=True)
class TranscriptEntry:
    """One frame as it travelled; a server frame bears the phase that it opens at the client."""

    sender: int | str
    receiver: int | str
    phase: str
    frame: bytes


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """The sum modulo 2^modulus_bits, whose inputs are in it, and every frame in order."""

    total: RingVector
    survivors: tuple[int, ...]
    transcript: tuple[TranscriptEntry, ...]


def simulate(
    params: SecAggParams,
    vectors: Mapping[int, npt.ArrayLike],
    *,
    dropouts: Mapping[int, str] | None = None,
    entropy: Entropy = system,
    session: Session | None = None,
    signers: Mapping[int, SigningKey] | None = None,
    policy: Policy | None = None,
) -> SimulationResult:
    """Run one round; `dropouts` maps a client id to the phase before which it vanishes.

    Under the profile active each client signs with its key of `signers`, which a `session` of that profile
    needs: they are the keys that its roster lists.  Without a session the roster is made of them; without
    either, the keys are fresh.

    Raises:
        TooFewClientsError: the dropouts leave too few; it says who is missing, and in which phase.
        ConfigError: `vectors`, `dropouts`, `session` or `signers` do not fit the parameters or each other.
    """
    dropouts = dict(dropouts or {})
    phases = tuple(step.phase for step in params.steps)
    for client_id, phase in dropouts.items():
        if client_id not in vectors:
            raise ConfigError(f"client {client_id} is not in the cohort", key="dropouts")
        if phase not in phases:
            known = ", ".join(phases)
            raise ConfigError(f"expected one of {known} ({params.profile}), got {phase!r}", key="dropouts")
    if session is not None and (session.params != params or set(session.cohort) != set(vectors)):
        raise ConfigError(
            "expected one of `params`, whose cohort are the clients of `vectors`", key="session"
        )
    if params.signed and session is None and signers is None:
        signers = {v: SigningKey.generate(entropy) for v in vectors}
    held = dict(signers or {})
    _require_signers(params, vectors, held)
    if session is None:
        session = Session(
            run_id=b"simulate",
            round=0,
            attempt=0,
            cohort=tuple(vectors),
            params=params,
            model_digest=bytes(DIGEST_BYTES),
            roster=Roster({v: key.public for v, key in held.items()}) if params.signed else None,
        )
    accepted = policy or Policy.accepting(params)
    clients = {
        v: Client(session, v, policy=accepted, entropy=entropy, signer=held.get(v)) for v in session.cohort
    }
    server = Server(session)
    transcript: list[TranscriptEntry] = []
    inbox: dict[int, bytes] = dict.fromkeys(session.cohort, b"")
    for phase in phases:
        for client_id, server_frame in inbox.items():
            if server_frame:
                transcript.append(TranscriptEntry("server", client_id, phase, server_frame))
            if dropouts.get(client_id) == phase:
                continue
            frame = answer(clients[client_id], phase, server_frame, vectors[client_id])
            if frame:
                transcript.append(TranscriptEntry(client_id, "server", phase, frame))
                server.receive(client_id, frame)
        inbox = server.advance() if server.phase == phase else {}
    return SimulationResult(server.total, server.survivors, tuple(transcript))


def _require_signers(
    params: SecAggParams, cohort: Collection[int], signers: Mapping[int, SigningKey]
) -> None:
    if signers and not params.signed:
        raise ConfigError(f"profile {params.profile} signs nothing", key="signers")
    missing = sorted(v for v in cohort if v not in signers)
    if params.signed and missing:
        raise ConfigError(f"no signing key for the clients {missing[:20]} of the cohort", key="signers")


def answer(client: Client, phase: str, server_frame: bytes, vector: npt.ArrayLike) -> bytes:
    """Let the client take its step of `phase`; the empty frame where the step has no answer."""
    if phase == "advertise":
        return client.advertise()
    if phase == "masked_input":
        return client.masked_input(server_frame, vector)
    if phase == "verify":
        client.verify(server_frame)
        return b""
    steps = {
        "choose": client.choose,
        "share_keys": client.share_keys,
        "consistency": client.consistency,
        "unmask": client.unmask,
    }
    return steps[phase](server_frame)
