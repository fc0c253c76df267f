"""A server that puts its own keys in, shows two lists or proposes weak terms (T7, T12-T15; 2-5, 10)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
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
    signing,
)
from secure_fed_diffusion.secagg import params as parameters
from secure_fed_diffusion.secagg.messages import (
    Advert,
    Choice,
    Commitment,
    ShareDelivery,
    Shares,
    UnmaskShares,
)

from ..forging import (
    HEADER,
    adverts_frame,
    combined,
    commitment_frame,
    delivery_frame,
    delivery_of,
    mask_publics_of,
    masked_vector_of,
    payload_of,
    rewrapped,
    round_id,
    survivor_frame,
    unmask_shares_of,
    without_masks,
)
from ..rounds import Round, fixed_entropy, make_params, make_session

Patch = pytest.MonkeyPatch


# T7, weakness 2: both kinds of share of one client.


def without_one_answer_a_round(patch: Patch) -> None:
    """Shares stay where they are after an answer, and steps may be taken again."""
    steady = client_round.ClientRound.unmask

    def unmask(a_round: client_round.ClientRound, payload: memoryview) -> bytes:
        kept = dict(a_round.held)
        reply = steady(a_round, payload)
        a_round.held = kept
        return reply

    @contextmanager
    def step(machine: phases.Machine, phase: str) -> Iterator[phases.Step]:
        yield machine._steps[machine._index]
        if phase != "unmask":
            machine._enter(machine._index + 1)

    patch.setattr(client_round.ClientRound, "unmask", unmask)
    patch.setattr(phases.Machine, "step", step)


def both_kinds_of_share_from_the_same_clients() -> bool:
    """Ask everyone twice: in the first list the victim survived, in the second it dropped."""
    a_round = Round.of("semi_honest", dimension=64).run_to("masked_input")
    frames = a_round.answers()
    sent = masked_vector_of(a_round, frames[4])
    a_round.close(frames)
    seeds, mask_keys = {}, {}
    for v in range(4):
        first = a_round.clients[v].unmask(survivor_frame(a_round, v, range(5)))
        second = a_round.clients[v].unmask(survivor_frame(a_round, v, range(4)))
        seeds[v] = unmask_shares_of(a_round, first).self_mask[4]
        mask_keys[v] = unmask_shares_of(a_round, second).mask_key[4]
    found = without_masks(
        a_round,
        sent,
        4,
        mask_key=combined(mask_keys, 4),
        seed=combined(seeds, 4),
        publics=mask_publics_of(a_round),
        slot_id=round_id(a_round),
    )
    return bool(np.array_equal(found, a_round.vectors[4]))


def without_a_majority_threshold(patch: Patch) -> None:
    patch.setattr(parameters.SecAggParams, "__post_init__", lambda params: None)


def one_half_of_the_clients_against_the_other() -> bool:
    """Threshold 2 of 5: two clients are told that the victim survived, two others that it dropped."""
    a_round = Round.of("semi_honest", threshold=2, dimension=64).run_to("masked_input")
    frames = a_round.answers()
    sent = masked_vector_of(a_round, frames[0])
    a_round.close(frames)
    lists = {0: range(5), 1: range(5), 2: range(1, 5), 3: range(1, 5)}
    replies = {
        v: unmask_shares_of(a_round, a_round.clients[v].unmask(survivor_frame(a_round, v, ids)))
        for v, ids in lists.items()
    }
    found = without_masks(
        a_round,
        sent,
        0,
        mask_key=combined({v: replies[v].mask_key[0] for v in (2, 3)}, 2),
        seed=combined({v: replies[v].self_mask[0] for v in (0, 1)}, 2),
        publics=mask_publics_of(a_round),
        slot_id=round_id(a_round),
    )
    return bool(np.array_equal(found, a_round.vectors[0]))


# Weakness 3, T14: weak terms.


def without_a_policy(patch: Patch) -> None:
    """The client accepts what the server proposes, and the parameters allow anything."""
    patch.setattr(parameters.SecAggParams, "__post_init__", lambda params: None)
    patch.setattr(secagg.Policy, "check", lambda policy, params: None)
    patch.setattr(secagg.Policy, "check_survivors", lambda policy, n_survivors: None)


def a_cohort_of_one() -> bool:
    """Threshold 1, one client: the sum is its vector."""
    params = make_params(1, 1)
    vector = np.arange(16, dtype=np.uint32)
    result = secagg.simulate(params, {0: vector}, policy=secagg.Policy())
    return bool(np.array_equal(result.total, vector))


def a_cohort_of_the_victim_and_an_accomplice() -> bool:
    """Two clients, one of them the server's: subtract."""
    params = make_params(2, 2)
    vectors = {v: np.arange(v, 16 + v, dtype=np.uint32) for v in range(2)}
    result = secagg.simulate(params, vectors, policy=secagg.Policy())
    return bool(np.array_equal(result.total - vectors[1], vectors[0]))


