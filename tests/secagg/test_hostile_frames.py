"""A malformed, replayed, late, truncated, oversized or foreign frame costs nobody but its sender."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secure_fed_diffusion.errors import FrameError, PhaseError, RecoveryError, SecureAggregationError
from secure_fed_diffusion.secagg import codec, shamir
from secure_fed_diffusion.secagg.messages import (
    Advert,
    AdvertList,
    MaskedInput,
    ShareDelivery,
    Shares,
    Survivors,
    UnmaskShares,
)
from secure_fed_diffusion.secagg.phases import Kind

from .rounds import PHASES, STEPS, Round, make_params, make_session

HEADER = codec.HEADER_BYTES


def with_length(frame: bytes, payload_bytes: int) -> bytes:
    return frame[:10] + struct.pack("<Q", payload_bytes) + frame[18:]


def rewrap(frame: bytes, payload: bytes) -> bytes:
    """The same header around another payload, its length corrected."""
    return with_length(frame[:HEADER], len(payload)) + payload


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
    "other version": lambda f: f[:4] + b"\2" + f[5:],
    "unknown kind": lambda f: f[:5] + b"\xff" + f[6:],
    "other session": lambda f: f[:18] + bytes([f[18] ^ 1]) + f[19:],
    "other sender": lambda f: f[:6] + struct.pack("<I", 1) + f[10:],
    "not bytes": lambda f: "frame",
    "none": lambda f: None,
    "a two-dimensional view": lambda f: memoryview(np.zeros((64, 4), dtype=np.uint8)),
    "all ones": lambda f: b"\xff" * len(f),
}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("spoil", BAD)
def test_a_bad_frame_is_refused_by_name_and_costs_nobody_the_round(phase: str, spoil: str) -> None:
    a_round = Round().run_to(phase)
    frames = a_round.answers()
    with pytest.raises(SecureAggregationError) as caught:
        a_round.server.receive(0, BAD[spoil](frames[0]))  # type: ignore[arg-type]
    assert isinstance(caught.value, FrameError | PhaseError)
    assert caught.value.culprits == (0,)
    a_round.close(frames)  # the right one is still welcome
    assert a_round.finish().is_exact()
    assert a_round.server.survivors == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("phase", PHASES)
def test_a_client_with_nothing_but_bad_frames_is_a_dropout(phase: str) -> None:
    a_round = Round().run_to(phase)
    frames = a_round.answers()
    with pytest.raises(FrameError):
        a_round.server.receive(0, frames.pop(0)[:-1])
    a_round.close(frames)
    assert a_round.finish().is_exact()
    assert (0 in a_round.server.survivors) == (phase == "unmask")


@pytest.mark.parametrize("phase", PHASES)
def test_a_replay_is_refused_and_counted_once(phase: str) -> None:
    a_round = Round().run_to(phase)
    frames = a_round.answers()
    a_round.server.receive(2, frames[2])
    with pytest.raises(PhaseError, match="second frame") as caught:
        a_round.server.receive(2, frames.pop(2))
    assert caught.value.culprits == (2,)
    a_round.close(frames)
    assert a_round.finish().is_exact()


@pytest.mark.parametrize("phase", PHASES)
def test_a_frame_of_another_client_is_refused(phase: str) -> None:
    a_round = Round().run_to(phase)
    frames = a_round.answers()
    with pytest.raises(FrameError, match="of client 1"):
        a_round.server.receive(0, frames[1])
    a_round.close(frames)
    assert a_round.finish().is_exact()


@pytest.mark.parametrize(
    "change", [{"round": 4}, {"attempt": 1}, {"run_id": b"other"}, {"model_digest": b"m" * 32}]
)
@pytest.mark.parametrize("phase", PHASES)
def test_a_frame_of_another_session_is_refused(phase: str, change: dict[str, object]) -> None:
    other = Round(make_session(**change)).run_to(phase).answers()
    a_round = Round().run_to(phase)
    with pytest.raises(FrameError, match="another session"):
        a_round.server.receive(0, other[0])
    assert a_round.finish().is_exact()


@pytest.mark.parametrize("phase", PHASES)
def test_a_stranger_and_a_dropped_client_are_refused(phase: str) -> None:
    a_round = Round()
    late = None
    if phase != "advertise":
        frames = a_round.run_to(PHASES[PHASES.index(phase) - 1]).answers()
        late = frames.pop(4)
        a_round.close(frames)
    with pytest.raises(PhaseError, match="client 77"):
        a_round.server.receive(77, b"")
    if late is not None:
        with pytest.raises(PhaseError, match="client 4"):
            a_round.server.receive(4, late)
    assert a_round.finish().is_exact()


@cache
def frames_of(phase: str) -> tuple[Round, dict[int, bytes]]:
    """A round that stands at `phase` with all but client 0 delivered; nothing in it may change."""
    a_round = Round().run_to(phase)
    frames = a_round.answers()
    for v in (1, 2, 3, 4):
        a_round.server.receive(v, frames[v])
    return a_round, frames


@pytest.mark.parametrize("phase", ["advertise", "share_keys", "unmask"])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_flipped_bits_are_refused_or_leave_a_frame_of_the_right_form(phase: str, data: st.DataObject) -> None:
    a_round, frames = frames_of(phase)
    bit = data.draw(st.integers(0, 8 * len(frames[0]) - 1))
    spoilt = bytearray(frames[0])
    spoilt[bit // 8] ^= 1 << bit % 8
    before = a_round.server.heard
    try:
        a_round.server._unpack(STEPS[PHASES.index(phase)], 0, spoilt)
        taken = True
    except (FrameError, PhaseError):
        taken = False
    assert taken == (bit >= 8 * HEADER)  # every bit of the header counts
    assert a_round.server.heard == before


DECODERS: dict[str, Callable[[bytes], object]] = {
    "advert": Advert.decode,
    "advert list": AdvertList.decode,
    "shares": Shares.decode,
    "delivery": ShareDelivery.decode,
    "masked input": lambda payload: MaskedInput.decode(
        memoryview(payload), make_params(dimension=3, modulus_bits=20)
    ),
    "survivors": lambda payload: Survivors.decode(payload, 5),
    "unmask shares": UnmaskShares.decode,
    "frame": lambda frame: codec.unpack(frame, Kind.ADVERT, session_id=bytes(32), client_id=0),
}


@pytest.mark.parametrize("decoder", DECODERS)
@settings(max_examples=150, deadline=None, derandomize=True)
@given(payload=st.binary(max_size=300))
def test_arbitrary_bytes_raise_nothing_but_frame_errors(decoder: str, payload: bytes) -> None:
    try:
        DECODERS[decoder](payload)
    except FrameError as error:
        refused = str(error)
        assert refused


@pytest.mark.parametrize("decoder", ["advert list", "shares", "delivery", "unmask shares"])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(count=st.integers(0, 2**32 - 1), rest=st.binary(max_size=200))
def test_a_false_count_never_allocates_or_crashes(decoder: str, count: int, rest: bytes) -> None:
    prefix = bytes(32) if decoder == "shares" else b""
    try:
        decoded = DECODERS[decoder](prefix + struct.pack("<I", count) + rest)
    except FrameError:
        decoded = None
    assert decoded is None or count <= 200


def test_rows_out_of_order_and_rows_twice_are_refused() -> None:
    row = bytes(66 + 16)
    for ids in ((2, 1), (1, 1)):
        payload = struct.pack("<I", 2) + b"".join(struct.pack("<I", v) + row for v in ids)
        with pytest.raises(FrameError, match="ascend"):
            ShareDelivery.decode(payload)


def test_padding_that_is_not_zero_is_refused() -> None:
    with pytest.raises(FrameError, match="padding"):
        Survivors.decode(b"\x20", 5)
    params = make_params(dimension=3, modulus_bits=20)
    with pytest.raises(FrameError, match="padding"):
        MaskedInput.decode(memoryview(bytes(7) + b"\x10"), params)


# Frames of the right form that lie.


def test_an_advert_of_low_order_is_refused_by_the_server_so_that_it_costs_the_others_nothing() -> None:
    a_round = Round()
    frames = a_round.answers()
    for point in (bytes(32), b"\x01" + bytes(31), (2**255 - 20).to_bytes(32, "little")):
        for payload in (point + frames[0][-32:], frames[0][-64:-32] + point):
            with pytest.raises(FrameError, match="low order"):
                a_round.server.receive(0, rewrap(frames[0], payload))
    del frames[0]
    a_round.close(frames)
    assert a_round.finish().is_exact()


def test_a_copied_public_key_is_refused_by_the_server() -> None:
    a_round = Round()
    frames = a_round.answers()
    a_round.server.receive(1, frames[1])
    for copied in (frames[1][HEADER:], frames[1][-32:] + frames[0][-32:]):
        with pytest.raises(FrameError, match="another client advertised"):
            a_round.server.receive(0, rewrap(frames[0], copied))


def test_shares_for_the_wrong_receivers_are_refused_by_the_server() -> None:
    a_round = Round().run_to("share_keys")
    frames = a_round.answers()
    shares = Shares.decode(frames[0][HEADER:])
    for sealed in (
        {v: s for v, s in shares.sealed.items() if v != 4},
        {**shares.sealed, 0: shares.sealed[1]},
        {**shares.sealed, 9: shares.sealed[1]},
    ):
        lie = Shares(commitment=shares.commitment, sealed=sealed).encode()
        with pytest.raises(FrameError, match="other clients"):
            a_round.server.receive(0, rewrap(frames[0], lie))
    a_round.close(frames)
    assert a_round.finish().is_exact()


def test_unmask_shares_of_the_wrong_kind_or_owner_are_refused_by_the_server() -> None:
    a_round = Round().run_to("masked_input")
    a_round.close({v: a_round.answer(v) for v in (0, 1, 2, 3)})
    frames = a_round.answers()
    reply = UnmaskShares.decode(frames[0][HEADER:])
    assert set(reply.self_mask) == {0, 1, 2, 3}
    assert set(reply.mask_key) == {4}
    lies = [
        UnmaskShares(self_mask=reply.self_mask, mask_key={}),
        UnmaskShares(self_mask={**reply.self_mask, 4: 1}, mask_key={}),
        UnmaskShares(self_mask={0: 1, 2: 1, 3: 1}, mask_key={1: 1, 4: 1}),
        UnmaskShares(self_mask=reply.self_mask, mask_key={**reply.mask_key, 9: 1}),
    ]
    for lie in lies:
        with pytest.raises(FrameError, match="of the kind due"):
            a_round.server.receive(0, rewrap(frames[0], lie.encode()))
    both = UnmaskShares(self_mask=reply.self_mask, mask_key={1: 1, 4: 1})
    with pytest.raises(FrameError, match="both kinds"):
        a_round.server.receive(0, rewrap(frames[0], both.encode()))
    out = frames[0][HEADER:-33] + shamir.PRIME.to_bytes(33, "little")
    with pytest.raises(FrameError, match="outside the field"):
        a_round.server.receive(0, rewrap(frames[0], out))
    a_round.close(frames)
    assert a_round.is_exact()


def tampered(frame: bytes) -> bytes:
    """The same unmask frame with every share changed."""
    reply = UnmaskShares.decode(frame[HEADER:])
    changed = UnmaskShares(
        self_mask={v: share ^ 1 for v, share in reply.self_mask.items()},
        mask_key={v: share ^ 1 for v, share in reply.mask_key.items()},
    )
    return rewrap(frame, changed.encode())


@pytest.mark.parametrize("liar", range(5))
def test_one_tampered_reply_is_survived_where_there_is_a_share_to_spare(liar: int) -> None:
    a_round = Round().run_to("unmask")
    frames = a_round.answers()
    frames[liar] = tampered(frames[liar])
    a_round.close(frames)
    assert a_round.is_exact()


def test_a_tampered_reply_without_a_spare_is_a_typed_error_and_never_a_wrong_sum() -> None:
    a_round = Round().run_to("unmask")
    frames = a_round.answers()
    del frames[0]
    frames[2] = tampered(frames[2])
    with pytest.raises(RecoveryError, match="client 0's secret"):
        a_round.close(frames)
    assert a_round.server.phase == "failed"


def test_a_recovered_mask_key_is_checked_against_the_advertised_public_key() -> None:
    a_round = Round().run_to("masked_input")
    a_round.close({v: a_round.answer(v) for v in (0, 1, 2, 3)})
    frames = a_round.answers()
    reply = UnmaskShares.decode(frames[2][HEADER:])
    lie = UnmaskShares(self_mask=reply.self_mask, mask_key={4: reply.mask_key[4] ^ 2})
    frames[2] = rewrap(frames[2], lie.encode())
    with pytest.raises(RecoveryError, match=r"client 4's secret.*it or a holder lied") as caught:
        a_round.close(frames)
    assert caught.value.culprits == ()  # without signatures nobody can be proven to have lied


def test_no_error_shows_the_content_of_a_share() -> None:
    a_round = Round().run_to("unmask")
    frames = a_round.answers()
    reply = UnmaskShares.decode(frames[2][HEADER:])
    del frames[0]
    frames[2] = tampered(frames[2])
    with pytest.raises(RecoveryError) as caught:
        a_round.close(frames)
    text = repr(caught.value)
    assert not any(str(share) in text or f"{share:x}" in text for share in reply.self_mask.values())
