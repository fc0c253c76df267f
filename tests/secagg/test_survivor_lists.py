"""A server that shows false survivor lists, or several, to clients of the profile active."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from itertools import product

import numpy as np
import pytest

from secure_fed_diffusion import secagg
from secure_fed_diffusion.errors import (
    FrameError,
    PolicyError,
    SecureAggregationError,
    TooFewClientsError,
)
from secure_fed_diffusion.secagg.phases import FAILED

from .forging import (
    combined,
    consistency_frame,
    mask_publics_of,
    masked_vector_of,
    round_id,
    signature_in,
    signature_of,
    survivor_frame,
    unmask_shares_of,
    without_masks,
)
from .rounds import (
    Round,
    make_params,
    make_session,
)

SIGNED = ("active", "active_sparse", "verifiable")


def test_two_lists_shown_to_two_halves_unmask_nobody() -> None:
    a_round = Round.of("active").run_to("consistency")
    lists = {v: range(5) if v < 3 else (1, 2, 3, 4) for v in range(5)}
    signed = {
        v: signature_in(a_round.clients[v].consistency(survivor_frame(a_round, v, lists[v])))
        for v in a_round.clients
    }
    for v in a_round.clients:
        same = {u: s for u, s in signed.items() if lists[u] == lists[v]}
        shown = same if v % 2 else signed  # too few of one list, or some of another
        with pytest.raises((TooFewClientsError, FrameError)):
            a_round.clients[v].unmask(consistency_frame(a_round, v, shown))
        assert a_round.clients[v]._round is None


def test_fewer_signatures_than_the_threshold_unmask_nothing() -> None:
    a_round = Round.of("active").run_to("unmask")
    signatures = {v: signature_of(a_round, v, range(5)) for v in range(3)}
    with pytest.raises(TooFewClientsError, match="threshold=4 holders, 3 signed"):
        a_round.clients[0].unmask(consistency_frame(a_round, 0, signatures))


def test_signatures_of_clients_that_are_not_holders_do_not_count() -> None:
    a_round = Round.of("active_sparse", n_clients=15, threshold=5).run_to("unmask")
    holders = set(a_round.clients[0]._setup.holders())
    others = [v for v in a_round.session.cohort if v not in holders]
    signatures = {v: signature_of(a_round, v, range(15)) for v in (*sorted(holders)[:4], *others)}
    assert len(signatures) > 5
    with pytest.raises(TooFewClientsError, match="threshold=5 holders, 4 signed"):
        a_round.clients[0].unmask(consistency_frame(a_round, 0, signatures))


@pytest.mark.parametrize("replayed", ["round", "list", "client", "dropped"])
def test_a_signature_from_elsewhere_unmasks_nothing(replayed: str) -> None:
    a_round = Round.of("active", n_rounds=2).run_to("consistency")
    old = {v: signature_in(frame) for v, frame in a_round.answers().items()}
    first_id = round_id(a_round)
    a_round.begin(1)
    a_round.run_to("unmask", dropouts={4: "masked_input"})
    right = {v: signature_of(a_round, v, range(4)) for v in range(4)}
    wrong = {
        "round": {**right, 3: signature_of(a_round, 3, range(4), bound_to=first_id)},
        "list": {**right, 3: signature_of(a_round, 3, range(5))},
        "client": {**right, 3: right[2]},
        "dropped": {**right, 4: signature_of(a_round, 4, range(4))},
    }[replayed]
    assert len(old) == 5
    with pytest.raises(FrameError, match="did not sign the survivor list"):
        a_round.clients[0].unmask(consistency_frame(a_round, 0, wrong))
    a_round.clients[1].unmask(consistency_frame(a_round, 1, right))  # the control


@pytest.mark.parametrize("case", SIGNED)
def test_the_signatures_of_one_round_do_not_open_another_with_the_same_survivors(case: str) -> None:
    a_round = Round.of(case, n_rounds=2).run_to("consistency")
    frames = a_round.answers()
    old = {v: signature_in(frame) for v, frame in frames.items()}
    a_round.close(frames)
    a_round.finish().begin(1).run_to("unmask")
    for v in (0, 1):
        with pytest.raises(FrameError, match="did not sign"):
            a_round.clients[v].unmask(consistency_frame(a_round, v, old))


@pytest.mark.parametrize(
    ("ids", "error"),
    [
        ((0, 1, 2), PolicyError),
        ((0,), PolicyError),
        ((1, 2, 3, 4), PolicyError),
        ((), PolicyError),
    ],
)
def test_a_list_outside_the_policy_is_not_signed(
    ids: Iterable[int], error: type[SecureAggregationError]
) -> None:
    a_round = Round.of("active").run_to("consistency")
    with pytest.raises(error):
        a_round.clients[0].consistency(survivor_frame(a_round, 0, ids))
    assert a_round.clients[0].phase == FAILED


def test_a_client_that_was_not_asked_cannot_survive() -> None:
    a_round = Round.of("active", n_rounds=2).finish()
    a_round.begin(1, participants=(0, 1, 2, 3)).run_to("consistency")
    with pytest.raises(PolicyError, match=r"not asked: \[4\]"):
        a_round.clients[0].consistency(survivor_frame(a_round, 0, range(5)))


# 2t > n + c, by trying everything that the server can show to everyone.


def lists_shown(n: int, n_colluders: int, victim: int = 0) -> Iterable[dict[int, bool]]:
    """Every way to tell each honest client whether the victim survived; to itself it has."""
    honest = [v for v in range(n - n_colluders) if v != victim]
    for told in product((True, False), repeat=len(honest)):
        yield {victim: True, **dict(zip(honest, told, strict=True))}


def shares_won(a_round: Round, told: dict[int, bool], victim: int = 0) -> tuple[dict[int, int], ...]:
    """The victim's shares of both kinds that a server and its colluders end up with, by holder."""
    everyone = set(a_round.session.cohort)
    lists = {True: everyone, False: everyone - {victim}}
    colluders = everyone - told.keys()
    won: tuple[dict[int, int], dict[int, int]] = ({}, {})
    for colluder in colluders:
        held = a_round.clients[colluder]._in_round().held[victim]
        won[0][colluder], won[1][colluder] = held.mask_key, held.self_mask
    signatures: dict[bool, dict[int, bytes]] = {
        says: {v: signature_of(a_round, v, lists[says]) for v in colluders} for says in lists
    }
    signed = {}
    for v, survived in told.items():
        with suppress(TooFewClientsError):
            frame = a_round.clients[v].consistency(survivor_frame(a_round, v, lists[survived]))
            signed[v] = signatures[survived][v] = signature_in(frame)
    for v in signed:
        try:
            frame = a_round.clients[v].unmask(consistency_frame(a_round, v, signatures[told[v]]))
        except TooFewClientsError:
            continue
        shares = unmask_shares_of(a_round, frame)
        if victim in shares.self_mask:
            won[1][v] = shares.self_mask[victim]
        if victim in shares.mask_key:
            won[0][v] = shares.mask_key[victim]
    return won


