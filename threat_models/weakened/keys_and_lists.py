"""Copies of ours without what stops a server that lies: keys, lists, terms, shares (T7, T12-T15, T30)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from secure_fed_diffusion import secagg
from secure_fed_diffusion.errors import TooFewClientsError
from secure_fed_diffusion.secagg import (
    choice,
    client_round,
    client_setup,
    keys,
    messages,
    phases,
    recovery,
    seal,
    server_setup,
    session,
    shamir,
    signing,
)
from secure_fed_diffusion.secagg import params as parameters
from secure_fed_diffusion.secagg.messages import Choice, Commitment

from .patching import Patch

_AGAIN = ("consistency", "unmask")


def without_one_answer_a_round(patch: Patch) -> None:
    """Shares stay where they are after an answer, and another list may follow it."""
    steady = client_round.ClientRound.unmask
    once = phases.Machine.step

    def unmask(a_round: client_round.ClientRound, payload: memoryview) -> bytes:
        kept = dict(a_round.held)
        reply = steady(a_round, payload)
        a_round.held = kept
        return reply

    @contextmanager
    def step(machine: phases.Machine, phase: str) -> Iterator[phases.Step]:
        with once(machine, phase) as due:
            yield due
        if phase == "unmask":
            machine._enter(next(i for i, one in enumerate(machine._steps) if one.phase in _AGAIN))

    patch.setattr(client_round.ClientRound, "unmask", unmask)
    patch.setattr(phases.Machine, "step", step)


def without_a_majority_threshold(patch: Patch) -> None:
    """Any threshold may be agreed on."""
    patch.setattr(parameters.SecAggParams, "__post_init__", lambda params: None)


def without_a_policy(patch: Patch) -> None:
    """The client accepts what the server proposes, and the parameters allow anything."""
    without_a_majority_threshold(patch)
    patch.setattr(secagg.Policy, "check", lambda policy, params: None)
    without_a_minimum_of_survivors(patch)


def without_a_minimum_of_survivors(patch: Patch) -> None:
    """The policy's `min_survivors` counts for nothing."""
    patch.setattr(secagg.Policy, "check_survivors", lambda policy, n_survivors: None)


def without_signatures(patch: Patch) -> None:
    """Any 64 bytes are taken for a signature."""
    patch.setattr(signing.Roster, "verify", lambda roster, client_id, message, signature: True)


def without_the_check_of_points(patch: Patch) -> None:
    """Public keys of low order are taken, and the library's own refusal of a zero secret is caught."""
    exchange = keys.PrivateKey.exchange

    def any_point(own: keys.PrivateKey, peer_public: bytes) -> bytes:
        try:
            return exchange(own, peer_public)
        except ValueError:
            return bytes(32)

    patch.setattr(keys, "check_public", lambda public: None)
    patch.setattr(messages, "check_public", lambda public: None)
    patch.setattr(keys.PrivateKey, "exchange", any_point)


def without_authentication_of_sealed_shares(patch: Patch) -> None:
    """The ciphertext is opened and its tag discarded."""

    def unseal(key: bytes, sealed: bytes, *, n_rounds: int, **header: Any) -> seal.Entrusted:
        counter = bytes(12) + (2).to_bytes(4, "big")  # where GCM's keystream starts
        plain = Cipher(AES256(key), CTR(counter)).decryptor().update(sealed[:-16])
        parts = [int.from_bytes(plain[i : i + 33], "little") for i in range(0, n_rounds * 66, 33)]
        pairs = tuple(seal.SharePair(*parts[i : i + 2]) for i in range(0, len(parts), 2))
        return seal.Entrusted(pairs, plain[n_rounds * 66 :])

    patch.setattr(client_setup, "unseal", unseal)


def without_the_check_of_recovered_secrets(patch: Patch) -> None:
    """Whatever the shares give is taken for the secret."""
    whole = recovery.Recovery.secret
    patch.setattr(
        recovery.Recovery,
        "secret",
        lambda found, owner, shares, *, matches: whole(found, owner, shares, matches=lambda secret: True),
    )


def without_the_model_in_the_session(patch: Patch) -> None:
    """Sessions and rounds are named without the model that they are about."""
    hashed = session._hash
    patch.setattr(session, "_hash", lambda *parts: hashed(*parts[:-1]))  # the model comes last


def without_a_check_of_participants(patch: Patch) -> None:
    """A later round is entered whoever takes part in it."""
    patch.setattr(client_setup.ClientSetup, "check_participants", lambda setup, slot: None)


def without_a_threshold(patch: Patch) -> None:
    """Every share is the secret: a polynomial of degree zero."""

    def split(secret: int, holders: tuple[int, ...], *, threshold: int, entropy: Any) -> dict[int, int]:
        return dict.fromkeys(holders, secret)

    patch.setattr(shamir, "split", split)


def without_tolerance_at_set_up(patch: Patch) -> None:
    """The set-up needs everybody, as in SecAgg+ of Flower."""

    def require_all(its: secagg.Session, phase: str, n_present: int, silent: Any, whom: str = "") -> None:
        if n_present < its.params.n_clients:
            raise TooFewClientsError(f"{phase}: {n_present} left")

    patch.setattr(server_setup, "require_enough", require_all)


def without_the_whole_cohort_to_choose_from(patch: Patch) -> None:
    """Neighbours are drawn from whom the server calls present."""

    def choose(setup: client_setup.ClientSetup, payload: memoryview) -> bytes:
        its = setup.session
        commitment = Commitment.decode(payload, its.params.n_clients)
        here = zip(its.cohort, commitment.members.present, strict=True)
        present = [v for v, present in here if present and v != setup.client_id]
        setup.commitment = commitment.root
        setup._chosen = choice.draw(present, its.params.n_neighbours or 0, setup._entropy)
        return Choice(neighbours=setup._chosen).encode()

    patch.setattr(client_setup.ClientSetup, "choose", choose)
