"""A server that asks for something other than a round: what it is told does not depend on the data."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secure_fed_diffusion import secagg
from secure_fed_diffusion.errors import ConfigError, RunError

fl = pytest.importorskip("tests.flower_mod.federation", reason="flwr is not installed")
N = 4
CONSTANT = "SecureAggregationError: the training gave nothing that can be summed; this round is used up"


def step_of(message: Any) -> str:
    return str(message.content[fl.wire.RECORD]["step"])


def send(grid: Any, index: int, message: Any) -> Any:
    message.metadata.__dict__["_message_id"] = "again"
    node = fl.FIRST_NODE + index
    return grid.apps[node](message, grid.contexts[node])


def misbehaving(folder: Path, behaviour: Any, **options: Any) -> Any:
    """An app whose training is `behaviour(arrays)`, a RecordDict; `calls` counts how often it ran."""
    app, calls = fl.ClientApp(mods=[fl.secure_aggregation_mod(state_dir=folder, **options)]), []

    @app.train()
    def train(message: Any, context: Any) -> Any:
        calls.append(1)
        return fl.Message(behaviour(message.content["arrays"]), reply_to=message)

    return app, calls


def result(arrays: Any, **numbers: Any) -> Any:
    return fl.RecordDict({"arrays": arrays, "metrics": fl.MetricRecord(numbers)})


def not_finite(arrays: Any) -> Any:
    bad = {name: fl.Array(np.full_like(array.numpy(), np.nan)) for name, array in arrays.items()}
    return result(fl.ArrayRecord(bad), **{"num-examples": 3})


def other_shape(arrays: Any) -> Any:
    return result(fl.ArrayRecord({"weight": fl.Array(np.ones(3))}), **{"num-examples": 3})


def raises(arrays: Any) -> Any:
    raise ValueError("patient 4711")


def exits(arrays: Any) -> Any:
    raise SystemExit("patient 4711")


def no_weight(arrays: Any) -> Any:
    return result(arrays, other=3)


@pytest.mark.parametrize("behaviour", [not_finite, other_shape, raises, exits, no_weight])
def test_whatever_goes_wrong_in_training_is_one_constant_text_and_costs_the_round(
    tmp_path: Path, behaviour: Any
) -> None:
    grid = fl.federation(N, tmp_path)
    app, calls = misbehaving(tmp_path / "bad", behaviour)
    grid.apps[fl.FIRST_NODE] = app
    strategy = fl.secure(N, fl.Proposal(n_rounds=3))
    strategy.start(grid, fl.start_arrays(), num_rounds=1)
    assert len(strategy.history[0].survivors) == N - 1
    assert grid.errors == [CONSTANT]
    assert b"4711" not in b"".join(grid.seen)
    asked = next(m for i, m in grid.delivered if i == 0 and step_of(m) == "masked_input")
    again = send(grid, 0, asked)
    assert "the secrets of round 0 of this set-up are used or burned" in again.error.reason
    assert len(calls) == 1


def test_a_client_whose_training_failed_is_back_in_the_next_round(tmp_path: Path) -> None:
    grid = fl.federation(N, tmp_path)
    app, calls = misbehaving(
        tmp_path / "once", lambda a: not_finite(a) if not calls[1:] else result(a, **{"num-examples": 3})
    )
    grid.apps[fl.FIRST_NODE] = app
    strategy = fl.secure(N, fl.Proposal(n_rounds=3))
    for _ in range(2):
        strategy.start(grid, fl.start_arrays(), num_rounds=1)
    assert [len(record.survivors) for record in strategy.history] == [N - 1, N]


@pytest.mark.parametrize("spoil", ["junk", "payload"])
def test_an_app_does_not_train_on_a_frame_that_does_not_open(tmp_path: Path, spoil: str) -> None:
    grid = fl.federation(N, tmp_path)
    app, calls = misbehaving(tmp_path / "bad", not_finite)
    grid.apps[fl.FIRST_NODE] = app

    def tamper(index: int, message: Any) -> None:
        if index == 0 and step_of(message) == "masked_input":
            frame = bytearray(message.content[fl.wire.FRAME]["frame"].data)
            frame[-1] ^= 1
            frame = frame if spoil == "payload" else bytearray(b"junk")
            message.content[fl.wire.FRAME] = fl.wire.answer(bytes(frame))[fl.wire.FRAME]

    grid.tamper = tamper
    fl.secure(N, fl.Proposal(n_rounds=2)).start(grid, fl.start_arrays(), num_rounds=1)
    assert calls == []
    assert len(grid.errors) == 1
    assert grid.errors[0].startswith("FrameError")


def test_a_client_whose_input_did_not_leave_reveals_no_shares_of_that_round(tmp_path: Path) -> None:
    grid = fl.federation(N, tmp_path)
    app, _ = misbehaving(tmp_path / "bad", not_finite)
    grid.apps[fl.FIRST_NODE] = app
    fl.secure(N, fl.Proposal(n_rounds=2)).start(grid, fl.start_arrays(), num_rounds=1)
    unmask = next(m for i, m in grid.delivered if i == 1 and step_of(m) == "unmask")
    assert "has not left" in send(grid, 0, unmask).error.reason


def test_a_weight_above_the_largest_counts_as_the_largest_and_nobody_is_told(tmp_path: Path) -> None:
    grid = fl.federation(N, tmp_path)
    proposal = fl.Proposal(max_weight=20)
    out = fl.secure(N, proposal).start(grid, fl.start_arrays(), num_rounds=1)
    assert grid.errors == []
    weights = [min(fl.n_examples(i), 20) for i in range(N)]
    assert sorted(weights) == [17, 20, 20, 20]
    before = {name: array.numpy() for name, array in fl.start_arrays().items()}
    expected = {
        name: sum(w * fl.trained(i, before)[name] for i, w in enumerate(weights)) / sum(weights)
        for name in before
    }
    step = proposal.step(n_clients=N, total_weight=sum(weights)) + 4 * 2.0**-24
    assert fl.largest_error(out.arrays, expected) <= step


def some_identity() -> Any:
    signer = secagg.SigningKey.generate()
    return fl.Identity(client_id=0, signer=signer, roster=secagg.Roster({0: signer.public}))


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({}, {"weight_key": "secret"}),
        ({}, {"metrics": ("loss",)}),
        ({"metrics": ("loss",)}, {"metrics": ("loss", "secret")}),
        ({"weighting": "equal"}, {}),
        ({"identity": lambda _: some_identity()}, {}),
    ],
)
def test_terms_outside_what_the_client_names_are_refused_before_a_key_exists(
    tmp_path: Path, options: dict[str, Any], asked: dict[str, Any]
) -> None:
    grid = fl.federation(N, tmp_path, **options)
    strategy = fl.secure(N)
    strategy._coordinator.proposal = fl.Proposal(**asked)  # a server that does not refuse itself
    strategy.start(grid, fl.start_arrays(), num_rounds=1)
    assert len(grid.errors) == N
    assert all(error.startswith("PolicyError") for error in grid.errors)
    assert {step for _, step in grid.asked} == {"advertise"}
    assert list(tmp_path.rglob("*.setup")) == []


def test_the_nodes_own_configuration_sets_the_profile_whatever_the_app_passes(tmp_path: Path) -> None:
    for profile, said in (("active", "PolicyError: proposed"), ("none", "ConfigError: secagg-profile")):
        apps = [fl.app_of(i, state_dir=tmp_path / profile / str(i)) for i in range(N)]
        grid = fl.MemoryGrid(apps, [{"secagg-profile": profile}] * N)
        fl.secure(N).start(grid, fl.start_arrays(), num_rounds=1)
        assert len(grid.errors) == N
        assert all(error.startswith(said) for error in grid.errors)


def test_another_function_of_the_app_for_one_client_only_yields_nothing_of_it(tmp_path: Path) -> None:
    grid = fl.federation(N + 1, tmp_path)

    def regroup(index: int, message: Any) -> None:
        if index == 2 and "arrays" in message.content:
            message.metadata.group_id = "evil"

    grid.tamper = regroup
    strategy = fl.secure(N + 1)
    strategy.start(grid, fl.start_arrays(), num_rounds=1)
    assert len(strategy.history[0].survivors) == N


def test_a_repeated_advertise_leaves_the_set_up_alone(tmp_path: Path) -> None:
    grid, strategy = fl.federation(N, tmp_path), fl.secure(N, fl.Proposal(n_rounds=2))
    strategy.start(grid, fl.start_arrays(), num_rounds=1)
    advertise = next(m for i, m in grid.delivered if i == 2 and step_of(m) == "advertise")
    assert "under way" in send(grid, 2, advertise).error.reason
    strategy.start(grid, fl.start_arrays(), num_rounds=1)
    assert [len(record.survivors) for record in strategy.history] == [N, N]


def test_a_message_that_makes_the_mod_fail_is_answered_without_its_exception(tmp_path: Path) -> None:
    grid = fl.federation(N, tmp_path)

    def spoil(index: int, message: Any) -> None:
        record = message.content[fl.wire.RECORD]
        if index == 1 and record["step"] == "advertise":
            record["terms"] = "[" * 100_000  # too deep for the parser

    grid.tamper = spoil
    fl.secure(N).start(grid, fl.start_arrays(), num_rounds=1)
    assert grid.errors == ["the request cannot be answered"]


def test_a_slow_process_does_not_bring_back_what_the_next_round_used_up(tmp_path: Path) -> None:
    grid, training, go_on = fl.federation(N, tmp_path), threading.Event(), threading.Event()

    def slow(arrays: Any) -> Any:
        if not training.is_set():
            training.set()
            go_on.wait(30)
        return result(arrays, **{"num-examples": 3})

    grid.apps[fl.FIRST_NODE], _ = misbehaving(tmp_path / "slow", slow)
    straggler: list[threading.Thread] = []
    late: list[Any] = []
    answer = grid._answer

    def in_the_background(index: int, message: Any) -> Any:
        if index or step_of(message) != "masked_input" or straggler:
            return answer(index, message)
        straggler.append(threading.Thread(target=lambda: late.append(answer(index, message))))
        straggler[0].start()
        training.wait(30)
        return fl.Message(fl.Error(2, "still training"), reply_to=message)

    grid._answer = in_the_background
    strategy = fl.secure(N, fl.Proposal(n_rounds=4))
    for _ in range(2):
        strategy.start(grid, fl.start_arrays(), num_rounds=1)
    newest = {path: path.read_bytes() for path in (tmp_path / "slow").rglob("*.setup")}
    go_on.set()
    straggler[0].join()
    assert late[0].error.reason == CONSTANT
    assert {path: path.read_bytes() for path in newest} == newest
    assert len(newest) == 1
    strategy.start(grid, fl.start_arrays(), num_rounds=1)
    assert [len(record.survivors) for record in strategy.history] == [N - 1, N, N]


def test_of_two_processes_that_read_the_same_version_one_writes(tmp_path: Path) -> None:
    def saved(number: int) -> Any:
        return fl.store.Saved(terms="", client_id=0, round_number=number, snapshot=b"s")

    fl.store.Store(tmp_path).save(b"s", saved(0))
    fast, slow = fl.store.Store(tmp_path), fl.store.Store(tmp_path)
    fast.load(b"s")
    slow.load(b"s")
    fast.save(b"s", saved(1))
    with pytest.raises(RunError, match="another process"):
        slow.save(b"s", saved(0))
    slow.forget(b"s")
    assert fast.load(b"s").round_number == 1
    assert list(tmp_path.glob("pending*")) == []


def test_one_text_where_names_are_expected_is_refused() -> None:
    for options in ({"allow_in_clear": "evaluate"}, {"metrics": "loss"}, {"weighting": "none"}):
        with pytest.raises(ConfigError):
            fl.secure_aggregation_mod(**options)


def test_an_identity_makes_active_the_only_profile_unless_a_policy_says_otherwise(tmp_path: Path) -> None:
    key = secagg.SigningKey.generate()
    identity = fl.Identity(client_id=0, signer=key, roster=secagg.Roster({0: key.public}))
    policy = secagg.Policy()
    for index, (options, refused) in enumerate([({}, N), ({"policy": policy}, 0)]):
        grid = fl.federation(N, tmp_path / str(index), identity=lambda _: identity, **options)
        fl.secure(N).start(grid, fl.start_arrays(), num_rounds=1)
        assert len(grid.errors) == refused
