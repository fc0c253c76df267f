"""Any profile, clients, threshold, graph, rounds, dropouts and network: the exact sum, or a typed error.

A trace is one key set-up with all its rounds.  `make test` plays 600 of them, mostly with few clients;
the slow target plays 10,000 with up to 40.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secure_fed_diffusion import secagg
from secure_fed_diffusion.errors import (
    PhaseError,
    SecureAggregationError,
    TooFewClientsError,
    VerificationError,
)
from secure_fed_diffusion.secagg import codec
from secure_fed_diffusion.secagg.phases import SETUP_PHASES, Kind

from .rounds import make_params, make_session, make_vectors, plain_sum
from .traces import Epoch, Wire, round_phases

RELAXED = [HealthCheck.too_slow, HealthCheck.data_too_large]
KINDS = (
    "semi_honest",
    "active",
    "verifiable",
    "semi_honest sparse",
    "active sparse",
    "unsafe_unmasked",
)


@dataclass(frozen=True)
class Trace:
    """What happens: who is gone in which round before which phase, and who is asked."""

    session: secagg.Session
    gone: tuple[dict[int, str], ...]
    participants: tuple[tuple[int, ...] | None, ...]


@st.composite
def traces(draw: st.DrawFn, max_clients: int, *, one_large_in: int = 4) -> Trace:
    kind = draw(st.sampled_from(KINDS))
    sparse = kind.endswith("sparse")
    smallest = 4 if sparse else 2
    large = draw(st.integers(0, one_large_in - 1)) == one_large_in - 1
    n = draw(st.integers(smallest, max_clients if large else min(8, max_clients)))
    if sparse:
        k = 2 * draw(st.integers(1, (n - 1) // 2))
        threshold = draw(st.integers(max(2, k // 2 + (kind == "active sparse")), k + 1))
    else:
        k, threshold = None, draw(st.integers(n // 2 + 1, n) if n > 2 else st.just(2))
    params = secagg.SecAggParams(
        n_clients=n,
        threshold=threshold,
        dimension=draw(st.integers(1, 9)),
        modulus_bits=draw(st.integers(9 if kind == "verifiable" else 8, 60 if kind == "verifiable" else 64)),
        n_neighbours=k,
        profile=kind.split()[0].replace("verifiable", "active"),
        n_rounds=1 if kind == "unsafe_unmasked" else draw(st.integers(1, 3)),
        verifiable=kind == "verifiable",
    )
    ids = draw(st.lists(st.integers(0, 2**32 - 1), min_size=n, max_size=n, unique=True))
    phases, later_phases = tuple(step.phase for step in params.steps), round_phases(params)
    gone, participants = [], []
    for number in range(params.n_rounds):
        at_most = draw(st.sampled_from((0, 1, n // 4, n // 2, n)))
        vanished = draw(st.lists(st.sampled_from(ids), unique=True, max_size=at_most))
        gone.append({v: draw(st.sampled_from(later_phases if number else phases)) for v in vanished})
        ask_all = number == 0 or draw(st.booleans())
        asked = st.lists(st.sampled_from(ids), unique=True, min_size=min(n, threshold + 1), max_size=n)
        participants.append(None if ask_all else tuple(draw(asked)))
    return Trace(make_session(params, ids, round=0), tuple(gone), tuple(participants))


def survivors_due(trace: Trace, number: int) -> set[int] | None:
    """Who is in the sum of a round if everyone masks with everyone; None where too few are left."""
    session = trace.session
    setup_gone = {v for v, phase in trace.gone[0].items() if phase in SETUP_PHASES}
    asked = set(session.cohort if trace.participants[number] is None else trace.participants[number] or ())
    gone = {v: phase for v, phase in trace.gone[number].items() if phase not in SETUP_PHASES}
    left = asked - setup_gone
    survivors = left - {v for v, phase in gone.items() if phase == "masked_input"}
    at_the_end = survivors - {v for v, phase in gone.items() if phase in ("consistency", "unmask")}
    t = session.params.threshold
    enough = len(session.cohort) - len(setup_gone) >= t and len(at_the_end) >= t
    return survivors if enough else None


OUTCOMES: Counter[str] = Counter()


def play_honestly(trace: Trace) -> None:
    session = trace.session
    params = session.params
    epoch = Epoch(trace.session)
    ever_gone: set[int] = set()
    OUTCOMES["traces"] += 1
    for number in range(params.n_rounds):
        vectors = make_vectors(session, seed=number)
        gone = trace.gone[number]
        ever_gone |= gone.keys()
        outcome = epoch.play(number, vectors, gone=gone, participants=trace.participants[number])
        assert not outcome.refused
        assert all(isinstance(error, TooFewClientsError | PhaseError) for error in epoch.errors.values())
        if outcome.error is not None:
            OUTCOMES["too few"] += 1
            due_error = TooFewClientsError if number == 0 else TooFewClientsError | PhaseError
            assert isinstance(outcome.error, due_error), outcome.error
            assert set(outcome.error.culprits) <= ever_gone | epoch.errors.keys()
            if params.n_neighbours is None:
                assert survivors_due(trace, number) is None
            continue
        OUTCOMES["sum"] += 1
        OUTCOMES["later sum"] += number > 0
        assert outcome.total is not None
        assert np.array_equal(outcome.total, plain_sum(session, vectors, outcome.survivors))
        if params.n_neighbours is None:
            assert set(outcome.survivors) == survivors_due(trace, number)
            assert not epoch.errors
        assert all(outcome.verified.values())
        if params.verifiable:
            assert len(outcome.verified) >= params.threshold - len(gone)
            OUTCOMES["verified"] += len(outcome.verified)


# The same traces over a network that an adversary rules.


@dataclass(frozen=True)
class Attack:
    """One deed of the adversary on one client's link, in one phase of one round."""

    number: int
    phase: str
    client_id: int
    upwards: bool
    action: str
    place: int
    replaces: bool


