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
    RecoveryError,
    SecureAggregationError,
)
from secure_fed_diffusion.secagg import codec, shamir
from secure_fed_diffusion.secagg.messages import (
    MaskedInput,
    ShareDelivery,
    Shares,
    Survivors,
    UnmaskShares,
    write_ids,
)
from secure_fed_diffusion.secagg.phases import Kind, Step
from secure_fed_diffusion.secagg.tag import PRIME

from .rounds import CASES, Round, make_params, make_session, signing_key

HEADER = codec.HEADER_BYTES
PLACES = [(case, phase) for case in CASES for phase in Round.of(case).phases]
"""Every profile and phase in which the server takes frames."""


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
    "version before": lambda f: f[:4] + b"\1" + f[5:],
    "version after": lambda f: f[:4] + b"\3" + f[5:],
    "unknown kind": lambda f: f[:5] + b"\xff" + f[6:],
    "other session": lambda f: f[:18] + bytes([f[18] ^ 1]) + f[19:],
    "other sender": lambda f: f[:6] + struct.pack("<I", 1) + f[10:],
    "not bytes": lambda f: "frame",
    "none": lambda f: None,
    "a two-dimensional view": lambda f: memoryview(np.zeros((64, 4), dtype=np.uint8)),
    "all ones": lambda f: b"\xff" * len(f),
}


def signed_frame(a_round: Round, client_id: int, frame: bytes, payload: bytes) -> bytes:
    """A frame with another payload, signed by its sender where the profile signs."""
    kind, session_id = codec.peek_kind(frame), frame[18:HEADER]
    signature = b""
    if a_round.session.params.signed:
        signature = signing_key(client_id).sign(
            codec.signed_bytes(
                kind,
                session_id=session_id,
                client_id=client_id,
                payload=payload,
                masked_with=masked_with(a_round, client_id),
            )
        )
    return codec.pack(kind, session_id=session_id, client_id=client_id, payload=payload, signature=signature)


def masked_with(a_round: Round, client_id: int) -> frozenset[int]:
    a_servers_round = a_round.server._round
    return a_servers_round.masked_with(client_id) if a_servers_round else frozenset()


def payload_of(a_round: Round, frame: bytes) -> bytes:
    return frame[HEADER : len(frame) - (64 if a_round.session.params.signed else 0)]


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

COMPLETE = ("semi_honest", "active", "verifiable")  # five clients, threshold four, everyone with everyone


@pytest.mark.parametrize("case", ["semi_honest", "active", "active_sparse"])
def test_an_advert_of_low_order_is_refused_by_the_server_so_that_it_costs_the_others_nothing(
    case: str,
) -> None:
    a_round = Round.of(case)
    frames = a_round.answers()
    keys = payload_of(a_round, frames[0])
    for point in (bytes(32), b"\x01" + bytes(31), (2**255 - 20).to_bytes(32, "little")):
        for payload in (point + keys[32:], keys[:32] + point):
            with pytest.raises(FrameError, match="low order"):
                a_round.server.receive(0, signed_frame(a_round, 0, frames[0], payload))
    del frames[0]
    a_round.close(frames)
    assert a_round.finish().is_exact()


@pytest.mark.parametrize("case", ["semi_honest", "active", "active_sparse"])
def test_a_copied_public_key_is_refused_by_the_server(case: str) -> None:
    a_round = Round.of(case)
    frames = a_round.answers()
    a_round.server.receive(1, frames[1])
    own, other = (payload_of(a_round, frames[v]) for v in (0, 1))
    for copied in (other, other[32:] + own[32:], own[:32] + other[:32]):
        with pytest.raises(FrameError, match="another client advertised"):
            a_round.server.receive(0, signed_frame(a_round, 0, frames[0], copied))
    with pytest.raises(FrameError, match="twice in one advert"):
        a_round.server.receive(0, signed_frame(a_round, 0, frames[0], own[:32] * 2))


@pytest.mark.parametrize("case", ["semi_honest", "active", "verifiable", "active_sparse"])
def test_shares_for_the_wrong_receivers_are_refused_by_the_server(case: str) -> None:
    a_round = Round.of(case).run_to("share_keys")
    params = a_round.session.params
    frames = a_round.answers()
    shares = Shares.decode(payload_of(a_round, frames[0]), params)
    one = next(iter(shares.sealed))
    for sealed in (
        {v: s for v, s in shares.sealed.items() if v != one},
        {**shares.sealed, 0: shares.sealed[one]},
        {**shares.sealed, 99: shares.sealed[one]},
        {},
    ):
        lie = Shares(commitments=shares.commitments, sealed=sealed).encode(params)
        with pytest.raises(FrameError, match="other clients"):
            a_round.server.receive(0, signed_frame(a_round, 0, frames[0], lie))
    a_round.close(frames)
    assert a_round.finish().is_exact()


def test_a_choice_of_oneself_a_stranger_or_another_number_is_refused_by_the_server() -> None:
    a_round = Round.of("active_sparse").run_to("choose")
    frames = a_round.answers()
    for ids in ((0, 1, 2, 3, 4, 5), (1, 2, 3, 4, 5, 77), (1, 2, 3, 4, 5), (1, 2, 3, 4, 5, 6, 7), ()):
        lie = write_ids(ids)
        with pytest.raises(FrameError, match="client 0, choose"):
            a_round.server.receive(0, signed_frame(a_round, 0, frames[0], lie))
    a_round.close(frames)
    assert a_round.finish().is_exact()


@pytest.mark.parametrize("case", ["active", "active_sparse", "verifiable"])
def test_a_signature_over_another_survivor_list_is_refused_by_the_server(case: str) -> None:
    a_round = Round.of(case).run_to("consistency")
    frames = a_round.answers()
    for lie in (bytes(32), b"", payload_of(a_round, frames[0])[:-1]):
        with pytest.raises(FrameError, match="another survivor list"):
            a_round.server.receive(0, signed_frame(a_round, 0, frames[0], lie))
    a_round.close(frames)
    assert a_round.finish().is_exact()


