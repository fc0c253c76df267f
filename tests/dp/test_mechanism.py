from __future__ import annotations

import json
import math

import pytest

from secure_fed_diffusion.dp import Mechanism, View, accounting
from secure_fed_diffusion.dp.mechanism import CLIENT_SAMPLING
from secure_fed_diffusion.errors import ConfigError, PrivacyError
from secure_fed_diffusion.reporting import wording
from tests.dp.plans import MODEL, gaussian, shares

RAW, SUM = View(name="raw_update"), View(name="sum")


@pytest.mark.parametrize("key", ["raw_update", "sum_c0", "sum_c2", "sum_c10", "released_model"])
def test_a_view_is_found_again_by_its_key(key: str) -> None:
    assert View.parse(key).key == key


@pytest.mark.parametrize("key", ["sum", "sum_c", "sum_c01", "sum_c-1", "raw", "released_model_c1", ""])
def test_a_key_that_names_no_view_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="view"):
        View.parse(key)


def test_colluders_belong_to_the_sum_alone() -> None:
    with pytest.raises(ConfigError, match="colluders"):
        View(name="released_model", colluders=1)
    with pytest.raises(ConfigError, match="colluders"):
        View(name="sum", colluders=-1)


def test_every_view_says_who_looks_in_one_sentence() -> None:
    sentences = {
        View.parse(key).adversary for key in ("raw_update", "sum_c0", "sum_c1", "sum_c2", "released_model")
    }
    assert len(sentences) == 5
    assert all(sentence.count(".") == 1 and sentence.endswith(".") for sentence in sentences)


def test_a_mechanism_survives_json_and_stays_hashable() -> None:
    step = shares()
    again = Mechanism.from_dict(json.loads(json.dumps(step.to_dict())))
    assert again == step
    assert {step: 1}[again] == 1


def test_shares_protect_each_view_by_the_shares_it_does_not_know() -> None:
    step = shares(100.0, sensitivity=10.0, integer=False, min_survivors=5)
    assert step.noise_multiplier(RAW) == pytest.approx(10.0)
    assert step.noise_multiplier(SUM) == pytest.approx(10.0 * math.sqrt(5))
    assert step.noise_multiplier(View(name="sum", colluders=3)) == pytest.approx(10.0 * math.sqrt(2))
    assert step.noise_multiplier(MODEL) == pytest.approx(10.0 * math.sqrt(5))


def test_what_counts_every_share_is_said_to_hold_if_every_survivor_adds_its_own() -> None:
    """Four of five that add no noise leave one share, whatever the view is called."""
    step = shares(1.0, sensitivity=1.0, integer=False, min_survivors=5, sampling_rate=0.1)
    left = gaussian(1.0, sampling_rate=0.1)
    guard = View(name="sum", colluders=4)
    true = accounting.epsilon({left: 100}, delta=1e-5, view=MODEL)
    assert accounting.epsilon({step: 100}, delta=1e-5, view=guard) == pytest.approx(true)
    for view in (SUM, MODEL):
        assert accounting.epsilon({step: 100}, delta=1e-5, view=view) < true / 3
        for words in (view.adversary, wording.adversary(view.key)):
            assert "if every survivor adds its" in words
    assert "if every survivor" not in guard.adversary + wording.adversary(guard.key)


def test_as_many_colluders_as_survivors_leave_nothing() -> None:
    assert shares().noise_multiplier(View(name="sum", colluders=5)) == 0.0
    assert shares().noise_multiplier(View(name="sum", colluders=9)) == 0.0


def test_the_step_to_the_integers_is_paid_out_of_the_variance() -> None:
    step = shares(8.0, sensitivity=16.0, min_survivors=1)
    assert step.noise_multiplier(RAW) == pytest.approx(math.sqrt(64 - 16) / 16)
    assert shares(3.0, sensitivity=16.0, min_survivors=1).noise_multiplier(RAW) == 0.0


def test_a_trusted_server_protects_the_released_model_alone() -> None:
    step = gaussian(2.0)
    assert [step.noise_multiplier(view) for view in (RAW, SUM, MODEL)] == [0.0, 0.0, 2.0]


def test_local_noise_is_worth_one_raw_update_in_every_view() -> None:
    step = shares(2.0, kind="local", sensitivity=1.0, integer=False)
    assert [step.noise_multiplier(view) for view in (RAW, SUM, MODEL)] == [2.0, 2.0, 2.0]
    assert step.noise_multiplier(View(name="sum", colluders=4)) == 2.0


def test_no_mechanism_protects_nobody() -> None:
    step = shares(0.0, kind="none")
    assert [step.noise_multiplier(view) for view in (RAW, SUM, MODEL)] == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"relation": "replace"}, PrivacyError),
        ({"relation": "zero_out"}, PrivacyError),
        ({"unit": "client"}, PrivacyError),
        ({"unit": "client", "sampling_rate": 1.0}, PrivacyError),  # a client is never unseen
        ({"unit": "person", "relation": "zero_out"}, PrivacyError),
        ({"unit": "client", "relation": "zero_out"}, PrivacyError),  # at a rate below 1: no amplification
        ({"unit": "household"}, ConfigError),
        ({"kind": "shuffled"}, ConfigError),
        ({"sampling_rate": 0.0}, ConfigError),
        ({"sampling_rate": 1.5}, ConfigError),
        ({"sensitivity": 0.0}, ConfigError),
        ({"sensitivity": math.inf}, ConfigError),
        ({"sensitivity": 10.5}, ConfigError),
        ({"sensitivity": 2.0**25}, ConfigError),
        ({"share_stddev": math.nan}, ConfigError),
        ({"share_stddev": -1.0}, ConfigError),
        ({"server_stddev": 1.0}, ConfigError),
        ({"kind": "central"}, ConfigError),
        ({"min_survivors": 0}, ConfigError),
        ({"dimension": 0}, ConfigError),
    ],
)
def test_what_has_no_proof_is_refused(changes: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        shares(**changes)


def test_a_client_unit_is_a_plain_gaussian() -> None:
    step = shares(unit="client", relation="zero_out", sampling_rate=1.0)
    assert step.noise_multiplier(RAW) == pytest.approx(0.5, rel=1e-5)


def test_a_client_is_never_amplified_by_its_own_sampling() -> None:
    for relation in ("zero_out", "replace_one"):
        with pytest.raises(PrivacyError, match="No amplification by client sampling") as refusal:
            shares(unit="client", relation=relation, sampling_rate=0.5)
        assert CLIENT_SAMPLING in str(refusal.value)


def test_what_is_assumed_of_the_cohort_is_one_sentence_at_the_accountant_too() -> None:
    assert accounting.CLIENT_SAMPLING == CLIENT_SAMPLING
    assert CLIENT_SAMPLING.endswith(".")


@pytest.mark.parametrize("unit", ["example", "person"])
def test_a_person_is_one_clipped_vector_like_an_example(unit: str) -> None:
    step = shares(8192.0, unit=unit)
    assert step.noise_multiplier(RAW) == shares(8192.0).noise_multiplier(RAW)
    assert Mechanism.from_dict(step.to_dict()) == step
