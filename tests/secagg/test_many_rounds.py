"""Several rounds from one key set-up: each exact by itself, and none says a word about another."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from secure_fed_diffusion.errors import FrameError, PhaseError, TooFewClientsError
from secure_fed_diffusion.secagg import keys
from secure_fed_diffusion.secagg.phases import DONE, FAILED, SETUP_PHASES

from .forging import combined, masked_vector_of, relabelled, round_id, unmask_shares_of, without_masks
from .rounds import CASES, Round, make_params, make_session, model_of

MASKED = tuple(case for case in CASES if case != "unsafe_unmasked")
N_CLIENTS = 9


def epoch(case: str, **changes: int) -> Round:
    """Five rounds of nine clients; any three may be gone."""
    threshold = 4 if "sparse" in case else 5
    return Round.of(case, **({"n_clients": N_CLIENTS, "threshold": threshold, "n_rounds": 5} | changes))


@pytest.mark.parametrize("case", MASKED)
def test_every_round_is_exact_whoever_is_asked_and_whoever_drops(case: str) -> None:
    a_round = epoch(case)
    plan: list[tuple[tuple[int, ...] | None, dict[int, str]]] = [
        (None, {0: "share_keys", 1: "masked_input", 2: "unmask"}),  # 0 is out of the set-up, 1 and 2 return
        (None, {3: "masked_input"}),
        ((1, 2, 3, 4, 5, 6, 7), {1: "unmask"}),
        (None, {4: "masked_input", 5: "unmask"}),
        ((1, 2, 3, 4, 5, 6, 8), {}),
    ]
    for number, (participants, dropouts) in enumerate(plan):
        if number:
            a_round.begin(number, participants=participants)
        a_round.finish(dropouts=dropouts)
        assert a_round.is_exact(), number
        early = {v for v, phase in dropouts.items() if phase != "unmask"}
        asked = set(participants or a_round.session.cohort)
        assert set(a_round.server.survivors) == asked - early - {0}
        for v, total in a_round.verified().items():
            assert np.array_equal(total, a_round.server.total), v


@pytest.mark.parametrize("case", MASKED)
@pytest.mark.parametrize("answered", [False, True])
def test_a_client_that_missed_a_round_or_whose_input_was_lost_returns(case: str, answered: bool) -> None:
    a_round = epoch(case).run_to("masked_input")
    if answered:
        a_round.answer(4)  # and the network loses it: the shares are open at the client, not at the server
    a_round.finish(dropouts={4: "masked_input"})
    assert a_round.is_exact()
    a_round.verified()
    a_round.begin(1).finish()
    assert a_round.is_exact()
    assert 4 in a_round.server.survivors
    a_round.verified()


@pytest.mark.parametrize("case", MASKED)
def test_a_client_that_skips_rounds_returns_in_the_last_one(case: str) -> None:
    a_round = epoch(case)
    for number in range(5):
        if number:
            a_round.begin(number, participants=range(N_CLIENTS) if number == 4 else range(N_CLIENTS - 1))
        a_round.finish(dropouts={} if number == 4 else {8: "masked_input"})
        assert a_round.is_exact()
        assert (8 in a_round.server.survivors) == (number == 4)


@pytest.mark.parametrize("failing", ["masked_input", "unmask"])
@pytest.mark.parametrize("case", MASKED)
def test_a_round_that_lost_too_many_does_not_end_the_set_up(case: str, failing: str) -> None:
    a_round = epoch(case).finish()
    a_round.begin(1)
    with pytest.raises(TooFewClientsError):
        a_round.finish(dropouts=dict.fromkeys(range(6), failing))
    assert a_round.server.phase == FAILED
    a_round.begin(2).finish()
    assert a_round.is_exact()
    assert a_round.server.survivors == a_round.session.cohort


def test_a_failed_set_up_pays_for_nothing() -> None:
    a_round = epoch("active").run_to("share_keys")
    with pytest.raises(TooFewClientsError):
        a_round.close(a_round.answers(without=range(5)))
    with pytest.raises(PhaseError):
        a_round.server.begin(1, model_digest=model_of(1))
    assert a_round.server.phase == FAILED


def test_no_round_is_begun_twice_at_the_server_or_at_a_client_that_answered_in_it() -> None:
    a_round = epoch("semi_honest").finish()
    a_round.begin(2).finish()
    for number in (0, 1, 2):
        with pytest.raises(PhaseError, match=f"round {number} does not come after round 2"):
            a_round.server.begin(number, model_digest=model_of(number))
        with pytest.raises(PhaseError, match="used or burned"):
            a_round.clients[0].begin(number, model_digest=model_of(number))
    assert a_round.server.phase == DONE
    assert a_round.is_exact()


@pytest.mark.parametrize("case", MASKED)
def test_frames_of_another_round_are_refused_on_both_sides_even_if_relabelled(case: str) -> None:
    signed = make_params(**CASES[case]).signed
    for phase in [step.phase for step in make_params(**CASES[case]).steps if step.sends]:
        if phase in SETUP_PHASES:
            continue
        a_round = epoch(case).run_to(phase)
        old_inbox, old_answers = a_round.inbox, a_round.answers()
        a_round.close(old_answers)
        a_round.finish().begin(1).run_to(phase)
        with pytest.raises(FrameError, match="another session") as caught:
            a_round.server.receive(0, old_answers[0])
        assert caught.value.culprits == (0,)
        if signed:
            with pytest.raises(FrameError, match="signature"):
                a_round.server.receive(0, relabelled(old_answers[0], round_id(a_round)))
        a_round.close(a_round.answers())  # the refused frame cost nobody anything
        a_round.finish()
        assert a_round.is_exact()
        assert a_round.server.survivors == a_round.session.cohort
        a_round.begin(2).run_to(phase)
        with pytest.raises(FrameError, match="another session"):
            a_round.step(0, phase, old_inbox[0])


def test_a_late_input_of_the_last_round_does_not_enter_this_one() -> None:
    a_round = epoch("semi_honest").run_to("masked_input")
    late = a_round.answer(3)
    a_round.finish(dropouts={3: "masked_input"})
    with pytest.raises(PhaseError):
        a_round.server.receive(3, late)
    a_round.begin(1)
    with pytest.raises(FrameError, match="another session"):
        a_round.server.receive(3, late)
    assert a_round.finish().is_exact()
    assert 3 in a_round.server.survivors


# What one round reveals unmasks nothing of another.


def all_secrets(a_round: Round) -> dict[int, tuple[bytes, bytes]]:
    """Every client's mask key and seed of the open round, from ALL shares of both kinds of all clients."""
    held = {v: client._in_round().held for v, client in a_round.clients.items()}
    t, found = a_round.session.params.threshold, {}
    for owner in a_round.session.cohort:
        holders = [v for v in held if owner in held[v]][:t]
        both = [combined({v: held[v][owner][kind] for v in holders}, t) for kind in (0, 1)]
        found[owner] = (both[0], both[1])
    return found