def reads_the_input(a_round: Round, masked: np.ndarray, won: tuple[dict[int, int], ...]) -> bool:
    """Put the shares together and take the victim's masks off."""
    t = a_round.session.params.threshold
    if min(map(len, won)) < t:
        return False
    mask_key, seed = (combined(shares, t) for shares in won)
    found = without_masks(
        a_round,
        masked,
        0,
        mask_key=mask_key,
        seed=seed,
        publics=mask_publics_of(a_round),
        slot_id=round_id(a_round),
    )
    return bool(np.array_equal(found, a_round.vectors[0]))


@pytest.mark.parametrize(
    ("n", "threshold", "n_colluders"),
    [
        (3, 2, 0),
        (3, 2, 1),
        (3, 3, 1),
        (3, 3, 2),
        (4, 3, 1),
        (4, 3, 2),
        (5, 3, 0),
        (5, 3, 1),
        (5, 4, 2),
        (5, 4, 3),
    ],
)
def test_no_pair_of_lists_gives_both_secrets_of_a_client_where_the_policy_holds(
    n: int, threshold: int, n_colluders: int
) -> None:
    """Exhaustive over what each honest client is told; and where the policy refuses, some pair does."""
    params = make_params(n, threshold, profile="active")
    read = []
    for told in lists_shown(n, n_colluders):
        a_round = Round(make_session(params)).run_to("masked_input")
        frames = a_round.answers()
        masked = masked_vector_of(a_round, frames[0])
        a_round.close(frames)
        a_round.clients = {
            v: with_policy(client, secagg.Policy(min_cohort=2, min_survivors=2))
            for v, client in a_round.clients.items()
        }
        read.append(reads_the_input(a_round, masked, shares_won(a_round, told)))
    policy = secagg.Policy(min_cohort=2, min_survivors=2, colluders=n_colluders)
    if 2 * threshold > n + n_colluders:
        policy.check(params)
        assert not any(read)
    else:
        with pytest.raises(PolicyError, match="2 \\* threshold"):
            policy.check(params)
        assert any(read)


def with_policy(client: secagg.Client, policy: secagg.Policy) -> secagg.Client:
    """The same client with other bounds on the survivors, so that the share count alone decides."""
    client._in_round().policy = policy
    return client
