"""The sparse graph of the profile active: the server commits, then each client chooses."""

from __future__ import annotations

import numpy as np
import pytest

from secure_fed_diffusion import secagg
from secure_fed_diffusion.errors import (
    ConfigError,
    FrameError,
    PolicyError,
)
from secure_fed_diffusion.secagg import choice
from secure_fed_diffusion.secagg.signing import SIGNATURE_BYTES

from .forging import (
    advert_signature,
    adverts_frame,
    adverts_of,
    commitment_frame,
    committed_tree,
    fresh_advert,
)
from .rounds import (
    Round,
    fixed_entropy,
    make_params,
    make_session,
    signing_key,
)


def test_whom_the_server_calls_present_does_not_steer_the_choice() -> None:
    """A server that names its own clients alone would become every holder of the victim's shares."""
    cohort, friends = range(15), range(1, 7)
    chosen = []
    for present in (cohort, (0, *friends)):
        session = make_session(make_params(15, 5, n_neighbours=6, profile="active"), cohort)
        a_round = Round(session).run_to("choose")
        a_round.clients[0].choose(commitment_frame(a_round, 0, present))
        chosen.append(a_round.clients[0]._setup.holders())
    assert chosen[0] == chosen[1]
    assert not set(chosen[1]) <= {0, *friends}


def test_the_graph_of_a_population_survives_the_dropouts_that_it_was_made_for() -> None:
    """Clients choose absent ones too: the correctness bound counts them as dropouts."""
    params = secagg.SecAggParams.for_population(
        100, corrupt=0.05, dropout=0.05, adversary="active", dimension=4, modulus_bits=16
    )
    a_round = Round(make_session(params))
    a_round.finish(
        dropouts={7: "advertise", 20: "advertise", 31: "choose", 55: "share_keys", 99: "masked_input"}
    )
    assert a_round.is_exact()
    assert len(a_round.server.survivors) == 95


def test_choices_are_uniform_over_the_cohort() -> None:
    """Each of 600 draws takes a client with probability 6/14; six standard deviations: 2e-9 each."""
    draw = fixed_entropy("coins")
    counts = np.zeros(15, dtype=int)
    for _ in range(600):
        counts[list(choice.draw(range(1, 15), 6, draw))] += 1
    assert counts[0] == 0
    assert np.all(np.abs(counts[1:] - 600 * 6 / 14) < 6 * np.sqrt(600 * 6 / 14 * 8 / 14))


def test_a_client_that_the_commitment_leaves_out_refuses() -> None:
    a_round = Round.of("active_sparse").run_to("choose")
    with pytest.raises(PolicyError, match="leaves out this client"):
        a_round.clients[0].choose(commitment_frame(a_round, 0, range(1, 9)))


def test_a_client_whose_own_advert_is_not_committed_to_refuses() -> None:
    """So a second machine of it, whose advert was thrown away, is in no round that others are in."""
    for tree in (None, "another of its adverts"):
        a_round = Round.of("active_sparse").run_to("choose")
        shown = committed_tree(a_round, {0: fresh_advert("second")} if tree else {})
        machine = a_round.clients[0] if tree else Round(a_round.session, label="second").clients[0]
        if not tree:
            machine.advertise()
        with pytest.raises(PolicyError, match="another advert than this client's own"):
            machine.choose(commitment_frame(a_round, 0, a_round.session.cohort, shown))


def test_an_advert_that_was_not_committed_to_is_refused_even_if_its_owner_signed_it() -> None:
    """A colluding client signs a second advert once it knows who chose it."""
    a_round = Round.of("active_sparse").run_to("share_keys")
    given, advert = adverts_of(a_round, 0), fresh_advert("second")
    peer = min(given.adverts)
    proof = advert_signature(a_round, peer, advert, signing_key(peer)) + given.proofs[peer][SIGNATURE_BYTES:]
    frame = adverts_frame(a_round, 0, {**given.adverts, peer: advert}, {**given.proofs, peer: proof})
    with pytest.raises(FrameError, match="not the one that the server committed to"):
        a_round.clients[0].share_keys(frame)


def test_a_path_to_another_leaf_is_refused() -> None:
    a_round = Round.of("active_sparse").run_to("share_keys")
    given = adverts_of(a_round, 0)
    one, other = sorted(given.adverts)[:2]
    swapped = {
        **given.proofs,
        one: given.proofs[one][:SIGNATURE_BYTES] + given.proofs[other][SIGNATURE_BYTES:],
    }
    with pytest.raises(FrameError, match="not the one that the server committed to"):
        a_round.clients[0].share_keys(adverts_frame(a_round, 0, given.adverts, swapped))


def test_a_client_that_was_shown_another_root_takes_no_advert_of_the_others() -> None:
    a_round = Round.of("active_sparse").run_to("choose")
    tree = committed_tree(a_round, {v: fresh_advert(f"other {v}") for v in range(1, 9)})
    a_round.inbox[0] = commitment_frame(a_round, 0, a_round.session.cohort, tree)
    a_round.close(a_round.answers())
    with pytest.raises(FrameError, match="not the one that the server committed to"):
        a_round.answer(0)


def test_a_client_that_was_shown_a_whole_other_tree_shares_no_round_with_the_others() -> None:
    """One colluder signs two adverts; the victim gets the tree with the second one, all paths in order."""
    a_round = Round.of("active_sparse").run_to("choose")
    second = fresh_advert("second")
    colluder = 8
    signature = advert_signature(a_round, colluder, second, signing_key(colluder))
    tree = committed_tree(a_round, {colluder: second})
    a_round.inbox[0] = commitment_frame(a_round, 0, a_round.session.cohort, tree)
    a_round.close(a_round.answers())
    given = adverts_of(a_round, 0)
    adverts = {v: second if v == colluder else advert for v, advert in given.adverts.items()}
    proofs = {
        v: (signature if v == colluder else given.proofs[v][:SIGNATURE_BYTES]) + tree.path(v) for v in adverts
    }
    a_round.inbox[0] = adverts_frame(a_round, 0, adverts, proofs)
    a_round.close(a_round.answers())  # taken: to the victim everything is in order
    with pytest.raises(FrameError, match="another session"):
        a_round.clients[0].masked_input(a_round.inbox[0], a_round.vectors[0])


def test_a_sparse_graph_whose_holders_could_be_split_in_two_is_refused() -> None:
    """k + 1 = 7 holders with t = 3: three are told that the client survived, three that it dropped."""
    with pytest.raises(ConfigError, match="majority of the holders"):
        make_params(9, 3, n_neighbours=6, profile="active")
    make_params(9, 4, n_neighbours=6, profile="active")
    make_params(9, 3, n_neighbours=6)  # a server that follows the protocol shows one list