def opened(
    a_round: Round, masked: np.ndarray, victim: int, slot_id: bytes, secrets: dict[int, tuple[bytes, bytes]]
) -> np.ndarray:
    """Take the victim's masks off with these secrets, as the round of that id derives them."""
    mask_key, seed = secrets[victim]
    publics = {v: keys.PrivateKey(own).public for v, (own, _) in secrets.items()}
    return without_masks(
        a_round, masked, victim, mask_key=mask_key, seed=seed, publics=publics, slot_id=slot_id
    )


@pytest.mark.parametrize("case", MASKED)
def test_all_secrets_of_all_other_rounds_unmask_nothing_of_this_one(case: str) -> None:
    """The attacker has every frame of every round and, of every round but this, all shares of all clients."""
    victim, target = 4, 1
    a_round = epoch(case, dimension=512, n_rounds=3)
    secrets, masked, vectors, slot_ids = {}, {}, {}, {}
    for number in range(3):
        if number:
            a_round.begin(number)
        a_round.run_to("masked_input")
        frames = a_round.answers()
        masked[number], vectors[number] = masked_vector_of(a_round, frames[victim]), a_round.vectors[victim]
        secrets[number], slot_ids[number] = all_secrets(a_round), round_id(a_round)
        a_round.close(frames)
        a_round.finish()
    for number in range(3):  # the control: a round's own secrets open it
        own = opened(a_round, masked[number], victim, slot_ids[number], secrets[number])
        assert np.array_equal(own, vectors[number])
    for of_keys, of_seeds in product((0, 2), repeat=2):
        known = {v: (secrets[of_keys][v][0], secrets[of_seeds][v][1]) for v in a_round.session.cohort}
        for slot_id in slot_ids.values():
            left = opened(a_round, masked[target], victim, slot_id, known)
            assert np.count_nonzero(left == vectors[target]) <= 2  # chance: 512 / 2^32 expected
    drawn = [part for found in secrets.values() for pair in found.values() for part in pair]
    assert len(set(drawn)) == len(drawn)  # fresh for every client and round


