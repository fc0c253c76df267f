"""A server that shows two lists, proposes weak terms or another model, or picks a client's neighbours.

What became a claim (T7, T13 to T15 and others) is in `threat_models`, with the weakenings that these use too.
"""

from __future__ import annotations

import numpy as np

from secure_fed_diffusion import secagg

from ..forging import (
    combined,
    commitment_frame,
    mask_publics_of,
    masked_vector_of,
    round_id,
    survivor_frame,
    unmask_shares_of,
    without_masks,
)
from ..rounds import Round, make_params, make_session


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


def a_cohort_of_one() -> bool:
    """Threshold 1, one client: the sum is its vector."""
    params = make_params(1, 1)
    vector = np.arange(16, dtype=np.uint32)
    result = secagg.simulate(params, {0: vector}, policy=secagg.Policy())
    return bool(np.array_equal(result.total, vector))


def a_model_for_the_victim_alone() -> bool:
    """The others get a dead model, whose updates are zero: the sum is the victim's update."""
    params = make_params(dimension=64)
    a_round = Round(make_session(params, model_digest=b"dead".ljust(32)))
    victim = Round(make_session(params, model_digest=b"live".ljust(32)))
    a_round.clients[0] = victim.clients[0]
    a_round.vectors = {v: x if v == 0 else np.zeros_like(x) for v, x in a_round.vectors.items()}
    a_round.finish()
    return bool(np.array_equal(a_round.server.total, a_round.vectors[0]))


def a_victim_among_accomplices() -> bool:
    """The server names as present the victim and its own clients; do they hold all of its shares?"""
    accomplices = range(1, 7)
    a_round = Round.of("active_sparse", n_clients=40).run_to("choose")
    a_round.clients[0].choose(commitment_frame(a_round, 0, (0, *accomplices)))
    held = set(a_round.clients[0]._setup.holders()) & set(accomplices)
    return len(held) >= a_round.session.params.threshold
