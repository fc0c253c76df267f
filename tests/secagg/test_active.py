"""Signed frames: a server that forges, substitutes or withholds, against clients of the profile active."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from secure_fed_diffusion import secagg
from secure_fed_diffusion.errors import (
    ConfigError,
    FrameError,
    TooFewClientsError,
)
from secure_fed_diffusion.secagg import codec
from secure_fed_diffusion.secagg.phases import FAILED, Kind, Step
from secure_fed_diffusion.secagg.signing import SIGNATURE_BYTES

from .forging import (
    HEADER,
    advert_signature,
    adverts_frame,
    adverts_of,
    fresh_advert,
    payload_of,
    relabelled,
    round_id,
    signature_in,
)
from .rounds import (
    CASES,
    Round,
    make_params,
    make_roster,
    make_session,
    signing_key,
)

SIGNED = ("active", "active_sparse", "verifiable")
SIGNED_STEPS = [
    (case, step) for case in SIGNED for step in make_params(**CASES[case]).steps if step.sends is not None
]
STRANGER = secagg.SigningKey(b"\x07" * 32)


def name(value: object) -> str:
    return value.phase if isinstance(value, Step) else str(value)


# Signatures on the clients' frames.


def signed_by(key: secagg.SigningKey, step: Step, a_round: Round, frame: bytes) -> bytes:
    """The same frame under another key's signature."""
    payload = payload_of(a_round, frame)
    message = codec.signed_bytes(
        step.sends or Kind.ADVERT, session_id=frame[18:HEADER], client_id=0, payload=payload
    )
    return frame[:HEADER] + bytes(payload) + key.sign(message)