# T14, weakness 4: the server in the middle.


def without_signatures(patch: Patch) -> None:
    patch.setattr(signing.Roster, "verify", lambda roster, client_id, message, signature: True)


def the_server_plays_every_peer() -> bool:
    """It gives the victim keys of its own for everyone else, opens the shares and takes the masks off."""
    a_round = Round.of("active", dimension=64).run_to("share_keys")
    victim, session_id, draw = a_round.clients[0], a_round.session.id, fixed_entropy("middle")
    cipher = {v: keys.PrivateKey(draw(32)) for v in range(1, 5)}
    mask = {v: keys.PrivateKey(draw(32)) for v in range(1, 5)}
    adverts = {v: Advert(cipher_key=cipher[v].public, mask_keys=(mask[v].public,)) for v in cipher}
    victim_keys = victim._setup._own_advert()  # it was sent to the server in clear
    shares = victim.share_keys(adverts_frame(a_round, 0, adverts, dict.fromkeys(adverts, bytes(64))))
    sealed = Shares.decode(payload_of(a_round, shares), a_round.session.params).sealed
    pairs, to_victim = {}, {}
    for v in cipher:
        to_peer, from_peer = keys.seal_keys(
            cipher[v], victim_keys.cipher_key, session_id=session_id, own_id=v, peer_id=0
        )
        opened = seal.unseal(from_peer, sealed[v], session_id=session_id, sender=0, receiver=v, n_rounds=1)
        pairs[v] = opened.pairs[0]
        fresh = seal.Entrusted((seal.SharePair(1, 2),))
        to_victim[v] = seal.seal(to_peer, fresh, session_id=session_id, sender=v, receiver=0)
    a_round.run_to("masked_input", dropouts={0: "share_keys"})  # the others go on; the victim is alone
    frame = victim.masked_input(
        delivery_frame(a_round, 0, ShareDelivery(sealed=to_victim)), a_round.vectors[0]
    )
    found = without_masks(
        a_round,
        masked_vector_of(a_round, frame),
        0,
        mask_key=combined({v: pair.mask_key for v, pair in pairs.items()}, 4),
        seed=combined({v: pair.self_mask for v, pair in pairs.items()}, 4),
        publics={v: key.public for v, key in mask.items()},
        slot_id=round_id(a_round),
    )
    return bool(np.array_equal(found, a_round.vectors[0]))


# T13: points of low order.

LOW_ORDER = tuple(u.to_bytes(32, "little") for u in sorted(keys._LOW_ORDER))


def without_the_check_of_points(patch: Patch) -> None:
    exchange = keys.PrivateKey.exchange

    def any_point(own: keys.PrivateKey, peer_public: bytes) -> bytes:
        try:
            return exchange(own, peer_public)
        except ValueError:  # the library's own refusal of a zero secret
            return bytes(32)

    patch.setattr(keys, "check_public", lambda public: None)
    patch.setattr(messages, "check_public", lambda public: None)
    patch.setattr(keys.PrivateKey, "exchange", any_point)


def shares_sealed_under_a_zero_secret() -> bool:
    """Whoever is given points of low order seals under a key that anyone can derive."""
    a_round = Round.of("semi_honest", n_clients=3, threshold=2).run_to("share_keys")
    adverts = {v: Advert(cipher_key=LOW_ORDER[v], mask_keys=(LOW_ORDER[v + 2],)) for v in (1, 2)}
    frame = a_round.clients[0].share_keys(adverts_frame(a_round, 0, adverts))
    shares = Shares.decode(payload_of(a_round, frame), a_round.session.params)
    session_id, found = a_round.session.id, {}
    for v in (1, 2):
        context = (0).to_bytes(4, "little") + v.to_bytes(4, "little")
        key = keys.derive(
            bytes(32), label=keys.LABEL_SEAL, session_id=session_id, context=context, n_bytes=64
        )[:32]
        opened = seal.unseal(key, shares.sealed[v], session_id=session_id, sender=0, receiver=v, n_rounds=1)
        found[v] = opened.pairs[0].self_mask
    seed = combined(found, 2)
    commitment = keys.commit_seed(seed, session_id=session_id, client_id=0, number=0)
    return commitment == shares.commitments[0]


