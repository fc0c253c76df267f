"""A roster's answers: what it was asked before changes none of them, and is not computed again."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.secagg import Roster, SigningKey, signing

KEYS = {client_id: SigningKey(bytes([client_id + 1]) * 32) for client_id in range(3)}
MESSAGE = b"the survivor list"


def roster() -> Roster:
    return Roster({client_id: key.public for client_id, key in KEYS.items()})


def test_a_signature_that_was_accepted_vouches_for_nothing_else() -> None:
    pinned, signature = roster(), KEYS[0].sign(MESSAGE)
    assert pinned.verify(0, MESSAGE, signature)
    assert pinned.verify(0, MESSAGE, signature)
    assert not pinned.verify(1, MESSAGE, signature)
    assert not pinned.verify(0, MESSAGE + b"!", signature)
    assert not pinned.verify(0, MESSAGE, KEYS[1].sign(MESSAGE))
    assert not pinned.verify(0, MESSAGE, bytes([signature[0] ^ 1]) + signature[1:])
    assert not pinned.verify(9, MESSAGE, signature)
    assert pinned.verify(0, MESSAGE, signature)


def test_a_signature_that_was_refused_stays_refused_and_does_not_spoil_the_true_one() -> None:
    pinned = roster()
    for _ in range(2):
        assert not pinned.verify(0, MESSAGE, KEYS[1].sign(MESSAGE))
        assert pinned.verify(1, MESSAGE, KEYS[1].sign(MESSAGE))


def _points_of_small_order() -> list[bytes]:
    """Return the encodings of the points whose order divides 8, each with both signs."""
    p = 2**255 - 19
    d = -121665 * pow(121666, -1, p) % p
    root = pow(1 + d, (p + 3) // 8, p)
    root = root if root * root % p == (1 + d) % p else root * pow(2, (p - 1) // 4, p) % p
    found = {0, 1, p - 1}
    for sign in (root, -root):  # doubled, a point of order 8 has y = 0: d y^4 + 2 y^2 = 1
        square = (sign - 1) * pow(d, -1, p) % p
        y = pow(square, (p + 3) // 8, p)
        for each in (y, y * pow(2, (p - 1) // 4, p) % p):
            if each * each % p == square:
                found |= {each, p - each}
    return [(y | sign << 255).to_bytes(32, "little") for y in sorted(found) for sign in (0, 1)]


@pytest.mark.parametrize(
    "public",
    [
        *_points_of_small_order(),
        *((2**255 - 19 + y).to_bytes(32, "little") for y in (0, 1, 3)),  # not canonical
        *(y.to_bytes(32, "little") for y in (2, 7)),  # on no curve
        bytes(31),
        bytes(33),
        "a" * 32,
    ],
    ids=lambda public: public[:4].hex() if isinstance(public, bytes) else public[:4],
)
def test_a_key_that_is_nobody_s_is_not_pinned(public: bytes) -> None:
    with pytest.raises(ConfigError, match="expected an Ed25519 public key of 32 bytes for client 5"):
        Roster({0: KEYS[0].public, 5: public})


def test_of_the_eight_points_of_small_order_none_is_missing() -> None:
    assert len(_points_of_small_order()) == 10  # y = 1 and -1 have one point each, and two encodings


def test_every_fresh_key_can_be_pinned() -> None:
    keys = {client_id: SigningKey.generate() for client_id in range(200)}
    assert len(Roster({client_id: key.public for client_id, key in keys.items()})) == 200


@pytest.mark.parametrize("client_id", ["2", True, -1, 1 << 32, 1.0])
def test_a_row_of_a_client_that_has_no_id_is_refused(client_id: Any) -> None:
    with pytest.raises(ConfigError, match=rf"client ids in 0..2\^32-1, got {client_id!r}"):
        Roster({7: KEYS[0].public, client_id: KEYS[1].public})


@pytest.mark.parametrize("secret", [None, "a" * 32, 3])
def test_a_signing_key_is_made_of_bytes(secret: Any) -> None:
    with pytest.raises(ConfigError, match="signing_key: expected bytes"):
        SigningKey(secret)


def test_a_roster_can_be_handed_to_another_process() -> None:
    pinned = roster()
    assert pinned.verify(0, MESSAGE, KEYS[0].sign(MESSAGE))
    copy = pickle.loads(pickle.dumps(pinned))
    assert copy == pinned
    assert copy.verify(0, MESSAGE, KEYS[0].sign(MESSAGE))


def test_one_roster_s_answers_are_not_another_s() -> None:
    signature = KEYS[0].sign(MESSAGE)
    assert roster().verify(0, MESSAGE, signature)
    assert not Roster({0: KEYS[1].public}).verify(0, MESSAGE, signature)


def test_many_clients_of_one_process_cost_one_check(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, check = [], signing._is_genuine
    monkeypatch.setattr(signing, "_is_genuine", lambda *what: asked.append(what) or check(*what))
    monkeypatch.setattr(signing, "_REMEMBERED", 2)
    pinned, signatures = roster(), {client_id: key.sign(MESSAGE) for client_id, key in KEYS.items()}
    for _ in range(5):
        assert pinned.verify(0, MESSAGE, signatures[0])
    assert len(asked) == 1
    for client_id in (1, 2, 0):  # no more than two answers are kept
        assert pinned.verify(client_id, MESSAGE, signatures[client_id])
    assert len(asked) == 4
