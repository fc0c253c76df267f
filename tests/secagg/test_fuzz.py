"""Arbitrary bytes into every decoder, step and snapshot raise nothing outside the package's tree.

Guided by coverage: an input that reaches a new line of `secagg` is kept and mutated further.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from hashlib import sha256

import pytest

from secure_fed_diffusion import secagg
from secure_fed_diffusion.errors import FrameError, SecureAggregationError
from secure_fed_diffusion.secagg import codec, seal, shamir
from secure_fed_diffusion.secagg import messages as m
from secure_fed_diffusion.secagg.phases import DONE
from secure_fed_diffusion.secagg.simulate import answer

from .fuzzing import Report, fuzz, mutate_json
from .rounds import fixed_entropy, make_params, make_session, make_vectors, signing_key

QUICK = 3000
SETTINGS: dict[str, dict[str, object]] = {
    "semi_honest": {"profile": "semi_honest"},
    "active": {"profile": "active", "n_rounds": 2},
    "verifiable": {"profile": "active", "verifiable": True},
    "active sparse": {"profile": "active", "n_neighbours": 2, "threshold": 2},
    "unsafe_unmasked": {"profile": "unsafe_unmasked"},
}


@cache
def session_of(name: str) -> secagg.Session:
    params = make_params(
        **{"n_clients": 4, "threshold": 3, "dimension": 5, "modulus_bits": 20, **SETTINGS[name]}
    )
    return make_session(params, (0, 3, 5, 900))


class Recording:
    """One honest round of a profile: each phase's frames, each client before it, the server in it."""

    def __init__(self, name: str) -> None:
        self.session = session = session_of(name)
        self.policy = secagg.Policy.accepting(session.params)
        self.client_id = session.cohort[0]
        self.vectors = make_vectors(session)
        self.down: dict[str, bytes] = {}
        self.up: dict[str, bytes] = {}
        self.snapshots: dict[str, bytes] = {}
        self.servers: dict[str, secagg.Server] = {}
        clients = {
            v: secagg.Client(
                session,
                v,
                policy=self.policy,
                entropy=fixed_entropy(f"fuzz {v}"),
                signer=signing_key(v) if session.params.signed else None,
                latch=lambda key, value: True,
            )
            for v in session.cohort
        }
        server = secagg.Server(session)
        inbox = dict.fromkeys(session.cohort, b"")
        for step in session.params.steps:
            here = self.client_id
            self.snapshots[step.phase] = clients[here].snapshot()
            self.down[step.phase] = inbox[here]
            frames = {v: answer(clients[v], step.phase, inbox[v], self.vectors[v]) for v in inbox}
            if server.phase == DONE:
                break
            self.up[step.phase] = frames.pop(here)
            for v, frame in frames.items():
                server.receive(v, frame)
            self.servers[step.phase] = self.copy(server)
            server.receive(here, self.up[step.phase])
            inbox = server.advance()

    def copy(self, server: secagg.Server) -> secagg.Server:
        session = self.session
        kept = (session, session.graph, server._lock)
        return copy.deepcopy(server, {id(each): each for each in kept})

    def client(self, phase: str, snapshot: bytes | None = None) -> secagg.Client:
        return secagg.Client.restore(
            self.session,
            self.client_id,
            self.snapshots[phase] if snapshot is None else snapshot,
            latch=lambda key, value: True,
            policy=self.policy,
            entropy=fixed_entropy("later"),
            signer=signing_key(self.client_id) if self.session.params.signed else None,
        )

    def take_step(self, client: secagg.Client, phase: str, frame: bytes) -> bytes:
        return answer(client, phase, frame, self.vectors[self.client_id])


recording = cache(Recording)


def payload_of(name: str, phase: str, *, up: bool) -> bytes:
    frame = (recording(name).up if up else recording(name).down)[phase]
    n_signature = 64 if up and session_of(name).params.signed else 0
    return frame[codec.HEADER_BYTES : len(frame) - n_signature]


def decoder(name: str, which: str) -> tuple[Callable[[bytes], object], list[bytes]]:
    """A decoder under a profile, and honest inputs of it."""
    params = session_of(name).params
    n = params.n_clients
    table: dict[str, tuple[Callable[[bytes], object], str, bool]] = {
        "advert": (lambda p: m.Advert.decode(p, n_rounds=params.n_rounds), "advertise", True),
        "advert list": (lambda p: m.AdvertList.decode(p, params), "share_keys", False),
        "commitment": (lambda p: m.Commitment.decode(p, n), "choose", False),
        "choice": (lambda p: m.Choice.decode(p), "choose", True),
        "shares": (lambda p: m.Shares.decode(p, params), "share_keys", True),
        "delivery": (lambda p: m.ShareDelivery.decode(p, params), "masked_input", False),
        "masked input": (lambda p: m.MaskedInput.decode(memoryview(p), params), "masked_input", True),
        "members": (lambda p: m.Members.decode(p, n), "consistency", False),
        "consistency list": (lambda p: m.ConsistencyList.decode(p), "unmask", False),
        "unmask shares": (lambda p: m.UnmaskShares.decode(p), "unmask", True),
        "result": (lambda p: m.Result.decode(memoryview(p), params), "verify", False),
    }
    decode, phase, up = table[which]
    return decode, [payload_of(name, phase, up=up)]


