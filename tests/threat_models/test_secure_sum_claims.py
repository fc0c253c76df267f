"""The claims on the secure sum: each arm as written at one seed, and each refusal the right one."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from secure_fed_diffusion import secagg
from secure_fed_diffusion.errors import PolicyError
from threat_models import trials
from threat_models.claim import Arm, Claim
from threat_models.claims import (
    t07_both_kinds_of_share,
    t07b_two_survivor_lists,
    t07c_short_survivor_list,
    t08_late_input,
    t12b_model_swapped,
    t13_low_order_points,
    t14_substituted_keys,
    t14b_invented_clients,
    t14c_weak_terms,
    t14d_ring_of_two,
    t15_altered_share,
    t15b_false_share,
    t30_two_participant_lists,
    t31_meddling_network,
    t31c_open_wire,
    t32_colluding_holders,
    t33_noise_shares,
    t34_wrong_vector,
    t35_dropout_at_set_up,
    t37_under_noised_sum,
)
from threat_models.staging.reading import read_input, read_sum
from threat_models.staging.recorded_round import RecordedRound, Truth, coordinates_read
from threat_models.staging.secagg_round import make_params

MODULES = (
    t07_both_kinds_of_share,
    t07b_two_survivor_lists,
    t07c_short_survivor_list,
    t08_late_input,
    t12b_model_swapped,
    t13_low_order_points,
    t14_substituted_keys,
    t14b_invented_clients,
    t14c_weak_terms,
    t14d_ring_of_two,
    t15_altered_share,
    t15b_false_share,
    t30_two_participant_lists,
    t31_meddling_network,
    t31c_open_wire,
    t32_colluding_holders,
    t33_noise_shares,
    t34_wrong_vector,
    t35_dropout_at_set_up,
    t37_under_noised_sum,
)
CLAIMS: list[Claim[Any, Any]] = [
    claim for module in MODULES for claim in getattr(module, "CLAIMS", None) or (module.CLAIM,)
]
IN_ARMS = [pytest.param(claim, arm, id=f"{claim.id}-{arm.value}") for claim in CLAIMS for arm in claim.arms]


@pytest.mark.parametrize(("claim", "arm"), IN_ARMS)
def test_each_arm_comes_out_as_written_at_one_seed(claim: Claim[Any, Any], arm: Arm) -> None:
    """At a seed that the claim's own runs do not use; the mean alone, since one seed has no interval."""
    trial = trials.try_once(claim, arm.value, 77)
    assert trial.error is None
    mean = trials.interval([trial.metric])[0]
    assert claim.threshold.verdict(low=mean, high=mean) is claim.expected(arm)


REFUSALS = [
    (t07_both_kinds_of_share, "consistency", "PhaseError", range(1, 7)),
    (t07b_two_survivor_lists, "unmask", "TooFewClientsError", (2,)),
    (t07c_short_survivor_list, "consistency", "PolicyError", range(5)),
    (t08_late_input, None, None, ()),
    (t12b_model_swapped, None, None, ()),
    (t13_low_order_points, "share_keys", "FrameError", (0,)),
    (t14_substituted_keys, "share_keys", "FrameError", (0,)),
    (t14b_invented_clients, "advertise", "ConfigError", (0,)),
    (t14c_weak_terms, "advertise", "PolicyError", (0,)),
    (t14d_ring_of_two, "advertise", "ConfigError", (0,)),
    (t30_two_participant_lists, "masked_input", "TooFewClientsError", (0,)),
    (t37_under_noised_sum, "consistency", "PolicyError", range(5)),
]


@pytest.mark.parametrize(
    ("module", "phase", "error", "clients"), REFUSALS, ids=[row[0].CLAIM.id for row in REFUSALS]
)
def test_with_the_defence_on_the_right_clients_refuse_for_the_right_reason(
    module: Any, phase: str | None, error: str | None, clients: Any
) -> None:
    refusals = module.stage(Arm.ON, 3).truth.refusals
    assert {refusal.client_id for refusal in refusals} == set(clients)
    assert {(refusal.phase, refusal.error) for refusal in refusals} == ({(phase, error)} if error else set())


