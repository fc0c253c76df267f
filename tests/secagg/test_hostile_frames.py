"""A malformed, replayed, late, truncated, oversized or foreign frame costs nobody but its sender."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_fed_diffusion.errors import (
    FrameError,
    PhaseError,
    SecureAggregationError,
)
from secure_fed_diffusion.secagg import codec
from secure_fed_diffusion.secagg.messages import (
    MaskedInput,
    ShareDelivery,
    Shares,
    Survivors,
    UnmaskShares,
)
from secure_fed_diffusion.secagg.phases import Kind, Step

from .hostile import HEADER, masked_with, payload_of, rewrap, signed_frame, with_length
from .rounds import CASES, Round, make_params, make_session, signing_key

PLACES = [(case, phase) for case in CASES for phase in Round.of(case).phases]
"""Every profile and phase in which the server takes frames."""


BAD: dict[str, Callable[[bytes], object]] = {
    "nothing": lambda f: b"",
    "header cut": lambda f: f[: HEADER - 1],
    "header alone": lambda f: f[:HEADER],
    "cut by one": lambda f: f[:-1],
    "cut by one, length corrected": lambda f: rewrap(f, f[HEADER:-1]),
    "empty payload, length corrected": lambda f: rewrap(f, b""),
    "longer by one": lambda f: f + b"\0",
    "longer by one, length corrected": lambda f: rewrap(f, f[HEADER:] + b"\0"),
    "oversized": lambda f: rewrap(f, f[HEADER:] + bytes(1 << 20)),
    "length of 2^64 - 1": lambda f: with_length(f, 2**64 - 1),
    "other magic": lambda f: b"X" + f[1:],
    "version before": lambda f: f[:4] + b"\2" + f[5:],
    "version after": lambda f: f[:4] + b"\4" + f[5:],
    "unknown kind": lambda f: f[:5] + b"\xff" + f[6:],
    "other session": lambda f: f[:18] + bytes([f[18] ^ 1]) + f[19:],
    "other sender": lambda f: f[:6] + struct.pack("<I", 1) + f[10:],
    "not bytes": lambda f: "frame",
    "none": lambda f: None,
    "a two-dimensional view": lambda f: memoryview(np.zeros((64, 4), dtype=np.uint8)),
    "all ones": lambda f: b"\xff" * len(f),
}


@pytest.mark.parametrize(("case", "phase"), PLACES)
def test_bad_frames_are_refused_by_name_and_cost_nobody_the_round(case: str, phase: str) -> None:
    a_round = Round.of(case).run_to(phase)
    frames = a_round.answers()
    for name, spoil in BAD.items():
        with pytest.raises(SecureAggregationError) as caught:
            a_round.server.receive(0, spoil(frames[0]))  # type: ignore[arg-type]
        assert isinstance(caught.value, FrameError | PhaseError), name
        assert caught.value.culprits == (0,), name
        assert a_round.server.heard == (), name
    a_round.close(frames)  # the right one is still welcome
    assert a_round.finish().is_exact()
    assert a_round.server.survivors == a_round.session.cohort


@pytest.mark.parametrize(("case", "phase"), PLACES)
def test_a_client_with_nothing_but_bad_frames_is_a_dropout(case: str, phase: str) -> None:
    a_round = Round.of(case).run_to(phase)
    frames = a_round.answers()
    with pytest.raises(FrameError):
        a_round.server.receive(0, frames.pop(0)[:-1])
    a_round.close(frames)
    assert a_round.finish().is_exact()
    assert (0 in a_round.server.survivors) == (phase in ("consistency", "unmask"))


@pytest.mark.parametrize(("case", "phase"), PLACES)
def test_a_replay_or_a_frame_of_another_client_is_refused_and_counted_once(case: str, phase: str) -> None:
    a_round = Round.of(case).run_to(phase)
    frames = a_round.answers()
    a_round.server.receive(2, frames[2])
    with pytest.raises(PhaseError, match="second frame") as caught:
        a_round.server.receive(2, frames.pop(2))
    assert caught.value.culprits == (2,)
    with pytest.raises(FrameError, match="of client 1"):
        a_round.server.receive(0, frames[1])
    a_round.close(frames)
    assert a_round.finish().is_exact()


@pytest.mark.parametrize(
    "change", [{"round": 4}, {"attempt": 1}, {"run_id": b"other"}, {"model_digest": b"m" * 32}]
)
@pytest.mark.parametrize("case", ["semi_honest", "active", "active_sparse", "unsafe_unmasked"])
def test_frames_of_another_session_are_refused(case: str, change: dict[str, object]) -> None:
    a_round = Round.of(case)
    for phase in a_round.phases:
        other = Round(make_session(a_round.session.params, **change)).run_to(phase).answers()
        a_round.run_to(phase)
        with pytest.raises(FrameError, match="another session"):
            a_round.server.receive(0, other[0])
    assert a_round.finish().is_exact()


@pytest.mark.parametrize("case", ["semi_honest", "active", "active_sparse", "verifiable"])
def test_every_frame_of_an_earlier_round_is_refused_in_a_later_one(case: str) -> None:
    a_round = Round.of(case, n_rounds=3)
    earlier: list[bytes] = []
    for number in range(3):
        if number:
            a_round.begin(number)
        while a_round.server.phase != "done":
            for frame in earlier:
                with pytest.raises(SecureAggregationError) as caught:
                    a_round.server.receive(0, frame)
                assert isinstance(caught.value, FrameError | PhaseError)
            frames = a_round.answers()
            earlier.append(frames[0])
            a_round.close(frames)
        assert a_round.is_exact()
        assert a_round.server.survivors == a_round.session.cohort


@pytest.mark.parametrize(("case", "phase"), PLACES)
def test_a_stranger_and_a_dropped_client_are_refused(case: str, phase: str) -> None:
    a_round = Round.of(case)
    phases, late = a_round.phases, None
    if phase != phases[0]:
        frames = a_round.run_to(phases[phases.index(phase) - 1]).answers()
        late = frames.pop(4)
        a_round.close(frames)
    with pytest.raises(PhaseError, match="client 77"):
        a_round.server.receive(77, b"")
    if late is not None:
        with pytest.raises(PhaseError, match="client 4"):
            a_round.server.receive(4, late)
    assert a_round.finish().is_exact()


@cache
def frames_of(case: str, phase: str) -> tuple[Round, Step, dict[int, bytes]]:
    """A round that stands at `phase` with all but client 0 delivered; nothing in it may change."""
    a_round = Round.of(case).run_to(phase)
    frames = a_round.answers()
    for v in frames.keys() - {0}:
        a_round.server.receive(v, frames[v])
    step = next(step for step in a_round.session.params.steps if step.phase == phase)
    return a_round, step, frames


@pytest.mark.parametrize(("case", "phase"), PLACES)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_every_bit_of_the_header_counts_and_every_bit_of_a_signed_frame(
    case: str, phase: str, data: st.DataObject
) -> None:
    a_round, step, frames = frames_of(case, phase)
    bit = data.draw(st.integers(0, 8 * len(frames[0]) - 1))
    spoilt = bytearray(frames[0])
    spoilt[bit // 8] ^= 1 << bit % 8
    before = a_round.server.heard
    try:
        a_round.server._unpack(step, 0, spoilt)
        taken = True
    except (FrameError, PhaseError):
        taken = False
    assert taken == (bit >= 8 * HEADER and not a_round.session.params.signed)
    assert a_round.server.heard == before


@pytest.mark.parametrize(
    ("case", "phase"), [place for place in PLACES if place[0] in ("active", "active_sparse", "verifiable")]
)
def test_a_signature_of_another_sender_kind_session_or_payload_is_refused(case: str, phase: str) -> None:
    a_round, _, frames = frames_of(case, phase)
    frame = frames[0]
    kind, bound_to, payload = codec.peek_kind(frame), frame[18:HEADER], payload_of(a_round, frame)
    other_kind = Kind.CHOICE if kind is Kind.ADVERT else Kind.ADVERT
    honest = {
        "kind": kind,
        "session_id": bound_to,
        "client_id": 0,
        "payload": payload,
        "masked_with": masked_with(a_round, 0),
    }
    signatures = {
        "none": b"",
        "zero": bytes(64),
        "another key": signing_key(1).sign(codec.signed_bytes(**honest)),
        "another client": signing_key(0).sign(codec.signed_bytes(**{**honest, "client_id": 1})),
        "another kind": signing_key(0).sign(codec.signed_bytes(**{**honest, "kind": other_kind})),
        "another session": signing_key(0).sign(codec.signed_bytes(**{**honest, "session_id": bytes(32)})),
        "another payload": signing_key(0).sign(codec.signed_bytes(**{**honest, "payload": payload + b"0"})),
        "the payload itself": signing_key(0).sign(payload),
    }
    for name, signature in signatures.items():
        with pytest.raises(FrameError) as caught:
            a_round.server.receive(0, rewrap(frame, payload + signature))
        assert caught.value.culprits == (0,), name
    assert signed_frame(a_round, 0, frame, payload) == frame  # the control: signed like this it is the frame


@pytest.mark.parametrize("case", ["active", "verifiable"])
def test_rows_out_of_order_and_rows_twice_are_refused(case: str) -> None:
    params = make_params(**CASES[case])
    row = bytes(66 + 16 + (32 if params.verifiable else 0))
    for ids in ((2, 1), (1, 1)):
        payload = struct.pack("<I", 2) + b"".join(struct.pack("<I", v) + row for v in ids)
        with pytest.raises(FrameError, match="ascend"):
            ShareDelivery.decode(payload, params)


@pytest.mark.parametrize("count", [3, 2**16, 2**31, 2**32 - 1])
def test_a_false_count_never_allocates(count: int) -> None:
    params = make_params()
    decoders: list[Callable[[bytes], object]] = [
        lambda p: Shares.decode(bytes(32) + p, params),
        lambda p: ShareDelivery.decode(p, params),
        UnmaskShares.decode,
    ]
    for decode in decoders:
        with pytest.raises(FrameError, match="truncated"):
            decode(struct.pack("<I", count) + bytes(90))


def test_padding_that_is_not_zero_is_refused() -> None:
    with pytest.raises(FrameError, match="padding"):
        Survivors.decode(b"\x20", 5)
    params = make_params(dimension=3, modulus_bits=20)
    with pytest.raises(FrameError, match="padding"):
        MaskedInput.decode(memoryview(bytes(7) + b"\x10"), params)


# Frames of the right form, signed by their sender, that lie.