ACTIONS = ("duplicate", "flip", "cut", "extend", "cut, length corrected", "splice", "swap", "replay")
UNSIGNED_PAYLOADS = (Kind.ADVERT, Kind.MASKED_INPUT, Kind.ADVERT_LIST)


@dataclass
class HostileWire(Wire):
    """Carries out the attacks; keeps every frame for replays.

    Under a profile without signatures whoever writes to the channel can speak for a client: there the
    payloads whose alteration no one can notice are left as they are.  So are, everywhere, the ids in a
    delivery of shares: what the server sends is not signed, and a client that masks with others than
    the server believes spoils the sum unseen (unless it is verifiable).
    """

    attacks: tuple[Attack, ...]
    signed: bool
    reorder: bool
    seen: dict[tuple[bool, int], list[bytes]] = field(default_factory=dict)

    def _bad(self, attack: Attack, frame: bytes, others: Mapping[int, bytes]) -> bytes:
        history = self.seen.get((attack.upwards, attack.client_id)) or [frame]
        if attack.action == "duplicate":
            return frame
        if attack.action == "swap":
            return others[sorted(others)[attack.place % len(others)]]
        if attack.action == "replay":
            return history[attack.place % len(history)]
        if attack.action == "cut":
            return frame[: attack.place % max(1, len(frame))]
        if attack.action == "extend":
            return frame + bytes(1 + attack.place % 40)
        n_free, kind = len(frame), frame[5] if len(frame) > 5 else 0
        if not self.signed and kind in UNSIGNED_PAYLOADS:
            n_free = codec.HEADER_BYTES
        elif kind == Kind.SHARE_DELIVERY:
            n_free = codec.HEADER_BYTES + 4
        if attack.action == "flip" and n_free:
            spoilt = bytearray(frame)
            spoilt[attack.place % n_free] ^= 1 << (attack.place >> 20) % 8
            return bytes(spoilt)
        if attack.action == "splice" and n_free > codec.HEADER_BYTES:
            donor = history[-1]
            at = codec.HEADER_BYTES + attack.place % (n_free - codec.HEADER_BYTES)
            return (frame[:at] + donor[at:])[: len(frame)].ljust(len(frame), b"\0")
        if len(frame) >= codec.HEADER_BYTES:  # cut, the length in the header corrected
            n_payload = attack.place % max(1, len(frame) - codec.HEADER_BYTES)
            header = frame[:10] + struct.pack("<Q", n_payload) + frame[18 : codec.HEADER_BYTES]
            return header + frame[codec.HEADER_BYTES :][:n_payload]
        return frame

    def _of(self, number: int, phase: str, client_id: int, *, upwards: bool) -> list[Attack]:
        where = (number, phase, client_id, upwards)
        return [a for a in self.attacks if (a.number, a.phase, a.client_id, a.upwards) == where]

    def down(self, number: int, phase: str, client_id: int, frame: bytes) -> list[bytes]:
        given = [frame]
        for attack in self._of(number, phase, client_id, upwards=False):
            bad = self._bad(attack, frame, {client_id: frame})
            given = [bad] if attack.replaces else [bad, *given] if attack.place % 2 else [*given, bad]
        self.seen.setdefault((False, client_id), []).append(frame)
        return given

    def up(self, number: int, phase: str, frames: Mapping[int, bytes]) -> list[tuple[int, bytes, bool]]:
        delivered = []
        for client_id, frame in frames.items():
            queue = [(client_id, frame, True)]
            for attack in self._of(number, phase, client_id, upwards=True):
                bad = self._bad(attack, frame, frames)
                spoilt = (client_id, bad, bad == frame)
                queue = [spoilt] if attack.replaces else [spoilt, *queue]
            delivered += queue
            self.seen.setdefault((True, client_id), []).append(frame)
        if self.reorder:
            delivered.sort(key=lambda item: (item[1][::-1], item[0]))
        return delivered


