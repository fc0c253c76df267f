"""What a client under the profile semi_honest refuses, and what it gives away when it does not.

The attacks themselves, each beside a copy of ours that lacks the one defence, are in `weakened/` and, as
claims, in `threat_models/claims`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from secure_fed_diffusion import secagg
from secure_fed_diffusion.errors import (
    ConfigError,
    FrameError,
    PhaseError,
    PolicyError,
    SecureAggregationError,
    TooFewClientsError,
)
from secure_fed_diffusion.secagg import encoding
from secure_fed_diffusion.secagg.messages import Advert, ShareDelivery

from .forging import (
    HEADER,
    adverts_frame,
    adverts_of,
    delivery_frame,
    delivery_of,
    relabelled,
    survivor_frame,
    unmask_shares_of,
)
from .rounds import (
    PHASES,
    Round,
    fixed_entropy,
    make_params,
    make_session,
    make_vectors,
    signing_key,
)

INSIDE: dict[str, Any] = {"n_clients": 20, "threshold": 12, "modulus_bits": 32, "dimension": 1000}


# T7: the server asks for both kinds of share.


def test_a_second_survivor_list_gets_no_answer() -> None:
    a_round = Round().run_to("unmask")
    client = a_round.clients[0]
    client.unmask(survivor_frame(a_round, 0, {0, 1, 2, 3}))
    with pytest.raises(PhaseError):
        client.unmask(survivor_frame(a_round, 0, {0, 1, 2, 4}))


def test_a_refused_survivor_list_burns_the_shares_too() -> None:
    a_round = Round().run_to("unmask")
    client = a_round.clients[0]
    with pytest.raises(PolicyError):
        client.unmask(survivor_frame(a_round, 0, {0, 1}))
    with pytest.raises(PhaseError):
        client.unmask(survivor_frame(a_round, 0, {0, 1, 2, 3}))
    assert client._round is None


def test_a_client_left_out_of_the_list_after_delivering_refuses() -> None:
    a_round = Round().run_to("unmask")
    with pytest.raises(PolicyError, match="leaves out this client"):
        a_round.clients[0].unmask(survivor_frame(a_round, 0, {1, 2, 3, 4}))


def test_a_survivor_that_never_shared_is_refused() -> None:
    a_round = Round().run_to("share_keys")
    a_round.close({v: a_round.answer(v) for v in (0, 1, 2, 3)})
    a_round.run_to("unmask")
    with pytest.raises(PolicyError, match=r"shared no keys: \[4\]"):
        a_round.clients[0].unmask(survivor_frame(a_round, 0, {0, 1, 2, 3, 4}))


def test_with_a_majority_threshold_two_lists_never_give_both_secrets_of_one_client() -> None:
    """A lying server splits the cohort: it names client 0 alive to some, dropped to the others."""
    a_round = Round().run_to("unmask")
    replies = {1: {0, 1, 2, 3, 4}, 2: {0, 1, 2, 3, 4}, 3: {1, 2, 3, 4}, 4: {1, 2, 3, 4}}
    kinds = []
    for v, ids in replies.items():
        reply = unmask_shares_of(a_round, a_round.clients[v].unmask(survivor_frame(a_round, v, ids)))
        kinds.append("self" if 0 in reply.self_mask else "key")
    assert kinds == ["self", "self", "key", "key"]
    assert max(kinds.count("self") + 1, kinds.count("key")) < a_round.session.params.threshold


# T9: reuse and replay.


def masked_vector(session: secagg.Session, vector_seed: int) -> np.ndarray:
    """Client 0's masked vector, with the same key material whatever the session."""
    a_round = Round(session)
    a_round.vectors = make_vectors(session, vector_seed)
    a_round.run_to("masked_input")
    frame = a_round.answer(0)
    return encoding.unpack(memoryview(frame)[HEADER:], session.params.dimension, 32).copy()


