from __future__ import annotations

import math
from dataclasses import replace

import pytest

from secure_fed_diffusion.dp.accounting import epsilon
from secure_fed_diffusion.dp.mechanism import View
from secure_fed_diffusion.errors import BudgetExceededError, ConfigError, PolicyError
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.schedule import make_schedule, most_participations
from tests.federation.small import federation, settings_for


def plan(mode: str, *overrides: str) -> Plan:
    return federation(settings_for(mode, *overrides)).plan


@pytest.mark.parametrize("mode", ["central", "local", "distributed", "client"])
def test_the_whole_plan_stays_in_its_budget_and_uses_it(mode: str) -> None:
    it = plan(mode)
    most = it.max_charges()
    counts = {release.mechanism: most[name] for name, release in it.releases.items()}
    spent = epsilon(counts, delta=it.privacy.delta, view=it.guard)
    assert 0.98 * it.privacy.epsilon < spent <= it.privacy.epsilon


def test_views_cost_more_the_more_they_see() -> None:
    it = plan("distributed")
    counts = {r.mechanism: it.max_charges()[name] for name, r in it.releases.items()}
    cost = [
        epsilon(counts, delta=1e-5, view=view)
        for view in (
            View(name="released_model"),
            View(name="sum"),
            View(name="sum", colluders=1),
            View(name="sum", colluders=2),
            View(name="raw_update"),
        )
    ]
    assert cost == sorted(cost)
    assert cost[1] < cost[2] < cost[3] < cost[4]


def test_local_noise_is_the_raw_update_s_in_every_view() -> None:
    it = plan("local")
    multipliers = {it.releases["training"].mechanism.noise_multiplier(view) for view in it.views()}
    assert len(multipliers) == 1


def test_nothing_protects_mode_none() -> None:
    it = plan("none")
    assert it.budget_epsilon is None
    assert {r.mechanism.noise_multiplier(v) for r in it.releases.values() for v in it.views()} == {0.0}


def test_cohorts_are_public_balanced_and_the_same_for_everyone() -> None:
    one, two = (
        plan("distributed", "modes.distributed.rounds=12"),
        plan("distributed", "modes.distributed.rounds=12"),
    )
    assert one.rounds == two.rounds
    assert most_participations(one.rounds, "training") == math.ceil(12 * 5 / 6)
    assert {len(planned.cohort) for planned in one.rounds} == {5}


def test_who_sits_out_is_decided_by_the_seed_and_not_by_a_clients_number() -> None:
    federation = settings_for("distributed").federation
    schedules = {make_schedule(federation, n_prototypes=0, n_training=6, seed=seed) for seed in range(8)}
    assert len(schedules) > 1
    assert {min(set(range(6)) - set(rounds[0].cohort)) for rounds in schedules} != {5}


def test_the_noise_overhead_is_that_of_the_least_honest_survivors() -> None:
    assert plan("distributed").noise_overhead == pytest.approx(math.sqrt(5 / 3))
    assert plan("central").noise_overhead == 1.0