@st.composite
def hostile_traces(draw: st.DrawFn, max_clients: int, *, one_large_in: int = 4) -> tuple[Trace, HostileWire]:
    trace = draw(traces(max_clients, one_large_in=one_large_in))
    params = trace.session.params
    phases = [step.phase for step in params.steps]
    attack = st.builds(
        Attack,
        number=st.integers(0, params.n_rounds - 1),
        phase=st.sampled_from(phases),
        client_id=st.sampled_from(trace.session.cohort),
        upwards=st.booleans(),
        action=st.sampled_from(ACTIONS),
        place=st.integers(0, 2**24 - 1),
        replaces=st.booleans(),
    )
    attacks = tuple(draw(st.lists(attack, min_size=1, max_size=6)))
    return trace, HostileWire(attacks=attacks, signed=params.signed, reorder=draw(st.booleans()))


def play_among_attackers(case: tuple[Trace, HostileWire]) -> None:
    trace, wire = case
    session = trace.session
    wire.seen.clear()
    epoch = Epoch(trace.session, wire=wire)
    OUTCOMES["hostile traces"] += 1
    for number in range(session.params.n_rounds):
        vectors = make_vectors(session, seed=number)
        outcome = epoch.play(
            number, vectors, gone=trace.gone[number], participants=trace.participants[number]
        )  # any error outside the tree fails the test here
        assert not [
            where for where in outcome.taken_in_error if session.params.signed or "masked_input" in where
        ]
        OUTCOMES["refused"] += len(outcome.refused)
        OUTCOMES["client error"] += len(epoch.errors)
        if outcome.error is not None:
            OUTCOMES["hostile error"] += 1
            assert isinstance(outcome.error, SecureAggregationError)
            continue
        OUTCOMES["hostile sum"] += 1
        assert outcome.total is not None
        assert np.array_equal(outcome.total, plain_sum(session, vectors, outcome.survivors))
        assert all(outcome.verified.values())
        for error in epoch.errors.values():
            OUTCOMES["unverified"] += isinstance(error, VerificationError)


def run(function, strategy, n_examples: int, *, derandomize: bool = True) -> None:  # type: ignore[no-untyped-def]
    """Let Hypothesis play `n_examples` traces."""
    relaxed = settings(
        max_examples=n_examples,
        deadline=None,
        derandomize=derandomize,
        database=None,
        suppress_health_check=RELAXED,
    )
    relaxed(given(strategy)(function))()


def test_any_trace_gives_exact_sums_or_typed_errors() -> None:
    OUTCOMES.clear()
    run(play_honestly, traces(max_clients=14), 350)
    assert OUTCOMES["traces"] >= 350, OUTCOMES
    assert min(OUTCOMES["sum"], OUTCOMES["too few"]) >= 60, OUTCOMES
    assert min(OUTCOMES["later sum"], OUTCOMES["verified"]) >= 50, OUTCOMES


def test_any_trace_over_a_hostile_network_gives_exact_sums_or_typed_errors() -> None:
    OUTCOMES.clear()
    run(play_among_attackers, hostile_traces(max_clients=9), 250)
    assert OUTCOMES["hostile traces"] >= 250, OUTCOMES
    assert min(OUTCOMES["hostile sum"], OUTCOMES["hostile error"]) >= 50, OUTCOMES
    assert min(OUTCOMES["refused"], OUTCOMES["client error"]) >= 50, OUTCOMES


def test_a_client_that_was_left_out_for_want_of_holders_is_not_named_among_the_silent() -> None:
    params = make_params(8, 2, dimension=1, modulus_bits=8, n_neighbours=2, n_rounds=2)
    session = make_session(params, (0, 1, 2, 3, 4, 13, 146, 253), round=0)
    gone = {13: "advertise", 1: "advertise"}  # a client has one neighbour left
    epoch = Epoch(session)
    assert epoch.play(0, make_vectors(session), gone=gone).error is None
    left_out = set(session.cohort) - set(epoch.server.survivors) - gone.keys()
    assert left_out
    outcome = epoch.play(1, make_vectors(session), participants=(1, *left_out))
    assert isinstance(outcome.error, TooFewClientsError)
    assert outcome.error.culprits == (1,)


def test_even_without_masks_there_is_no_sum_below_the_threshold() -> None:
    session = make_session(make_params(3, 3, profile="unsafe_unmasked"))
    outcome = Epoch(session).play(0, make_vectors(session), gone={1: "masked_input"})
    assert isinstance(outcome.error, TooFewClientsError)
    assert outcome.error.culprits == (1,)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_ten_thousand_traces_with_up_to_forty_clients(part: int) -> None:
    """2,000 honest and 500 hostile ones in each part, new ones in each run."""
    del part
    OUTCOMES.clear()
    run(play_honestly, traces(max_clients=40, one_large_in=16), 2000, derandomize=False)
    run(play_among_attackers, hostile_traces(max_clients=40, one_large_in=16), 500, derandomize=False)
    assert OUTCOMES["traces"] >= 2000, OUTCOMES
    assert OUTCOMES["hostile traces"] >= 500, OUTCOMES
    print(dict(OUTCOMES))
