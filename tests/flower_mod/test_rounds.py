"""Rounds over the real mod and the real strategy wrapper: exact, with whoever is left, or failed by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from secure_fed_diffusion.errors import ConfigError

fl = pytest.importorskip("tests.flower_mod.federation", reason="flwr is not installed")
N = 5
EVERYONE = tuple(range(N))
STEPS = ("advertise", "share_keys", "masked_input", "unmask")


def test_the_model_is_fedavgs_to_the_step_of_the_fixed_point(tmp_path: Path) -> None:
    grid, proposal = fl.federation(N, tmp_path), fl.Proposal(n_rounds=2)
    strategy = fl.secure(N, proposal)
    result = strategy.start(grid, fl.start_arrays(), num_rounds=3)
    plain = fl.fedavg(N).start(
        fl.MemoryGrid([fl.app_of(i) for i in EVERYONE]), fl.start_arrays(), num_rounds=3
    )
    expected = {name: array.numpy() for name, array in plain.arrays.items()}
    # Each round's error is carried into the next one times 0.9.
    assert fl.largest_error(result.arrays, expected) <= 3 * fl.allowed_error(proposal, N, EVERYONE)
    assert [len(record.survivors) for record in strategy.history] == [N, N, N]
    assert grid.errors == []


def test_every_array_keeps_its_name_its_shape_and_its_kind(tmp_path: Path) -> None:
    result = fl.secure(N).start(fl.federation(N, tmp_path), fl.start_arrays(), num_rounds=1)
    for name, array in fl.start_arrays().items():
        assert result.arrays[name].numpy().shape == array.numpy().shape
        assert result.arrays[name].numpy().dtype == np.float32


def test_metrics_that_are_asked_for_come_back_as_their_weighted_mean_and_no_others(tmp_path: Path) -> None:
    proposal = fl.Proposal(metrics=("loss",))
    grid = fl.federation(N, tmp_path, metrics=("loss",))
    result = fl.secure(N, proposal).start(grid, fl.start_arrays(), num_rounds=1)
    weights = [fl.n_examples(i) for i in EVERYONE]
    expected = sum(w * (0.123456 + i) for i, w in enumerate(weights)) / sum(weights)
    assert set(result.train_metrics_clientapp[1]) == {"loss"}
    step = proposal.step(n_clients=N, total_weight=sum(weights))
    assert abs(result.train_metrics_clientapp[1]["loss"] - expected) <= step


def test_an_optimiser_at_the_server_gets_the_same_mean(tmp_path: Path) -> None:
    options = {"fraction_evaluate": 0.0, "min_train_nodes": N, "min_available_nodes": N}
    ours = fl.secure(N, strategy=fl.FedAdam(**options))
    result = ours.start(fl.federation(N, tmp_path), fl.start_arrays(), num_rounds=2)
    plain = fl.FedAdam(**options).start(
        fl.MemoryGrid([fl.app_of(i) for i in EVERYONE]), fl.start_arrays(), num_rounds=2
    )
    expected = {name: array.numpy() for name, array in plain.arrays.items()}
    assert fl.largest_error(result.arrays, expected) < 1e-4  # Adam divides by the size of the change


@pytest.mark.parametrize(("profile", "setup", "round_"), [("semi_honest", 2, 2), ("active", 3, 3)])
def test_a_set_up_pays_for_its_rounds_and_a_later_one_takes_two_exchanges_or_three(
    tmp_path: Path, profile: str, setup: int, round_: int
) -> None:
    roster = None
    if profile == "active":
        grid, roster = fl.active_federation(N, tmp_path)
    else:
        grid = fl.federation(N, tmp_path)
    strategy = fl.secure(N, fl.Proposal(n_rounds=2, profile=profile), roster=roster)
    strategy.start(grid, fl.start_arrays(), num_rounds=3)
    taken = [len(record.exchanges) for record in strategy.history]
    known = setup - (profile == "active")  # who is who is asked once in a run
    assert taken == [setup + round_, round_, known + round_]
    assert [record.error for record in strategy.history] == ["", "", ""]


def test_under_active_the_numbers_of_the_roster_count_not_the_places_of_the_nodes(tmp_path: Path) -> None:
    grid, roster = fl.active_federation(N, tmp_path)
    proposal = fl.Proposal(n_rounds=2, profile="active")
    result = fl.secure(N, proposal, roster=roster).start(grid, fl.start_arrays(), num_rounds=1)
    expected = fl.in_clear(EVERYONE, fl.start_arrays())
    assert fl.largest_error(result.arrays, expected) <= fl.allowed_error(proposal, N, EVERYONE)


@pytest.mark.parametrize("fault", ["drop", "garbage", "empty", "late"])
@pytest.mark.parametrize("step", STEPS)
def test_a_client_that_is_lost_in_any_step_costs_its_own_part_and_no_more(
    tmp_path: Path, step: str, fault: str
) -> None:
    grid, proposal = fl.federation(N, tmp_path), fl.Proposal(n_rounds=3)
    grid.faults[2, step] = fault
    strategy = fl.secure(N, proposal)
    result = strategy.start(grid, fl.start_arrays(), num_rounds=1)
    left = EVERYONE if step == "unmask" else (0, 1, 3, 4)  # what it sent before `unmask` is in the sum
    assert len(strategy.history[0].survivors) == len(left)
    expected = fl.in_clear(left, fl.start_arrays())
    assert fl.largest_error(result.arrays, expected) <= fl.allowed_error(proposal, N, left)


@pytest.mark.parametrize("step", ["masked_input", "unmask"])
def test_a_client_that_was_lost_in_a_round_is_back_in_the_next_one(tmp_path: Path, step: str) -> None:
    grid = fl.federation(N, tmp_path)
    grid.faults[2, step] = "drop"
    strategy = fl.secure(N, fl.Proposal(n_rounds=3))
    after = strategy.start(grid, fl.start_arrays(), num_rounds=1).arrays
    grid.faults.clear()
    result = strategy.start(grid, after, num_rounds=1)
    assert [len(record.survivors) for record in strategy.history][1] == N
    assert len(strategy.history[1].exchanges) == 2
    expected = fl.in_clear(EVERYONE, after)
    assert fl.largest_error(result.arrays, expected) <= fl.allowed_error(fl.Proposal(), N, EVERYONE)


def test_a_masked_input_of_the_round_before_is_refused(tmp_path: Path) -> None:
    grid, proposal = fl.federation(N, tmp_path), fl.Proposal(n_rounds=3)
    strategy = fl.secure(N, proposal)
    after = strategy.start(grid, fl.start_arrays(), num_rounds=1).arrays
    grid.faults[4, "masked_input"] = "replay"
    result = strategy.start(grid, after, num_rounds=1)
    left = (0, 1, 2, 3)
    assert len(strategy.history[1].survivors) == len(left)
    assert fl.largest_error(result.arrays, fl.in_clear(left, after)) <= fl.allowed_error(proposal, N, left)


def test_with_too_few_left_the_model_stays_the_error_has_a_name_and_the_next_round_goes_on(
    tmp_path: Path,
) -> None:
    grid = fl.federation(N, tmp_path)
    grid.faults |= {(index, "unmask"): "drop" for index in (0, 1)}
    strategy = fl.secure(N, fl.Proposal(n_rounds=3))
    result = strategy.start(grid, fl.start_arrays(), num_rounds=1)
    assert result.arrays is None or len(result.arrays) == 0
    assert strategy.history[0].error.startswith("TooFewClientsError")
    assert len(strategy.history[0].survivors) == 0
    grid.faults.clear()
    again = strategy.start(grid, fl.start_arrays(), num_rounds=1)
    expected = fl.in_clear(EVERYONE, fl.start_arrays())
    assert fl.largest_error(again.arrays, expected) <= fl.allowed_error(fl.Proposal(), N, EVERYONE)


def test_a_later_round_may_ask_fewer_clients_of_the_same_set_up(tmp_path: Path) -> None:
    grid, proposal = fl.federation(N, tmp_path), fl.Proposal(n_rounds=3)
    strategy = fl.secure(N, proposal)
    strategy.start(grid, fl.start_arrays(), num_rounds=1)
    strategy.strategy = fl.fedavg(4, fraction_train=0.8)
    result = strategy.start(grid, fl.start_arrays(), num_rounds=1)
    assert len(strategy.history[1].exchanges) == 2
    asked = [index for index, step in grid.asked if step == "masked_input"][N:]
    assert len(asked) == 4
    expected = fl.in_clear(asked, fl.start_arrays())
    assert fl.largest_error(result.arrays, expected) <= fl.allowed_error(proposal, N, asked)


def test_a_node_that_is_not_in_the_set_up_brings_a_new_one(tmp_path: Path) -> None:
    grid = fl.federation(N, tmp_path)
    newcomer = grid.apps.popitem()
    strategy = fl.secure(4, fl.Proposal(n_rounds=9))
    strategy.start(grid, fl.start_arrays(), num_rounds=1)
    grid.apps |= [newcomer]
    strategy.strategy = fl.fedavg(N)
    strategy.start(grid, fl.start_arrays(), num_rounds=1)
    assert [len(record.survivors) for record in strategy.history] == [4, N]
    assert len(strategy.history[1].exchanges) == 4


def test_a_legacy_app_runs_with_the_workflow_in_the_place_of_secagg_plus(tmp_path: Path) -> None:
    from flwr.client import NumPyClient
    from flwr.clientapp import ClientApp
    from flwr.common import FitIns, ndarrays_to_parameters, parameters_to_ndarrays
    from flwr.server.compat import LegacyContext
    from flwr.server.strategy import FedAvg as LegacyFedAvg

    class Hospital(NumPyClient):
        def __init__(self, index: int) -> None:
            self._index = index

        def fit(
            self, parameters: list[np.ndarray], config: dict[str, object]
        ) -> tuple[list[np.ndarray], int, dict]:
            new = fl.trained(self._index, {str(i): array for i, array in enumerate(parameters)})
            return list(new.values()), fl.n_examples(self._index), {"loss": 0.5, "secret": fl.SECRET}

    grid = fl.MemoryGrid(
        [
            ClientApp(
                lambda context: Hospital(int(context.node_config["partition-id"])).to_client(),
                mods=[fl.secure_aggregation_mod(state_dir=tmp_path / str(i), metrics=("loss",))],
            )
            for i in EVERYONE
        ]
    )
    start = [array.numpy() for array in fl.start_arrays().values()]
    seen: list[tuple[list[np.ndarray], int]] = []

    class Strategy(LegacyFedAvg):
        def configure_fit(self, server_round, parameters, client_manager):  # type: ignore[no-untyped-def]
            proxies = [fl.SimpleNamespace(node_id=node) for node in grid.get_node_ids()]
            return [(proxy, FitIns(ndarrays_to_parameters(start), {"lr": 0.1})) for proxy in proxies]

        def aggregate_fit(self, server_round, results, failures):  # type: ignore[no-untyped-def]
            seen.extend((parameters_to_ndarrays(fit.parameters), fit.num_examples) for _, fit in results)
            return super().aggregate_fit(server_round, results, failures)

    state = fl.RecordDict({"config": fl.ConfigRecord({"current_round": 1}), "parameters": fl.ArrayRecord()})
    context = LegacyContext(
        fl.Context(fl.RUN_ID, 1, {}, state, {}),
        strategy=Strategy(),
        client_manager=fl.SimpleNamespace(num_available=lambda: N),
    )
    workflow = fl.SecureAggregationWorkflow(fl.Proposal(metrics=("loss",)), poll_seconds=0.005)
    workflow(grid, context)
    assert grid.errors == []
    (arrays, weight) = seen[0]
    assert (len(seen), weight) == (1, sum(map(fl.n_examples, EVERYONE)))
    expected = fl.in_clear(EVERYONE, fl.start_arrays())
    for array, wanted in zip(arrays, expected.values(), strict=True):
        assert np.abs(array - wanted).max() <= fl.allowed_error(fl.Proposal(), N, EVERYONE)


def test_a_strategy_that_needs_each_clients_result_is_refused() -> None:
    with pytest.raises(ConfigError, match="Krum needs each client's own result"):
        fl.secure(N, strategy=fl.Krum())


def test_a_strategy_that_weighs_by_another_key_than_the_proposal_is_refused() -> None:
    for strategy in (fl.fedavg(N, weighted_by_key="rows"), fl.SimpleNamespace(strategy=fl.fedavg(N))):
        proposal = fl.Proposal(weight_key="samples")
        with pytest.raises(ConfigError, match=r"weighted_by_key='.*', the proposal 'samples'") as raised:
            fl.secure(N, proposal, strategy=strategy)
        assert raised.value.key == "weight_key"
    fl.secure(N, fl.Proposal(weight_key="rows"), strategy=fl.fedavg(N, weighted_by_key="rows"))


def test_every_strategy_of_central_differential_privacy_is_refused() -> None:
    from flwr.server import strategy as legacy
    from flwr.serverapp import strategy as message_api

    from secure_fed_diffusion.flower_mod.server import NEED_EACH_RESULT

    found = [
        getattr(module, name)
        for module in (legacy, message_api)
        for name in module.__all__
        if name.startswith(("DP", "Differential"))
    ]
    assert len(found) >= 10
    assert [kind for kind in found if not issubclass(kind, NEED_EACH_RESULT)] == []


def test_clients_that_would_be_asked_different_things_are_not_asked_at_all(tmp_path: Path) -> None:
    class Uneven(fl.FedAvg):
        def configure_train(self, *arguments):  # type: ignore[no-untyped-def]
            messages = list(super().configure_train(*arguments))
            messages[0].content = fl.RecordDict(
                {**messages[0].content, "config": fl.ConfigRecord({"server-round": 1, "lr": 9.0})}
            )
            return messages

    grid = fl.federation(N, tmp_path)
    strategy = Uneven(fraction_evaluate=0.0, min_train_nodes=N, min_available_nodes=N)
    with pytest.raises(ConfigError, match="asked the same"):
        fl.secure(N, strategy=strategy).start(grid, fl.start_arrays(), num_rounds=1)
    assert grid.asked == []


def test_a_strategy_that_counts_replies_is_refused() -> None:
    from flwr.server.strategy import FaultTolerantFedAvg

    with pytest.raises(ConfigError, match="FaultTolerantFedAvg needs"):
        fl.secure(N, strategy=FaultTolerantFedAvg())


def test_the_strategys_message_type_group_and_time_to_live_reach_the_app(tmp_path: Path) -> None:
    class Raw(fl.FedAvg):
        def configure_train(self, *arguments):  # type: ignore[no-untyped-def]
            return [
                fl.Message(m.content, m.metadata.dst_node_id, "train.raw", ttl=77.0, group_id="mine")
                for m in super().configure_train(*arguments)
            ]

    grid = fl.federation(N, tmp_path, action="raw")
    strategy = fl.secure(N, strategy=Raw(fraction_evaluate=0.0, min_train_nodes=N, min_available_nodes=N))
    result = strategy.start(grid, fl.start_arrays(), num_rounds=1)
    assert grid.errors == []
    assert fl.largest_error(result.arrays, fl.in_clear(EVERYONE, fl.start_arrays())) <= fl.allowed_error(
        fl.Proposal(), N, EVERYONE
    )
    seen = {(m.metadata.message_type, m.metadata.group_id, m.metadata.ttl) for _, m in grid.delivered}
    assert seen == {("train.raw", "mine", 77.0)}


def test_equal_weights_give_the_plain_mean_and_say_nothing_of_examples(tmp_path: Path) -> None:
    grid = fl.federation(N, tmp_path, weighting="equal")
    proposal = fl.Proposal(weighting="equal")
    result = fl.secure(N, proposal).start(grid, fl.start_arrays(), num_rounds=1)
    before = {name: array.numpy() for name, array in fl.start_arrays().items()}
    expected = {name: np.mean([fl.trained(i, before)[name] for i in EVERYONE], axis=0) for name in before}
    step = proposal.step(n_clients=N, total_weight=N) + 4 * 2.0**-24
    assert fl.largest_error(result.arrays, expected) <= step


def test_a_ring_without_headroom_is_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    grid = fl.federation(N, tmp_path)
    with pytest.raises(ConfigError, match="no headroom"):
        fl.secure(N, fl.Proposal(modulus_bits=15)).start(grid, fl.start_arrays(), num_rounds=1)
    assert grid.asked == []


def test_two_wrappers_in_one_run_make_two_set_ups(tmp_path: Path) -> None:
    grid = fl.federation(N, tmp_path)
    for _ in range(2):
        strategy = fl.secure(N)
        strategy.start(grid, fl.start_arrays(), num_rounds=1)
        assert len(strategy.history[0].survivors) == N
    assert grid.errors == []