@pytest.mark.parametrize(
    "change", [{"round": 4}, {"attempt": 1}, {"run_id": b"x"}, {"model_digest": b"m" * 32}]
)
def test_the_same_keys_in_another_session_give_another_mask(change: dict[str, Any]) -> None:
    params = make_params(dimension=4096)
    here, there = make_session(params), make_session(params, **change)
    difference = masked_vector(here, 1) - masked_vector(there, 2)
    plain = make_vectors(here, 1)[0].astype(np.uint32) - make_vectors(there, 2)[0].astype(np.uint32)
    assert np.count_nonzero(difference == plain) <= 1
    # The positive control: were the session the same, the masks would cancel.
    reused = masked_vector(here, 1) - masked_vector(here, 2)
    control = make_vectors(here, 1)[0].astype(np.uint32) - make_vectors(here, 2)[0].astype(np.uint32)
    assert np.array_equal(reused, control)


# T12: one client is shown another model.


def test_a_client_with_another_model_cannot_take_part_even_if_its_frames_are_relabelled() -> None:
    honest = Round()
    victim = Round(make_session(model_digest=b"\x01" * 32))
    frames = honest.answers()
    advert = victim.answer(0)
    frames[0] = relabelled(advert, honest.session.id)
    honest.close(frames)
    for_victim = honest.inbox[0]
    with pytest.raises(FrameError, match="another session"):
        victim.step(0, "share_keys", for_victim)
    victim = Round(victim.session)
    victim.answer(0)
    adverts = relabelled(for_victim, victim.session.id)
    shares = victim.step(0, "share_keys", adverts)
    frames = {v: honest.answer(v) for v in (1, 2, 3, 4)}
    frames[0] = relabelled(shares, honest.session.id)
    honest.close(frames)
    with pytest.raises(FrameError, match="client 0 sealed") as caught:
        honest.answer(1)  # the session salts the sealing keys
    assert caught.value.culprits == (0,)


# T13: low order.  T14: substitution, weak proposals.


def adverts_for(a_round: Round, client_id: int, **replace: Advert) -> bytes:
    changed = {int(v): advert for v, advert in replace.items()}
    return adverts_frame(a_round, client_id, {**adverts_of(a_round, client_id).adverts, **changed})


@pytest.mark.parametrize("point", [bytes(32), b"\x01" + bytes(31), (2**255 - 20).to_bytes(32, "little")])
def test_a_client_refuses_a_low_order_key_that_the_server_puts_in(point: bytes) -> None:
    a_round = Round().run_to("share_keys")
    advert = Advert(cipher_key=b"\x09" + bytes(31), mask_keys=(point,))
    with pytest.raises(FrameError, match="low order"):
        a_round.clients[0].share_keys(adverts_for(a_round, 0, **{"1": advert}))


def test_a_client_refuses_its_own_key_reflected() -> None:
    a_round = Round().run_to("share_keys")
    cipher_key, mask_key = a_round.clients[0]._setup._own_advert().public_keys
    for advert in (
        Advert(cipher_key=cipher_key, mask_keys=(b"\x09" + bytes(31),)),
        Advert(cipher_key=b"\x09" + bytes(31), mask_keys=(mask_key,)),
    ):
        fresh = Round().run_to("share_keys")
        with pytest.raises(FrameError, match="own key") as caught:
            fresh.clients[0].share_keys(adverts_for(fresh, 0, **{"1": advert}))
        assert caught.value.culprits == (1,)


def test_a_client_refuses_one_key_under_two_names() -> None:
    a_round = Round().run_to("share_keys")
    adverts = adverts_of(a_round, 0).adverts
    with pytest.raises(FrameError, match="same public key"):
        a_round.clients[0].share_keys(adverts_for(a_round, 0, **{"1": adverts[2]}))