@pytest.mark.parametrize(
    ("overrides", "key", "words"),
    [
        (["secagg.threshold=6"], "secagg.threshold", "clients_per_round=5, got 6"),
        (["secagg.threshold=3"], "secagg.threshold", "2 * threshold > holders + colluders = 5 + 1"),
        (["federation.clients_per_round=7"], "federation.clients_per_round", "federation.clients=6, got 7"),
        (["federation.min_survivors=3"], "federation.min_survivors", "secagg.threshold=4, got 3"),
        (["federation.colluders=4"], "federation.colluders", "min_survivors=4, got 4"),
        (["secagg.modulus_bits=16"], "secagg.modulus_bits", "bits, got 16"),
        (["secagg.n_neighbours=4"], "secagg.n_neighbours", "needs the complete graph, got 4"),
        (["secagg.modulus_bits=65"], "secagg.modulus_bits", "<= 64, got 65"),
        (["secagg.rounds_per_setup=0"], "secagg.rounds_per_setup", "1 <= rounds_per_setup <= 1000, got 0"),
        (
            ["secagg.rounds_per_setup=2", "federation.clients=7"],
            "secagg.threshold",
            "holders + colluders = 7 + 1 (all 7 clients: secagg.rounds_per_setup > 1)",
        ),
        (["secagg.rounds_per_setup=2", "secagg.threshold=6"], "secagg.threshold", "per_round=5, got 6"),
        (["secagg.rounds_per_setup=2", "federation.min_survivors=3"], "federation.min_survivors", "got 3"),
    ],
)
def test_combinations_that_cannot_be_are_refused_by_name(overrides: list[str], key: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan("distributed", *overrides)
    assert caught.value.key == key
    assert words in str(caught.value)


def test_few_neighbours_do_not_go_with_a_set_up_of_more_clients_than_a_round_has() -> None:
    sparse = ["secagg.n_neighbours=4", "secagg.threshold=4", "secagg.rounds_per_setup=3"]
    with pytest.raises(ConfigError, match="too few rounds of a set-up of all") as caught:
        plan("none", *sparse, "federation.clients=7")
    assert caught.value.key == "secagg.rounds_per_setup"
    assert plan("none", *sparse, "federation.clients_per_round=6").secagg_params("training").n_rounds == 4


def test_the_client_s_policy_takes_the_plan_s_sums_and_none_with_more_slots() -> None:
    for rounds_per_setup in (1, 3):
        it = plan("distributed", f"secagg.rounds_per_setup={rounds_per_setup}")
        params = it.secagg_params("training")
        it.policy().check(params)
        with pytest.raises(PolicyError, match="n_rounds"):
            it.policy().check(replace(params, n_rounds=params.n_rounds + 1))
        with pytest.raises(PolicyError, match="n_clients"):
            it.policy().check(replace(params, n_clients=params.n_clients - 1))


def test_a_rehearsed_loss_that_cannot_happen_is_said() -> None:
    it = plan(
        "distributed", "federation.vanish=[{round=99, client=0}, {round=1, client=0}, {round=1, client=1}]"
    )
    said = it.remarks()
    assert "client 0 is in no round 99: it will not vanish there" in said
    absent = set(range(6)) - set(it.rounds[0].cohort)
    assert len(said) == 1 + len(absent & {0, 1})


def test_a_delta_that_is_not_below_one_over_the_declared_records_is_remarked_on() -> None:
    declared = settings_for("distributed").federation.declared_records
    at, below = 1.0 / declared, 0.99 / declared
    assert "privacy.delta" in plan("distributed", f"privacy.delta={at!r}").remarks()[0]
    assert not plan("distributed", f"privacy.delta={below!r}").remarks()


def test_a_budget_that_promises_next_to_nothing_is_remarked_on() -> None:
    assert (
        "privacy.epsilon=51 promises next to nothing"
        in plan("distributed", "privacy.epsilon=51").remarks()[0]
    )
    assert not plan("distributed", "privacy.epsilon=50").remarks()
    assert not plan("none", "privacy.epsilon=51").remarks()


def test_two_plans_share_no_session() -> None:
    digests = {plan("distributed").digest, plan("distributed", "modes.distributed.clip_norm=0.06").digest}
    digests |= {plan("distributed", "modes.distributed.sampling_rate=0.2").digest}
    assert len(digests) == 3


@pytest.mark.parametrize(
    "override",
    [
        "run.seed=77",
        "secagg.rounds_per_setup=5",
        'secagg.profile="semi_honest"',
        "federation.declared_records=1199",
        "federation.reserved_attempts=3",
        "model.norm_groups=1",
        "model.layers_per_block=2",
        "privacy.delta=9e-6",
        "diffusion.timesteps=999",
        "warmup.steps=199",
    ],
)
def test_whatever_changes_the_computation_or_who_takes_part_changes_the_digest(override: str) -> None:
    fixed = "privacy.noise_multiplier=20.0"  # so that the change alone tells, not another calibration
    assert plan("distributed", fixed, override).digest != plan("distributed", fixed).digest


def test_the_digest_holds_the_image_the_model_and_the_noise_to_the_last_bit() -> None:
    it = plan("distributed")
    last_bit = math.nextafter(it.noise_multiplier, math.inf)
    others = [
        replace(it, noise_multiplier=last_bit),
        replace(it, image_shape=(1, 8, 16)),
        replace(it, dimension=it.dimension + 1),
        replace(it, rounds=it.rounds[::-1]),
    ]
    assert len({it.digest, *(other.digest for other in others)}) == 5


def test_where_an_end_keeps_its_own_account_is_no_part_of_the_digest() -> None:
    own = ('privacy.shared_ledger="/own"', "privacy.shared_epsilon=9.0")
    it = plan("distributed")
    assert plan("distributed", *own).digest == it.digest
    assert plan("distributed", f"privacy.noise_multiplier={it.noise_multiplier!r}").digest == it.digest


def test_float_updates_without_headroom_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"secagg\.modulus_bits"):
        plan("none", "secagg.modulus_bits=30")


def test_a_warm_up_that_spends_the_budget_alone_is_refused_before_any_work() -> None:
    with pytest.raises(BudgetExceededError, match="less than the warm-up alone costs"):
        plan("distributed", "privacy.epsilon=0.5", "warmup.noise_multiplier=0.5")


def test_a_fixed_noise_that_overspends_is_refused_and_one_that_does_not_is_taken() -> None:
    with pytest.raises(BudgetExceededError, match=r"privacy\.noise_multiplier=0\.5 would spend ε = \d+"):
        plan("distributed", "privacy.noise_multiplier=0.5", "privacy.epsilon=2.0")
    assert plan("distributed", "privacy.noise_multiplier=3.0").noise_multiplier == 3.0


def test_the_ring_holds_a_large_sample_and_the_noise() -> None:
    it = plan("distributed")
    for release in it.releases.values():
        worst = 1.5 * release.divisor * release.grid.norm_bound
        worst += 12 * release.mechanism.share_stddev * math.sqrt(5)
        assert worst < 2 ** (release.modulus_bits - 1)