@pytest.mark.parametrize("case", MASKED)
def test_an_unmasking_reply_names_shares_of_its_own_round_alone(case: str) -> None:
    a_round, seen = epoch(case, n_rounds=3), []
    for number in range(3):
        if number:
            a_round.begin(number)
        a_round.run_to("unmask", dropouts={3: "masked_input"})
        shares = unmask_shares_of(a_round, a_round.answer(0))
        seen += [*shares.self_mask.values(), *shares.mask_key.values()]
        a_round.close(a_round.answers(without=[0]))
    assert len(set(seen)) == len(seen)


def test_the_difference_of_two_masked_inputs_of_one_client_is_not_the_difference_of_its_inputs() -> None:
    """No reuse between rounds: the masks do not cancel, whoever takes part."""
    a_round, seen = epoch("semi_honest", dimension=4096, n_rounds=3), {}
    for number in range(3):
        if number:
            a_round.begin(number)
        a_round.run_to("masked_input")
        frames = a_round.answers()
        seen[number] = masked_vector_of(a_round, frames[4]) - a_round.vectors[4].astype(np.uint32)
        a_round.close(frames)
        a_round.finish()
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.count_nonzero(seen[one] == seen[other]) <= 2


@pytest.mark.parametrize("change", ["model", "participants", "number"])
def test_two_parties_that_disagree_on_the_round_refuse_each_others_frames(change: str) -> None:
    """The slot's id covers number, participants and model."""
    a_round = epoch("active").finish()
    a_round.begin(1, participants=(0, 1, 2, 3, 4, 5))
    other = Round(a_round.session, label="test").run_to("masked_input")
    odd = other.clients[0]
    odd.begin(
        2 if change == "number" else 1,
        model_digest=model_of(9 if change == "model" else 1),
        participants=(0, 1, 2, 3, 4, 6) if change == "participants" else (0, 1, 2, 3, 4, 5),
    )
    with pytest.raises(FrameError, match="another session"):
        odd.masked_input(a_round.inbox[0], a_round.vectors[0])


def test_the_slot_of_a_round_is_bound_to_all_that_its_masks_hang_on() -> None:
    session = make_session(make_params(n_rounds=5))
    ids = {
        session.slot(n, model_digest=model_of(m), participants=p, commitment=c).id
        for n, m, p, c in product((1, 2), (1, 2), ((0, 1, 2, 3), None), (bytes(32), b"c" * 32))
    }
    assert len(ids) == 16
    other = make_session(make_params(n_rounds=6))
    assert other.slot(1, model_digest=model_of(1)).id != session.slot(1, model_digest=model_of(1)).id


def test_one_round_needs_two_exchanges_and_three_with_consistency() -> None:
    for case, exchanges in (("semi_honest", 2), ("active", 3)):
        a_round = epoch(case).finish().begin(1)
        phases = []
        while a_round.server.phase != DONE:
            phases.append(a_round.server.phase)
            a_round.close(a_round.answers())
        assert len(phases) == exchanges