def test_a_client_refuses_neighbours_that_the_graph_does_not_give_it() -> None:
    session = make_session(make_params(9, 4, n_neighbours=4))
    a_round = Round(session).run_to("share_keys")
    stranger = next(v for v in range(1, 9) if v not in session.graph.neighbours(0))
    advert = Advert(cipher_key=b"\x09" + bytes(31), mask_keys=(b"\x0a" + bytes(31),))
    with pytest.raises(FrameError, match=f"{stranger}"):
        a_round.clients[0].share_keys(adverts_for(a_round, 0, **{str(stranger): advert}))


def test_a_client_refuses_shares_from_a_client_that_did_not_advertise() -> None:
    a_round = Round()
    a_round.close({v: a_round.answer(v) for v in (0, 1, 2, 3)})
    a_round.run_to("masked_input")
    sealed = dict(delivery_of(a_round, 0).sealed)
    frame = delivery_frame(a_round, 0, ShareDelivery(sealed={**sealed, 4: sealed[1]}))
    with pytest.raises(FrameError, match=r"\[4\] shared"):
        a_round.clients[0].masked_input(frame, a_round.vectors[0])


@pytest.mark.parametrize("phase", PHASES[1:])
def test_a_client_refuses_a_frame_meant_for_another(phase: str) -> None:
    a_round = Round().run_to(phase)
    with pytest.raises(FrameError, match="of client 1"):
        a_round.step(0, phase, a_round.inbox[1])


@pytest.mark.parametrize("phase", ["share_keys", "masked_input"])
def test_a_client_refuses_to_go_on_with_fewer_holders_than_the_threshold(phase: str) -> None:
    a_round = Round().run_to(phase)
    if phase == "share_keys":
        adverts = adverts_of(a_round, 0).adverts
        short = adverts_frame(a_round, 0, {v: adverts[v] for v in (1, 2)})
    else:
        sealed = delivery_of(a_round, 0).sealed
        short = delivery_frame(a_round, 0, ShareDelivery(sealed={v: sealed[v] for v in (1, 2)}))
    with pytest.raises(TooFewClientsError, match="threshold=4 holders, 3 left"):
        a_round.step(0, phase, short)


def test_a_client_refuses_survivors_whose_graph_fell_apart() -> None:
    session = make_session(make_params(12, 2, n_neighbours=2))
    a_round = Round(session).run_to("unmask")
    ring = session.graph._ring
    survivors = set(session.cohort) - {ring[0], ring[6]}
    with pytest.raises(TooFewClientsError, match="fell apart"):
        a_round.clients[ring[2]].unmask(survivor_frame(a_round, ring[2], survivors))


@pytest.mark.parametrize(
    ("policy", "proposal"),
    [
        ({}, {"n_clients": 2, "threshold": 2}),
        ({"min_cohort": 21}, {}),
        ({"min_threshold": 13}, {}),
        ({"min_modulus_bits": 33}, {}),
        ({"max_modulus_bits": 31}, {}),
        ({"max_dimension": 999}, {}),
        ({}, {"n_neighbours": 10, "threshold": 6}),
        ({"colluders": 12}, {}),
        ({"profiles": ()}, {}),
        ({"profiles": ("active",)}, {}),
    ],
)
def test_a_client_refuses_what_lies_outside_its_policy(
    policy: dict[str, Any], proposal: dict[str, Any]
) -> None:
    session = make_session(make_params(**(INSIDE | proposal)))
    with pytest.raises(PolicyError, match="this client"):
        secagg.Client(session, 0, policy=secagg.Policy(**policy))


def test_the_default_policy_takes_a_sound_proposal() -> None:
    assert secagg.Client(make_session(make_params(**INSIDE)), 0).phase == "advertise"


def test_the_policy_bounds_the_survivors() -> None:
    session = make_session()
    a_round = Round(session)
    policy = secagg.Policy(min_survivors=5)
    a_round.clients[0] = secagg.Client(session, 0, policy=policy, entropy=fixed_entropy("other"))
    a_round.run_to("masked_input")
    a_round.close({v: a_round.answer(v) for v in (0, 1, 2, 3)})
    with pytest.raises(PolicyError, match="n_survivors=4; this client asks for at least 5"):
        a_round.answer(0)