DECODERS = [
    ("semi_honest", "advert"),
    ("active", "advert"),
    ("semi_honest", "advert list"),
    ("active sparse", "advert list"),
    ("active sparse", "commitment"),
    ("active sparse", "choice"),
    ("active", "shares"),
    ("verifiable", "shares"),
    ("active", "delivery"),
    ("active sparse", "delivery"),
    ("semi_honest", "masked input"),
    ("verifiable", "masked input"),
    ("active", "members"),
    ("active", "consistency list"),
    ("semi_honest", "unmask shares"),
    ("verifiable", "result"),
]


def check_decoder(name: str, which: str, executions: int, seed: int = 0) -> Report:
    decode, seeds = decoder(name, which)

    def decode_again(payload: bytes) -> None:
        """What is accepted has one encoding."""
        message = decode(payload)
        params = session_of(name).params
        takes_params = isinstance(message, m.AdvertList | m.Shares | m.ShareDelivery | m.MaskedInput)
        encoded = message.encode(params) if takes_params else message.encode()  # type: ignore[attr-defined]
        if bytes(encoded) != payload:
            raise RuntimeError("a second encoding was accepted")
        if isinstance(message, m.UnmaskShares) and not all(
            share < shamir.PRIME for held in (message.self_mask, message.mask_key) for share in held.values()
        ):
            raise RuntimeError("a share outside the field was accepted")

    report = fuzz(decode_again, seeds, executions=executions, seed=seed)
    assert report.outcomes["accepted"] > 0
    assert report.outcomes["FrameError"] > 0
    return report


@pytest.mark.parametrize(("name", "which"), DECODERS)
def test_a_decoder_raises_frame_errors_alone_and_accepts_one_encoding(name: str, which: str) -> None:
    report = check_decoder(name, which, QUICK)
    assert set(report.outcomes) == {"accepted", "FrameError"}, report


def check_frames(executions: int, seed: int = 0) -> Report:
    session = session_of("active")
    seeds = [*recording("active").up.values(), *recording("active sparse").down.values()]

    def target(frame: bytes) -> None:
        kind = codec.peek_kind(frame)
        payload = codec.unpack(frame, kind, session_id=session.id, client_id=session.cohort[0])
        codec.split_signature(payload)

    return fuzz(target, [s for s in seeds if s], executions=executions, seed=seed)


def test_arbitrary_frames_raise_frame_errors_alone() -> None:
    report = check_frames(QUICK)
    assert set(report.outcomes) == {"accepted", "FrameError"}, report


def check_unseal(executions: int, seed: int = 0) -> Report:
    key, context = bytes(32), {"session_id": bytes(32), "sender": 1, "receiver": 2}
    entrusted = seal.Entrusted((seal.SharePair(1, 2),), b"c" * 32)
    seeds = [seal.seal(key, entrusted, **context)]  # type: ignore[arg-type]

    def target(data: bytes) -> None:
        seal.unseal(key, data, n_rounds=1, **context)  # type: ignore[arg-type]

    return fuzz(target, seeds, executions=executions, seed=seed)


def test_arbitrary_sealed_bytes_raise_frame_errors_alone() -> None:
    report = check_unseal(QUICK)
    assert set(report.outcomes) == {"accepted", "FrameError"}, report
    assert report.outcomes["accepted"] < QUICK / 10  # all but unchanged inputs fail to open


def client_steps() -> list[tuple[str, str]]:
    steps = [(name, step) for name in SETTINGS for step in session_of(name).params.steps]
    return [(name, step.phase) for name, step in steps if step.receives is not None]


def check_client(name: str, phase: str, executions: int, seed: int = 0) -> Report:
    recorded = recording(name)

    def target(frame: bytes) -> None:
        client = recorded.client(phase)
        try:
            recorded.take_step(client, phase, frame)
        except SecureAggregationError:
            if client.phase != "failed":
                raise RuntimeError("a client that raised has not failed") from None
            raise

    seeds = [recorded.down[phase], *(frame for frame in recorded.down.values() if frame)]
    return fuzz(target, seeds, executions=executions, seed=seed)


