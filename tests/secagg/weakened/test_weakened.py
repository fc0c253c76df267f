"""Each weakness of the peers and each attack on the protocol: it works on a weakened copy, not on ours.

The ids are those of the design's references: `W1` to `W10` are the weaknesses seen in other libraries,
`P1` to `P3` the protocol attacks named beside them, `T5` to `T15` and `T17` the threats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from secure_fed_diffusion.errors import (
    ConfigError,
    FrameError,
    PhaseError,
    PolicyError,
    RecoveryError,
    SecureFedDiffusionError,
)

from . import keys_and_lists as keys
from . import masks_and_seeds as masks
from . import sums_and_metadata as sums

WEAKNESSES = tuple(f"W{i}" for i in range(1, 11))
PROTOCOL_ATTACKS = ("P1", "P2", "P3")
THREATS = (*(f"T{i}" for i in range(5, 16)), "T17")


@dataclass(frozen=True)
class Case:
    """An attack, the defence that it needs gone, and what ours does: an error, or nothing to be learned."""

    ids: tuple[str, ...]
    without: Callable[[pytest.MonkeyPatch], None]
    attack: Callable[[], bool]
    ours: type[SecureFedDiffusionError] | None = None


CASES = [
    Case(("W1", "T10"), masks.without_full_width_seeds, masks.search_of_the_seed_space),
    Case(("W1",), masks.without_the_largest_mask_value, masks.a_mask_value_that_never_occurs),
    Case(
        ("W2", "T7"),
        keys.without_one_answer_a_round,
        keys.both_kinds_of_share_from_the_same_clients,
        PhaseError,
    ),
    Case(
        ("T7", "T14"),
        keys.without_a_majority_threshold,
        keys.one_half_of_the_clients_against_the_other,
        ConfigError,
    ),
    Case(("W3", "T14"), keys.without_a_policy, keys.a_cohort_of_one, ConfigError),
    Case(("W3", "T14"), keys.without_a_policy, keys.a_cohort_of_the_victim_and_an_accomplice, PolicyError),
    Case(("W3",), masks.without_a_least_ring, masks.signs_in_clear_at_modulus_two, ConfigError),
    Case(("W4", "T14"), keys.without_signatures, keys.the_server_plays_every_peer, FrameError),
    Case(("T14",), keys.without_the_whole_cohort_to_choose_from, keys.a_victim_among_accomplices),
    Case(("W5",), keys.without_tolerance_at_set_up, keys.one_dropout_at_set_up_ends_the_round),
    Case(("W6", "T17"), sums.without_masked_metadata, sums.counts_and_losses_in_the_transcript),
    Case(("W6", "T17"), sums.without_frames_of_constant_length, sums.lengths_that_depend_on_the_data),
    Case(("W7",), masks.without_unbiased_rounding, masks.a_small_value_comes_out_biased),
    Case(("W7",), masks.without_unbiased_rounding, masks.clipping_nobody_is_told_of),
    Case(("W7", "T11"), masks.without_a_headroom_proof, masks.a_sum_that_wraps, ConfigError),
    Case(("W8",), masks.without_exact_packing, masks.twice_the_bytes_of_the_ring),
    Case(("W10", "T9"), masks.without_the_round_in_the_derivation, masks.difference_of_two_rounds),
    Case(("W10", "T9"), masks.without_forgetting_a_used_round, masks.the_same_round_number_twice, PhaseError),
    Case(("W10",), masks.without_a_fresh_mask_for_each_coordinate, masks.differences_within_one_vector),
    Case(("W10",), masks.without_secret_keys, masks.pairwise_masks_from_public_keys),
    Case(
        ("W10", "T15"),
        keys.without_authentication_of_sealed_shares,
        keys.an_altered_share_is_taken_for_good,
        FrameError,
    ),
    Case(
        ("T15",),
        keys.without_the_check_of_recovered_secrets,
        keys.a_false_share_makes_a_false_sum,
        RecoveryError,
    ),
    Case(("T5",), sums.without_noise, sums.cohorts_that_differ_by_one),
    Case(
        ("T5",),
        sums.without_a_minimum_of_survivors,
        sums.a_sum_of_the_victim_and_an_accomplice,
        PolicyError,
    ),
    Case(("P2", "T6"), sums.without_noise, sums.disaggregation_from_participation_logs),
    Case(("T8",), masks.without_self_masks, masks.unmasking_of_a_late_input),
    Case(("P1", "T12"), keys.without_the_model_in_the_session, keys.a_model_for_the_victim_alone, FrameError),
    Case(("T13",), keys.without_the_check_of_points, keys.shares_sealed_under_a_zero_secret, FrameError),
]

ELSEWHERE = {
    "W9": "slow sharing is no attack: tests/benchmarks measures it, and a share is one field element by "
    "tests/secagg/test_sharing.py",
    "P3": "membership inference is against the sum, which secure aggregation gives away: the noise of "
    "secure_fed_diffusion.dp is what stops it, and the auditors of secure_fed_diffusion.audit measure it",
}

TABLE = [pytest.param(case, id=f"{'+'.join(case.ids)}-{case.attack.__name__}") for case in CASES]


@pytest.mark.parametrize("case", TABLE)
def test_without_its_defence_the_attack_succeeds(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.without(monkeypatch)
    assert case.attack()


@pytest.mark.parametrize("case", TABLE)
def test_against_ours_the_attack_fails(case: Case) -> None:
    if case.ours is None:
        assert not case.attack()
        return
    with pytest.raises(case.ours):
        case.attack()


def test_every_weakness_and_every_threat_has_a_case_or_a_sentence_why_not() -> None:
    tried = {one for case in CASES for one in case.ids}
    asked = {*WEAKNESSES, *PROTOCOL_ATTACKS, *THREATS}
    assert tried | ELSEWHERE.keys() == asked
    assert not tried & ELSEWHERE.keys()
    assert all(len(sentence.split()) > 10 for sentence in ELSEWHERE.values())


def test_the_culprit_is_named_where_it_can_be_proven() -> None:
    """Who sealed a share that does not open is proven; whose share was false is not."""
    for attack, culprits in (
        (keys.an_altered_share_is_taken_for_good, (1,)),
        (keys.a_false_share_makes_a_false_sum, ()),
    ):
        with pytest.raises((FrameError, RecoveryError)) as caught:
            attack()
        assert caught.value.culprits == culprits
