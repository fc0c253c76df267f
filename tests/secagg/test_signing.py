"""A roster's answers: what it was asked before changes none of them, and is not computed again."""

from __future__ import annotations

import pytest

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