def test_two_survivors_are_too_few_by_default_because_each_would_read_the_other() -> None:
    with pytest.raises(PolicyError):
        secagg.Policy().check_survivors(2)


def test_a_client_outside_the_cohort_is_refused() -> None:
    with pytest.raises(ConfigError, match="not in the cohort"):
        secagg.Client(make_session(), 9)


@pytest.mark.parametrize(("client_id", "kind"), [("1", "str"), (1.5, "float"), (None, "NoneType")])
def test_an_id_that_is_no_integer_is_said_to_be_none(client_id: Any, kind: str) -> None:
    with pytest.raises(ConfigError, match=f"client_id: expected an integer, got {kind}"):
        secagg.Client(make_session(), client_id)


# T15: tampered shares.


@pytest.mark.parametrize("culprit", [1, 4])
def test_a_sealed_share_that_was_altered_stops_its_receiver_and_names_its_sender(culprit: int) -> None:
    a_round = Round().run_to("masked_input")
    sealed = dict(delivery_of(a_round, 0).sealed)
    altered = bytearray(sealed[culprit])
    altered[7] ^= 1
    spoilt = delivery_frame(a_round, 0, ShareDelivery(sealed={**sealed, culprit: bytes(altered)}))
    with pytest.raises(FrameError, match=f"client {culprit} sealed for client 0") as caught:
        a_round.clients[0].masked_input(spoilt, a_round.vectors[0])
    assert caught.value.culprits == (culprit,)


def test_sealed_shares_cannot_be_swapped_between_senders() -> None:
    a_round = Round().run_to("masked_input")
    sealed = dict(delivery_of(a_round, 0).sealed)
    sealed[1], sealed[2] = sealed[2], sealed[1]
    swapped = delivery_frame(a_round, 0, ShareDelivery(sealed=sealed))
    with pytest.raises(FrameError, match="do not open"):
        a_round.clients[0].masked_input(swapped, a_round.vectors[0])


@pytest.mark.parametrize(
    "vector",
    [
        np.zeros(15, dtype=np.uint32),
        np.zeros((16, 1), dtype=np.uint32),
        np.zeros(16),
        np.full(16, -1),
        np.full(16, 2**32, dtype=np.uint64),
        np.zeros(16, dtype=bool),
    ],
)
def test_a_vector_that_is_not_of_the_ring_is_refused(vector: np.ndarray) -> None:
    a_round = Round().run_to("masked_input")
    a_round.vectors[0] = vector
    with pytest.raises(ConfigError, match="vector"):
        a_round.answer(0)


def test_the_input_vector_is_not_changed() -> None:
    a_round = Round().run_to("masked_input")
    a_round.vectors[0] = a_round.vectors[0].astype(np.uint32)
    before = a_round.vectors[0].copy()
    a_round.answer(0)
    assert np.array_equal(a_round.vectors[0], before)


def test_the_repr_of_a_machine_shows_no_secret() -> None:
    a_round = Round.of("verifiable").run_to("masked_input")
    client = a_round.clients[0]
    ring = client._setup.keyring
    own = ring.rounds[0]
    shown = repr((client, client._setup, ring, own, ring.held, signing_key(0)))
    a_round.answer(0)
    opened = client._round
    assert opened is not None
    assert opened.tag_key is not None
    shown += repr((opened, opened.held, opened.tag_key, ring))
    for secret in (*own, ring.group_key, opened.tag_key.secret, signing_key(0).secret):
        assert secret
        assert secret.hex() not in shown
        assert repr(secret) not in shown
    assert opened.held
    assert not any(f"{n}" in shown or f"{n:x}" in shown for pair in opened.held.values() for n in pair)


def test_errors_are_all_of_one_family() -> None:
    for family in (FrameError, PhaseError, PolicyError, TooFewClientsError):
        assert issubclass(family, SecureAggregationError)
