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
    SecureFedDiffusionError,
)
from threat_models.claims import (
    t07_both_kinds_of_share,
    t08_late_input,
    t13_low_order_points,
    t14_substituted_keys,
    t14c_weak_terms,
    t15_altered_share,
    t15b_false_share,
    t35_dropout_at_set_up,
)
from threat_models.weakened import keys_and_lists as weak_keys
from threat_models.weakened import masks_and_seeds as weak_masks
from threat_models.weakened import metadata as weak_metadata

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
    Case(("W1", "T10"), weak_masks.without_full_width_seeds, masks.search_of_the_seed_space),
    Case(("W1",), weak_masks.without_the_largest_mask_value, masks.a_mask_value_that_never_occurs),
    Case(
        ("T7", "T14"),
        weak_keys.without_a_majority_threshold,
        keys.one_half_of_the_clients_against_the_other,
        ConfigError,
    ),
    Case(("W3", "T14"), weak_keys.without_a_policy, keys.a_cohort_of_one, ConfigError),
    Case(("W3",), weak_masks.without_a_least_ring, masks.signs_in_clear_at_modulus_two, ConfigError),
    Case(("T14",), weak_keys.without_the_whole_cohort_to_choose_from, keys.a_victim_among_accomplices),
    Case(("W6", "T17"), weak_metadata.without_masked_metadata, sums.counts_and_losses_in_the_transcript),
    Case(
        ("W6", "T17"), weak_metadata.without_frames_of_constant_length, sums.lengths_that_depend_on_the_data
    ),
    Case(("W7",), weak_masks.without_unbiased_rounding, masks.a_small_value_comes_out_biased),
    Case(("W7",), weak_masks.without_unbiased_rounding, masks.clipping_nobody_is_told_of),
    Case(("W7", "T11"), weak_masks.without_a_headroom_proof, masks.a_sum_that_wraps, ConfigError),
    Case(("W8",), weak_masks.without_exact_packing, masks.twice_the_bytes_of_the_ring),
    Case(("W10", "T9"), weak_masks.without_the_round_in_the_derivation, masks.difference_of_two_rounds),
    Case(
        ("W10", "T9"),
        weak_masks.without_forgetting_a_used_round,
        masks.the_same_round_number_twice,
        PhaseError,
    ),
    Case(("W10",), weak_masks.without_a_fresh_mask_for_each_coordinate, masks.differences_within_one_vector),
    Case(("W10",), weak_masks.without_secret_keys, masks.pairwise_masks_from_public_keys),
    Case(("T5",), sums.without_noise, sums.cohorts_that_differ_by_one),
    Case(
        ("T5",),
        sums.without_a_minimum_of_survivors,
        sums.a_sum_of_the_victim_and_an_accomplice,
        PolicyError,
    ),
    Case(("P2", "T6"), sums.without_noise, sums.disaggregation_from_participation_logs),
    Case(
        ("P1", "T12"),
        weak_keys.without_the_model_in_the_session,
        keys.a_model_for_the_victim_alone,
        FrameError,
    ),
]

CLAIMED = {  # tried in three arms by tests/threat_models/test_secure_sum_claims.py and by `sfd threats`
    t07_both_kinds_of_share.CLAIM.id: ("W2", "T7"),
    t08_late_input.CLAIM.id: ("T8",),
    t13_low_order_points.CLAIM.id: ("T13",),
    t14_substituted_keys.CLAIM.id: ("W4", "T14"),
    t14c_weak_terms.CLAIM.id: ("W3", "T14"),
    t15_altered_share.CLAIM.id: ("W10", "T15"),
    t15b_false_share.CLAIM.id: ("T15",),
    t35_dropout_at_set_up.CLAIM.id: ("W5",),
}

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
    tried = {one for case in CASES for one in case.ids} | {one for ids in CLAIMED.values() for one in ids}
    asked = {*WEAKNESSES, *PROTOCOL_ATTACKS, *THREATS}
    assert tried | ELSEWHERE.keys() == asked
    assert not tried & ELSEWHERE.keys()
    assert all(len(sentence.split()) > 10 for sentence in ELSEWHERE.values())