# T15, weakness 10: shares that are altered.


def without_authentication_of_sealed_shares(patch: Patch) -> None:
    """The ciphertext is opened and its tag discarded."""

    def unseal(key: bytes, sealed: bytes, *, n_rounds: int, **header: Any) -> seal.Entrusted:
        counter = bytes(12) + (2).to_bytes(4, "big")  # where GCM's keystream starts
        plain = Cipher(AES256(key), CTR(counter)).decryptor().update(sealed[:-16])
        parts = [int.from_bytes(plain[i : i + 33], "little") for i in range(0, n_rounds * 66, 33)]
        pairs = tuple(seal.SharePair(*parts[i : i + 2]) for i in range(0, len(parts), 2))
        return seal.Entrusted(pairs, plain[n_rounds * 66 :])

    patch.setattr("secure_fed_diffusion.secagg.client_setup.unseal", unseal)


def an_altered_share_is_taken_for_good() -> bool:
    """One bit of what client 1 sealed for client 0 is flipped on the way; does anybody notice?"""
    a_round = Round.of("semi_honest").run_to("masked_input")
    sealed = dict(delivery_of(a_round, 0).sealed)
    sealed[1] = bytes([sealed[1][0] ^ 1]) + sealed[1][1:]
    a_round.answer(0, delivery_frame(a_round, 0, ShareDelivery(sealed=sealed)))
    return a_round.clients[0].phase == "unmask"


def without_the_check_of_recovered_secrets(patch: Patch) -> None:
    whole = recovery.Recovery.secret
    patch.setattr(
        recovery.Recovery,
        "secret",
        lambda found, owner, shares, *, matches: whole(found, owner, shares, matches=lambda secret: True),
    )


def a_false_share_makes_a_false_sum() -> bool:
    """One client lies about its shares, in a reply that there is none to spare of."""
    a_round = Round.of("semi_honest").run_to("unmask")
    frames = a_round.answers(without=[0])
    told = unmask_shares_of(a_round, frames[2])
    lie = UnmaskShares(self_mask={v: share ^ 1 for v, share in told.self_mask.items()}, mask_key={})
    frames[2] = rewrapped(frames[2], lie.encode())
    a_round.close(frames)
    return not a_round.is_exact()


# T12: another model for the victim.


def without_the_model_in_the_session(patch: Patch) -> None:
    hashed = session._hash
    patch.setattr(session, "_hash", lambda *parts: hashed(*parts[:-1]))  # the model comes last


def a_model_for_the_victim_alone() -> bool:
    """The others get a dead model, whose updates are zero: the sum is the victim's update."""
    params = make_params(dimension=64)
    a_round = Round(make_session(params, model_digest=b"dead".ljust(32)))
    victim = Round(make_session(params, model_digest=b"live".ljust(32)))
    a_round.clients[0] = victim.clients[0]
    a_round.vectors = {v: x if v == 0 else np.zeros_like(x) for v, x in a_round.vectors.items()}
    a_round.finish()
    return bool(np.array_equal(a_round.server.total, a_round.vectors[0]))


# Weakness 5: a dropout at set-up ends the round.


def without_tolerance_at_set_up(patch: Patch) -> None:
    def require_all(its: secagg.Session, phase: str, n_present: int, silent: Any, whom: str = "") -> None:
        if n_present < its.params.n_clients:
            raise TooFewClientsError(f"{phase}: {n_present} left")

    patch.setattr(server_setup, "require_enough", require_all)


def one_dropout_at_set_up_ends_the_round() -> bool:
    for case in ("semi_honest", "active"):
        for phase in ("advertise", "share_keys"):
            a_round = Round.of(case)
            try:
                a_round.finish(dropouts={1: phase})
            except TooFewClientsError:
                return True
            if not a_round.is_exact():
                return True
    return False


# The sparse graph: a client whose neighbours are all the server's.


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


def a_victim_among_accomplices() -> bool:
    """The server names as present the victim and its own clients; do they hold all of its shares?"""
    accomplices = range(1, 7)
    a_round = Round.of("active_sparse", n_clients=40).run_to("choose")
    root = a_round.inbox[0][HEADER : HEADER + 32]
    a_round.clients[0].choose(commitment_frame(a_round, 0, root, (0, *accomplices)))
    held = set(a_round.clients[0]._setup.holders()) & set(accomplices)
    return len(held) >= a_round.session.params.threshold
