"""Signatures count for the very machine that signed: another one of the same client vouches for nothing.

The attack: an active server makes clients begin the same session a second time (a process begun anew
without a latch, or with one that its transport files under another number).  The second machines sign
whatever list of survivors is convenient; nothing else of them is used.  With their signatures each first
machine could be shown a list of its own, and a sum of two inputs would come out where every policy asks for
more.
"""

from __future__ import annotations

import pytest

from secure_fed_diffusion.errors import FrameError, PolicyError
from secure_fed_diffusion.secagg.phases import FAILED

from .forging import (
    adverts_frame,
    adverts_of,
    commitment_frame,
    consistency_frame,
    payload_of,
    relabelled,
    round_id,
    signature_in,
)
from .rounds import CASES, Round, make_params, make_session

SIGNED = ("active", "active_sparse", "verifiable")


def begun_twice(case: str) -> tuple[Round, Round]:
    """The same session, keys of its roster and all, at two sets of machines."""
    session = make_session(make_params(**CASES[case]))
    return Round(session, label="first"), Round(session, label="second")


@pytest.mark.parametrize("case", SIGNED)
def test_what_a_second_machine_signs_counts_nowhere_else(case: str) -> None:
    first, second = (a_round.run_to("consistency") for a_round in begun_twice(case))
    assert first.session.id == second.session.id
    # The second machines are shown the very list that the first ones sign.
    sacrificed = {
        v: signature_in(second.answer(v, relabelled(frame, round_id(second))))
        for v, frame in first.inbox.items()
    }
    own = {v: signature_in(frame) for v, frame in first.answers().items()}
    victim, honest = first.clients[0], first.clients[1]
    with pytest.raises(FrameError, match="did not sign the survivor list"):
        victim.unmask(consistency_frame(first, 0, {**sacrificed, 0: own[0]}))
    assert victim.phase == FAILED
    assert honest.unmask(consistency_frame(first, 1, own))  # the control


def test_on_a_sparse_graph_a_second_machine_does_not_choose_under_the_first_ones_root() -> None:
    """Its own advert thrown away, it would be in their round, and sign for them without a share to open."""
    first, second = (a_round.run_to("choose") for a_round in begun_twice("active_sparse"))
    for v, machine in second.clients.items():
        with pytest.raises(PolicyError, match="another advert than this client's own"):
            machine.choose(commitment_frame(first, v, first.session.cohort))


@pytest.mark.parametrize("case", ["active", "verifiable"])
def test_one_advert_of_a_second_machine_makes_another_round_of_it(case: str) -> None:
    """Both machines of client 1 are real and their adverts signed: who is shown which decides the round."""
    first, second = (a_round.run_to("share_keys") for a_round in begun_twice(case))
    given, other = adverts_of(first, 0), adverts_of(second, 0)
    mixed = adverts_frame(
        first, 0, {**given.adverts, 1: other.adverts[1]}, {**given.proofs, 1: other.proofs[1]}
    )
    first.close({0: first.answer(0, mixed), **first.answers(without=[0])})
    with pytest.raises(FrameError, match="another session"):
        first.answer(0)
    assert payload_of(first, first.answer(2))  # whoever was shown the same adverts is in the same round