FORGERIES: dict[str, Callable[[Round, Step, dict[int, bytes]], bytes]] = {
    "by a stranger": lambda r, s, f: signed_by(STRANGER, s, r, f[0]),
    "by another client": lambda r, s, f: signed_by(signing_key(1), s, r, f[0]),
    "of another client's frame": lambda r, s, f: f[0][:-SIGNATURE_BYTES] + signature_in(f[1]),
    "zero": lambda r, s, f: f[0][:-SIGNATURE_BYTES] + bytes(SIGNATURE_BYTES),
    "one bit off": lambda r, s, f: f[0][:-1] + bytes([f[0][-1] ^ 1]),
    "absent": lambda r, s, f: (
        f[0][:10] + (len(f[0]) - HEADER - SIGNATURE_BYTES).to_bytes(8, "little") + f[0][18:-SIGNATURE_BYTES]
    ),
    "another client's whole frame under this id": lambda r, s, f: f[0][:HEADER] + f[1][HEADER:],
    "the payload one bit off": lambda r, s, f: f[0][:HEADER] + bytes([f[0][HEADER] ^ 1]) + f[0][HEADER + 1 :],
    "of another kind": lambda r, s, f: (
        f[0][:-SIGNATURE_BYTES]
        + signing_key(0).sign(
            codec.signed_bytes(
                Kind.RESULT, session_id=f[0][18:HEADER], client_id=0, payload=payload_of(r, f[0])
            )
        )
    ),
    "of another session": lambda r, s, f: (
        f[0][:-SIGNATURE_BYTES]
        + signing_key(0).sign(
            codec.signed_bytes(
                s.sends or Kind.ADVERT, session_id=bytes(32), client_id=0, payload=payload_of(r, f[0])
            )
        )
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES)
@pytest.mark.parametrize(("case", "step"), SIGNED_STEPS, ids=name)
def test_a_false_signature_costs_its_sender_and_nobody_else(case: str, step: Step, forgery: str) -> None:
    a_round = Round.of(case).run_to(step.phase)
    frames = a_round.answers()
    with pytest.raises(FrameError) as caught:
        a_round.server.receive(0, FORGERIES[forgery](a_round, step, frames))
    assert caught.value.culprits == (0,)
    assert 0 not in a_round.server.heard
    del frames[0]
    a_round.close(frames)
    assert a_round.finish().is_exact()
    in_the_sum = step.phase in ("consistency", "unmask")  # its input was there before
    assert set(a_round.server.survivors) == set(a_round.session.cohort) - ({0} if not in_the_sum else set())


def test_parties_without_a_roster_or_with_another_one_share_no_session() -> None:
    params = make_params(**CASES["active"])
    with pytest.raises(ConfigError, match="roster"):
        make_session(params, roster=None)
    with pytest.raises(ConfigError, match=r"no public key for the clients \[4\]"):
        make_session(params, roster=make_roster(range(4)))
    with pytest.raises(ConfigError, match="checks no signatures"):
        make_session(make_params(), roster=make_roster(range(5)))
    here = make_session(params)
    other = secagg.Roster({**make_roster(range(5)).publics, 3: STRANGER.public})
    assert make_session(params, roster=other).id != here.id
    assert make_session(params, roster=make_roster(range(6))).id != here.id
    for signer in (None, STRANGER, signing_key(1)):
        with pytest.raises(ConfigError, match="the key that the roster lists"):
            secagg.Client(here, 0, policy=secagg.Policy.accepting(params), signer=signer)


# The key in the middle.


@pytest.mark.parametrize("case", SIGNED)
@pytest.mark.parametrize("signer", ["the old signature", "the server", "another client"])
def test_a_substituted_advert_is_refused(case: str, signer: str) -> None:
    a_round = Round.of(case).run_to("share_keys")
    given = adverts_of(a_round, 0)
    peer, advert = min(given.adverts), fresh_advert("server")
    proof = given.proofs[peer]
    if signer != "the old signature":
        key = STRANGER if signer == "the server" else signing_key(max(given.adverts))
        proof = advert_signature(a_round, peer, advert, key) + proof[SIGNATURE_BYTES:]
    frame = adverts_frame(a_round, 0, {**given.adverts, peer: advert}, {**given.proofs, peer: proof})
    with pytest.raises(FrameError, match="does not bear its signature"):
        a_round.clients[0].share_keys(frame)
    assert a_round.clients[0].phase == FAILED


@pytest.mark.parametrize("case", SIGNED)
def test_an_advert_of_the_same_client_from_another_session_is_refused(case: str) -> None:
    old = Round(make_session(make_params(**CASES[case]), attempt=1), label="old").run_to("share_keys")
    a_round = Round.of(case).run_to("share_keys")
    given = adverts_of(a_round, 0)
    peer = next(v for v in given.adverts if v in adverts_of(old, 0).adverts)
    stale = adverts_of(old, 0)
    frame = adverts_frame(
        a_round,
        0,
        {**given.adverts, peer: stale.adverts[peer]},
        {**given.proofs, peer: stale.proofs[peer][:SIGNATURE_BYTES] + given.proofs[peer][SIGNATURE_BYTES:]},
    )
    with pytest.raises(FrameError, match="does not bear its signature"):
        a_round.clients[0].share_keys(frame)


@pytest.mark.parametrize("case", SIGNED)
def test_an_invented_client_is_refused_whether_or_not_its_id_is_of_the_cohort(case: str) -> None:
    a_round = Round.of(case).run_to("share_keys")
    given, advert = adverts_of(a_round, 0), fresh_advert("sybil")
    path = next(iter(given.proofs.values()))[SIGNATURE_BYTES:]
    for invented in (77, next(v for v in range(1, 9) if v not in given.adverts) if "sparse" in case else 77):
        proof = advert_signature(a_round, invented, advert, STRANGER) + path
        fresh = Round.of(case).run_to("share_keys")
        frame = adverts_frame(
            fresh, 0, {**given.adverts, invented: advert}, {**given.proofs, invented: proof}
        )
        with pytest.raises(FrameError):
            fresh.clients[0].share_keys(frame)


@pytest.mark.parametrize("case", SIGNED)
def test_withheld_adverts_leave_a_client_that_refuses_to_go_on(case: str) -> None:
    a_round = Round.of(case).run_to("share_keys")
    given, holders = adverts_of(a_round, 0), a_round.clients[0]._setup.holders()
    kept = [v for v in holders if v in given.adverts][: a_round.session.params.threshold - 2]
    frame = adverts_frame(a_round, 0, {v: given.adverts[v] for v in kept}, {v: given.proofs[v] for v in kept})
    with pytest.raises(TooFewClientsError, match="holders"):
        a_round.clients[0].share_keys(frame)


def test_relabelling_a_server_frame_of_another_session_opens_no_share() -> None:
    here = Round.of("active").run_to("masked_input")
    there = Round(make_session(make_params(**CASES["active"]), attempt=1)).run_to("masked_input")
    frame = relabelled(there.inbox[0], round_id(here))
    with pytest.raises(FrameError, match="do not open"):
        here.clients[0].masked_input(frame, here.vectors[0])