@pytest.mark.parametrize("arm", [Arm.OFF, Arm.DROPPED])
def test_where_the_attack_succeeds_its_victim_noticed_nothing(arm: Arm) -> None:
    for module in (t08_late_input, t13_low_order_points, t14_substituted_keys, t14b_invented_clients):
        assert module.stage(arm, 3).truth.refusals == (), module.__name__


def test_the_sealer_of_an_altered_share_is_named() -> None:
    refusals = t15_altered_share.stage(Arm.ON, 3).truth
    assert [refusal.culprits for refusal in refusals] == [
        ((refusal.client_id + 1) % t15_altered_share.N_CLIENTS,) for refusal in refusals
    ]
    assert len(refusals) == t15_altered_share.N_CLIENTS


def test_whoever_seals_garbage_in_the_set_up_is_named_by_everyone() -> None:
    refusals = t34_wrong_vector.stage_equivocation(Arm.ON, 3).truth
    assert {refusal.culprits for refusal in refusals} == {(t34_wrong_vector.LIAR,)}
    assert len(refusals) == t34_wrong_vector.N_CLIENTS - 1


def test_the_terms_of_two_survivor_lists_with_two_accomplices_are_refused_by_the_safe_policy() -> None:
    with pytest.raises(PolicyError, match="2 \\* threshold"):
        secagg.Policy(colluders=2).check(make_params(5, 3, profile="active"))
    secagg.Policy(colluders=2).check(make_params(5, 4, profile="active"))


def test_the_shared_attack_reads_a_vector_with_everything_and_nothing_with_one_share_less() -> None:
    a_round = RecordedRound.of_seed("active", 5, n_clients=7, threshold=5).run_to("consistency")
    told = a_round.tell(range(1, 6))
    truth = Truth(a_round.vectors[0])
    assert coordinates_read(read_input(a_round.exchange(told=told)), truth) == 1.0
    del told[1]
    assert coordinates_read(read_input(a_round.exchange(told=told)), truth) == 0.0


def test_the_shared_attack_gets_the_sum_that_the_server_gets() -> None:
    a_round = RecordedRound.of_seed("active", 5).finish(dropouts={2: "masked_input"})
    assert np.array_equal(read_sum(a_round.exchange()), a_round.server.total)


def test_a_view_of_the_shared_attack_has_no_secret_of_an_honest_client() -> None:
    """Every secret that the clients drew, looked for in all bytes of the view."""
    a_round = RecordedRound.of_seed("active", 5, n_clients=7, threshold=5).run_to("masked_input")
    drawn = [
        secret
        for v in range(7)
        for secret in (
            a_round.clients[v]._setup.keyring.cipher_key,
            *a_round.clients[v]._setup.keyring.rounds[0],
        )
    ]
    a_round.finish()
    seen = repr(dataclasses.asdict(a_round.exchange()))
    assert all(len(secret) == 32 and repr(secret)[2:-1] not in seen for secret in drawn)


def test_the_epsilon_of_each_view_is_as_the_claim_on_noise_shares_says() -> None:
    """The figures of T33's text, worked out anew: each share as large as the clip, rate .1, 100 steps."""
    from secure_fed_diffusion.dp.accounting import epsilon
    from secure_fed_diffusion.dp.mechanism import Mechanism, View

    def of(view: View, shares: int) -> float:
        step = Mechanism(
            kind="shares",
            unit="example",
            relation="add_remove",
            sampling_rate=0.1,
            sensitivity=1.0,
            share_stddev=1.0,
            server_stddev=0.0,
            min_survivors=shares,
            integer=False,
            dimension=1,
        )
        return epsilon({step: 100}, delta=1e-5, view=view, accountant="pld")

    assert of(View(name="raw_update"), 10) == pytest.approx(7.05, abs=0.01)
    for honest, expected in ((2, 3.87), (5, 2.01), (10, 1.30)):
        assert of(View(name="sum"), honest) == pytest.approx(expected, abs=0.01)
    assert of(View(name="sum", colluders=9), 10) == pytest.approx(7.05, abs=0.01)


def test_no_claim_on_the_secure_sum_needs_torch_or_flwr() -> None:
    names = ", ".join(module.__name__ for module in MODULES)
    staged = f"{t37_under_noised_sum.__name__}.stage({t37_under_noised_sum.__name__}.Arm.ON, 0)"
    code = f"import sys, {names}; {staged}; print(sorted({{'torch', 'flwr'}} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
