"""Frames of the right form with a false content: keys, shares, signatures, survivors, tags."""

from __future__ import annotations

import pytest

from secure_fed_diffusion.errors import (
    FrameError,
    RecoveryError,
)
from secure_fed_diffusion.secagg import shamir
from secure_fed_diffusion.secagg.messages import (
    ShareDelivery,
    Shares,
    UnmaskShares,
    write_ids,
)
from secure_fed_diffusion.secagg.tag import PRIME

from .hostile import HEADER, payload_of, rewrap, signed_frame
from .rounds import Round

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