@pytest.mark.parametrize(("name", "phase"), client_steps())
def test_a_client_s_step_takes_arbitrary_frames(name: str, phase: str) -> None:
    report = check_client(name, phase, QUICK // 6)
    assert report.outcomes["accepted"] > 0, report
    assert report.outcomes["FrameError"] > 0, report


def server_steps() -> list[tuple[str, str]]:
    steps = [(name, step) for name in SETTINGS for step in session_of(name).params.steps]
    return [(name, step.phase) for name, step in steps if step.sends is not None]


def check_server(name: str, phase: str, executions: int, seed: int = 0) -> Report:
    recorded = recording(name)
    true_frame = recorded.up[phase]
    servers = [recorded.copy(recorded.servers[phase])]
    heard = servers[0].heard

    def target(frame: bytes) -> None:
        server = servers[0]
        try:
            server.receive(recorded.client_id, frame)
        except SecureAggregationError:
            if server.heard != heard or server.phase != phase:
                raise RuntimeError("a refused frame changed the server") from None
            raise
        servers[0] = recorded.copy(recorded.servers[phase])
        if recorded.session.params.signed and frame != true_frame:
            raise RuntimeError("an altered frame was taken")

    seeds = [true_frame, *recorded.up.values()]
    return fuzz(target, seeds, executions=executions, seed=seed)


@pytest.mark.parametrize(("name", "phase"), server_steps())
def test_the_server_takes_arbitrary_frames(name: str, phase: str) -> None:
    report = check_server(name, phase, QUICK // 3)
    assert report.outcomes["accepted"] > 0, report
    assert set(report.outcomes) <= {"accepted", "FrameError", "PhaseError"}, report
    assert report.outcomes["FrameError"] > 0, report


def check_snapshot(name: str, phase: str, executions: int, seed: int = 0) -> Report:
    """What is restored from spoilt bytes takes its step or fails by the book."""
    recorded = recording(name)

    def target(snapshot: bytes) -> None:
        client = recorded.client(phase, snapshot)
        recorded.take_step(client, phase, recorded.down[phase])
        client.snapshot()

    return fuzz(target, [recorded.snapshots[phase]], executions=executions, seed=seed)


def check_forged_snapshot(name: str, phase: str, executions: int, seed: int = 0) -> Report:
    """Documents of another content, under a checksum that is right."""
    recorded = recording(name)

    def target(body: bytes) -> None:
        recorded.client(phase, sha256(body).digest() + body)

    body = recorded.snapshots[phase][32:]
    return fuzz(target, [body], executions=executions, seed=seed, mutate=mutate_json)


SNAPSHOTS = [
    (name, phase)
    for name in ("semi_honest", "active", "active sparse", "verifiable")
    for phase in recording(name).snapshots
]


@pytest.mark.parametrize(("name", "phase"), SNAPSHOTS)
def test_a_spoilt_snapshot_raises_errors_of_the_tree_alone(name: str, phase: str) -> None:
    for check in (check_snapshot, check_forged_snapshot):
        report = check(name, phase, QUICK // 10)
        assert report.outcomes["accepted"] > 0, report
        assert report.outcomes["FrameError"] > 0, report


@pytest.mark.parametrize("depth", [10, 100_000])
def test_a_deeply_nested_snapshot_is_refused(depth: int) -> None:
    body = b"[" * depth + b"]" * depth
    with pytest.raises(FrameError):
        recording("active").client("unmask", sha256(body).digest() + body)


def test_the_fuzzer_finds_an_error_outside_the_tree_and_follows_coverage() -> None:
    """The control: an error that only a table of the right form reaches."""

    def target(data: bytes) -> None:
        if len(m.Choice.decode(data).neighbours) == 2:
            raise KeyError("found")

    with pytest.raises(AssertionError, match="KeyError on 02000000"):
        fuzz(target, [m.Choice(neighbours=()).encode()], executions=60_000)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_a_million_executions_raise_nothing_outside_the_tree(part: int, record_property) -> None:  # type: ignore[no-untyped-def]
    """250,000 executions in each part, each with seeds of its own."""
    reports = []
    for name, which in DECODERS:
        reports.append(check_decoder(name, which, 12_000, seed=1 + part))
    reports += [check_frames(12_000, seed=1 + part), check_unseal(6_000, seed=1 + part)]
    for name, phase in client_steps():
        reports.append(check_client(name, phase, 600, seed=1 + part))
    for name, phase in server_steps():
        reports.append(check_server(name, phase, 1_500, seed=1 + part))
    for name, phase in SNAPSHOTS:
        reports.append(check_snapshot(name, phase, 400, seed=1 + part))
        reports.append(check_forged_snapshot(name, phase, 400, seed=1 + part))
    total = sum(report.executions for report in reports)
    lines = set().union(*(report.lines for report in reports))
    record_property("executions", total)
    record_property("lines", len(lines))
    print(f"{total} executions, {len(lines)} lines of secagg")
    assert total >= 250_000