@pytest.mark.parametrize("case", COMPLETE)
def test_unmask_shares_of_the_wrong_kind_or_owner_are_refused_by_the_server(case: str) -> None:
    a_round = Round.of(case).run_to("unmask", dropouts={4: "masked_input"})
    frames = a_round.answers()
    reply = UnmaskShares.decode(payload_of(a_round, frames[0]))
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
            a_round.server.receive(0, signed_frame(a_round, 0, frames[0], lie.encode()))
    both = UnmaskShares(self_mask=reply.self_mask, mask_key={1: 1, 4: 1})
    with pytest.raises(FrameError, match="both kinds"):
        a_round.server.receive(0, signed_frame(a_round, 0, frames[0], both.encode()))
    out = payload_of(a_round, frames[0])[:-33] + shamir.PRIME.to_bytes(33, "little")
    with pytest.raises(FrameError, match="outside the field"):
        a_round.server.receive(0, signed_frame(a_round, 0, frames[0], out))
    a_round.close(frames)
    assert a_round.is_exact()


@pytest.mark.parametrize("tag", [PRIME, PRIME + 1, 2**64 - 1])
def test_a_tag_that_is_not_reduced_is_refused_by_the_server(tag: int) -> None:
    a_round = Round.of("verifiable").run_to("masked_input")
    frames = a_round.answers()
    lie = payload_of(a_round, frames[0])[:-8] + tag.to_bytes(8, "little")
    with pytest.raises(FrameError, match="no reduced tag"):
        a_round.server.receive(0, signed_frame(a_round, 0, frames[0], lie))
    a_round.close(frames)
    assert a_round.finish().is_exact()


def tampered(a_round: Round, client_id: int, frame: bytes) -> bytes:
    """The same unmask frame with every share changed."""
    reply = UnmaskShares.decode(payload_of(a_round, frame))
    changed = UnmaskShares(
        self_mask={v: share ^ 1 for v, share in reply.self_mask.items()},
        mask_key={v: share ^ 1 for v, share in reply.mask_key.items()},
    )
    return signed_frame(a_round, client_id, frame, changed.encode())


@pytest.mark.parametrize("case", COMPLETE)
@pytest.mark.parametrize("liar", range(5))
def test_one_tampered_reply_is_survived_where_there_is_a_share_to_spare(case: str, liar: int) -> None:
    a_round = Round.of(case).run_to("unmask")
    frames = a_round.answers()
    frames[liar] = tampered(a_round, liar, frames[liar])
    a_round.close(frames)
    assert a_round.is_exact()
    if liar < 4:  # of the five shares the first four were tried first
        assert {holder for _, holder in a_round.server.suspects} == {liar}


@pytest.mark.parametrize("case", COMPLETE)
def test_a_tampered_reply_without_a_spare_is_a_typed_error_and_never_a_wrong_sum(case: str) -> None:
    a_round = Round.of(case).run_to("unmask")
    frames = a_round.answers()
    del frames[0]
    frames[2] = tampered(a_round, 2, frames[2])
    with pytest.raises(RecoveryError, match="client 0's secret"):
        a_round.close(frames)
    assert a_round.server.phase == "failed"


@pytest.mark.parametrize("case", COMPLETE)
def test_a_recovered_mask_key_is_checked_against_the_advertised_public_key(case: str) -> None:
    a_round = Round.of(case).run_to("unmask", dropouts={4: "masked_input"})
    frames = a_round.answers()
    reply = UnmaskShares.decode(payload_of(a_round, frames[2]))
    lie = UnmaskShares(self_mask=reply.self_mask, mask_key={4: reply.mask_key[4] ^ 2})
    frames[2] = signed_frame(a_round, 2, frames[2], lie.encode())
    with pytest.raises(RecoveryError, match=r"client 4's secret.*it or a holder lied") as caught:
        a_round.close(frames)
    assert caught.value.culprits == ()  # what is sealed between two has no witness


@pytest.mark.parametrize("case", COMPLETE)
def test_no_error_shows_the_content_of_a_share(case: str) -> None:
    a_round = Round.of(case).run_to("unmask")
    frames = a_round.answers()
    reply = UnmaskShares.decode(payload_of(a_round, frames[2]))
    del frames[0]
    frames[2] = tampered(a_round, 2, frames[2])
    with pytest.raises(RecoveryError) as caught:
        a_round.close(frames)
    text = repr(caught.value)
    assert not any(str(share) in text or f"{share:x}" in text for share in reply.self_mask.values())


@pytest.mark.parametrize("case", ["active", "active_sparse", "verifiable"])
def test_a_client_whose_delivery_was_altered_on_its_way_is_left_out_and_the_sum_is_exact(case: str) -> None:
    """A network hides one sharer from client 0: its masks would not cancel, and nobody would see it."""
    a_round = Round.of(case).run_to("masked_input")
    params, frame = a_round.session.params, a_round.inbox[0]
    delivery = ShareDelivery.decode(frame[HEADER:], params)
    kept = dict(list(delivery.sealed.items())[1:])
    hidden = ShareDelivery(sealed=kept, masks_only=delivery.masks_only)
    a_round.inbox[0] = rewrap(frame, hidden.encode(params))
    answers = a_round.answers()
    with pytest.raises(FrameError, match="signature") as caught:
        a_round.server.receive(0, answers.pop(0))
    assert caught.value.culprits == (0,)
    a_round.close(answers)
    a_round.finish()
    assert 0 not in a_round.server.survivors
    assert a_round.is_exact()
