"""What the server sees, what a client refuses, and what is left on a node's disk."""

from __future__ import annotations

import os
import stat
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from secure_fed_diffusion import secagg
from secure_fed_diffusion.errors import ConfigError, RunError

fl = pytest.importorskip("tests.flower_mod.federation", reason="flwr is not installed")
N = 4
EVERYONE = tuple(range(N))
CONSTANT = "SecureAggregationError: the training gave nothing that can be summed; this round is used up"


def traces(index: int) -> list[bytes]:
    """What a reply of client `index` in clear would hold, in Flower's bytes."""
    arrays = {name: array.numpy() for name, array in fl.start_arrays().items()}
    numbers = [struct.pack("<d", value) for value in (0.123456 + index, fl.SECRET)]
    return [
        b"num-examples",
        b"loss",
        b"secret",
        *numbers,
        *(array.tobytes() for array in fl.trained(index, arrays).values()),
    ]


def test_plain_replies_hold_every_trace_that_is_looked_for() -> None:
    grid = fl.MemoryGrid([fl.app_of(i) for i in EVERYONE])
    fl.fedavg(N).start(grid, fl.start_arrays(), num_rounds=1)
    for index in EVERYONE:
        seen = [reply for reply in grid.seen if all(trace in reply for trace in traces(index))]
        assert len(seen) == 1, index


def test_no_reply_holds_a_clients_parameters_examples_or_metrics(tmp_path: Path) -> None:
    grid = fl.federation(N, tmp_path, metrics=("loss",))
    proposal = fl.Proposal(metrics=("loss",), n_rounds=2)
    fl.secure(N, proposal).start(grid, fl.start_arrays(), num_rounds=2)
    seen = b"".join(grid.seen)
    assert [trace for index in EVERYONE for trace in traces(index) if trace in seen] == []
    for reply in grid.seen:
        assert list(fl.parsed(reply).content) == [fl.wire.FRAME]


def test_a_masked_vector_is_new_in_every_run_though_the_update_is_not(tmp_path: Path) -> None:
    frames = []
    for run in range(2):
        grid = fl.federation(N, tmp_path / str(run))
        fl.secure(N).start(grid, fl.start_arrays(), num_rounds=1)
        frames.append([reply[-36:] for reply in grid.seen[2 * N : 3 * N]])
    assert not set(frames[0]) & set(frames[1])


def test_a_client_does_not_train_in_clear_whoever_asks(tmp_path: Path) -> None:
    grid = fl.federation(N, tmp_path)
    content = fl.RecordDict({"arrays": fl.start_arrays(), "config": fl.ConfigRecord({"server-round": 1})})
    message = fl.Message(content, fl.FIRST_NODE, "train")
    reply = grid.apps[fl.FIRST_NODE](message, grid.contexts[fl.FIRST_NODE])
    assert reply.has_error()
    assert "PolicyError" in reply.error.reason


def test_evaluation_in_clear_is_refused_unless_the_client_allows_it(tmp_path: Path) -> None:
    for allowed, refused in ((), True), (("evaluate",), False):
        app = fl.app_of(0, state_dir=tmp_path, allow_in_clear=allowed)
        grid = fl.MemoryGrid([app])
        message = fl.Message(fl.RecordDict({"arrays": fl.start_arrays()}), fl.FIRST_NODE, "evaluate")
        assert app(message, grid.contexts[fl.FIRST_NODE]).has_error() == refused


def test_a_clients_own_policy_decides_before_a_key_exists(tmp_path: Path) -> None:
    grid = fl.federation(N, tmp_path, policy=secagg.Policy(min_cohort=N + 1))
    strategy = fl.secure(N)
    strategy.start(grid, fl.start_arrays(), num_rounds=1)
    assert len(grid.errors) == N
    assert all(
        f"PolicyError: proposed n_clients={N}; this client asks for at least {N + 1}" in e
        for e in grid.errors
    )
    assert strategy.history[0].error.startswith("TooFewClientsError")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_policy_that_asks_for_a_roster_refuses_a_set_up_without(tmp_path: Path) -> None:
    grid = fl.federation(N, tmp_path, policy=secagg.Policy(profiles=("active",)))
    fl.secure(N).start(grid, fl.start_arrays(), num_rounds=1)
    assert len(grid.errors) == N
    assert {step for _, step in grid.asked} == {"advertise"}


def test_a_client_refuses_another_number_than_its_own(tmp_path: Path) -> None:
    grid, roster = fl.active_federation(N, tmp_path)

    def renumber(index: int, message: Any) -> None:
        record = message.content.config_records[fl.wire.RECORD]
        if record["step"] == "advertise" and index == 0:
            record["client_id"] = 10

    grid.tamper = renumber
    strategy = fl.secure(N, fl.Proposal(profile="active"), roster=roster)
    strategy.start(grid, fl.start_arrays(), num_rounds=1)
    assert any("by another number" in error for error in grid.errors)
    assert len(strategy.history[0].survivors) == N - 1


def test_with_nobody_who_says_who_it_is_the_round_fails_and_the_run_goes_on(tmp_path: Path) -> None:
    grid, roster = fl.active_federation(N, tmp_path)
    grid.faults |= {(index, "identify"): "drop" for index in range(1, N)}
    strategy = fl.secure(N, fl.Proposal(profile="active"), roster=roster)
    strategy.start(grid, fl.start_arrays(), num_rounds=1)
    assert strategy.history[0].error == "TooFewClientsError: 1 of 4 nodes said who they are"
    grid.faults.clear()
    strategy.start(grid, fl.start_arrays(), num_rounds=1)
    assert len(strategy.history[1].survivors) == N


def test_weights_that_add_up_to_nothing_fail_the_round_by_name(tmp_path: Path) -> None:
    grid = fl.MemoryGrid([fl.app_of(i, weight=0, state_dir=tmp_path / str(i)) for i in EVERYONE])
    strategy = fl.secure(N)
    strategy.start(grid, fl.start_arrays(), num_rounds=1)
    assert strategy.history[0].error.startswith("SecureAggregationError: the survivors' weights")


def test_clients_with_another_roster_take_no_part(tmp_path: Path) -> None:
    grid, _ = fl.active_federation(N, tmp_path)
    _, other = fl.active_federation(N, tmp_path / "other")
    strategy = fl.secure(N, fl.Proposal(profile="active"), roster=other)
    strategy.start(grid, fl.start_arrays(), num_rounds=1)
    assert strategy.history[0].error.startswith("TooFewClientsError")


def test_a_model_that_was_shown_to_one_client_only_yields_nothing_of_it(tmp_path: Path) -> None:
    grid = fl.federation(N + 1, tmp_path)

    def swap(index: int, message: Any) -> None:
        if index == 2 and "arrays" in message.content:
            arrays = {name: array.numpy() * 0 for name, array in message.content["arrays"].items()}
            message.content["arrays"] = fl.ArrayRecord({n: fl.Array(a) for n, a in arrays.items()})

    grid.tamper = swap
    strategy = fl.secure(N + 1)
    result = strategy.start(grid, fl.start_arrays(), num_rounds=1)
    left = (0, 1, 3, 4)
    assert len(strategy.history[0].survivors) == len(left)
    error = fl.largest_error(result.arrays, fl.in_clear(left, fl.start_arrays()))
    assert error <= fl.allowed_error(fl.Proposal(), N + 1, left)


def test_a_config_for_one_client_only_has_the_same_end(tmp_path: Path) -> None:
    grid = fl.federation(N + 1, tmp_path)

    def whisper(index: int, message: Any) -> None:
        if index == 2 and "config" in message.content:
            message.content["config"]["lr"] = 100.0

    grid.tamper = whisper
    strategy = fl.secure(N + 1)
    strategy.start(grid, fl.start_arrays(), num_rounds=1)
    assert len(strategy.history[0].survivors) == N


def test_a_proposal_for_one_client_only_has_the_same_end(tmp_path: Path) -> None:
    grid = fl.federation(N + 1, tmp_path)

    def loosen(index: int, message: Any) -> None:
        record = message.content.config_records[fl.wire.RECORD]
        if index == 2 and record["step"] == "advertise":
            record["terms"] = str(record["terms"]).replace('"clip": 8.0', '"clip": 9.0')
            assert "9.0" in record["terms"]

    grid.tamper = loosen
    strategy = fl.secure(N + 1)
    strategy.start(grid, fl.start_arrays(), num_rounds=1)
    assert len(strategy.history[0].survivors) == N


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("{", "["),
        ('"clip": 8.0', '"clip": "8"'),
        ('"clip": 8.0', '"clip": NaN'),
        ('"n_neighbours": null', '"n_neighbours": "x"'),
        ('"clip"', '"clap"'),
        ('"cohort": [0', '"cohort": ["0"'),
        ('"cohort": [0', '"cohort": [0, 0'),
        ('"modulus_bits": 32', '"modulus_bits": 4'),
        ('"dimension": 9', '"dimension": 1e9'),
    ],
)
def test_terms_that_are_none_are_refused_with_a_typed_error(tmp_path: Path, was: str, becomes: str) -> None:
    grid = fl.federation(N + 1, tmp_path)

    def spoil(index: int, message: Any) -> None:
        record = message.content.config_records[fl.wire.RECORD]
        if index == 2 and record["step"] == "advertise":
            assert was in str(record["terms"])
            record["terms"] = str(record["terms"]).replace(was, becomes)

    grid.tamper = spoil
    strategy = fl.secure(N + 1)
    strategy.start(grid, fl.start_arrays(), num_rounds=1)
    assert len(strategy.history[0].survivors) == N
    assert len(grid.errors) == 1
    assert grid.errors[0].startswith(("FrameError", "ConfigError", "PolicyError"))


@pytest.mark.parametrize("step", ["advertise", "share_keys", "masked_input", "unmask"])
def test_a_message_that_comes_twice_is_not_answered_in_two_ways(tmp_path: Path, step: str) -> None:
    grid = fl.federation(N, tmp_path)
    fl.secure(N, fl.Proposal(n_rounds=2)).start(grid, fl.start_arrays(), num_rounds=1)
    again = next(m for i, m in grid.delivered if i == 1 and m.content["secure_aggregation"]["step"] == step)
    node = fl.FIRST_NODE + 1
    assert grid.apps[node](again, grid.contexts[node]).has_error()


def test_nothing_is_in_flowers_state_and_the_files_are_their_owners_alone(tmp_path: Path) -> None:
    grid = fl.federation(N, tmp_path)
    held = os.umask(0)
    try:
        fl.secure(N, fl.Proposal(n_rounds=2)).start(grid, fl.start_arrays(), num_rounds=1)
    finally:
        os.umask(held)
    assert [dict(context.state) for context in grid.contexts.values()] == [{}] * N
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sum(path.suffix == ".setup" for path in files) == N
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    folders = {path.parent for path in files}
    assert {stat.S_IMODE(path.stat().st_mode) for path in folders} == {0o700}


def test_after_the_last_round_of_a_set_up_its_secrets_are_gone(tmp_path: Path) -> None:
    grid, strategy = fl.federation(N, tmp_path), fl.secure(N, fl.Proposal(n_rounds=2))
    after = strategy.start(grid, fl.start_arrays(), num_rounds=1).arrays
    assert len(list(tmp_path.rglob("*.setup"))) == N
    strategy.start(grid, after, num_rounds=1)
    assert list(tmp_path.rglob("*.setup")) == []


def test_a_frame_that_fails_a_step_burns_the_set_up(tmp_path: Path) -> None:
    grid = fl.federation(N, tmp_path)

    def spoil(index: int, message: Any) -> None:
        if index == 1 and message.content[fl.wire.RECORD]["step"] == "unmask":
            frame = bytearray(message.content[fl.wire.FRAME]["frame"].data)
            frame[-1] ^= 0xFF
            message.content[fl.wire.FRAME] = fl.wire.answer(bytes(frame))[fl.wire.FRAME]

    grid.tamper = spoil
    fl.secure(N, fl.Proposal(n_rounds=2)).start(grid, fl.start_arrays(), num_rounds=1)
    assert len(grid.errors) == 1
    assert list((tmp_path / "1").rglob("*.setup")) == []
    assert len(list(tmp_path.rglob("*.setup"))) == N - 1


def test_an_app_that_fails_in_training_is_a_client_that_dropped_out(tmp_path: Path) -> None:
    grid = fl.federation(N, tmp_path)
    broken = fl.ClientApp()

    @broken.train(mods=[fl.secure_aggregation_mod(state_dir=tmp_path / "broken")])
    def train(message: Any, context: Any) -> Any:
        raise ArithmeticError("out of numbers")

    grid.apps[fl.FIRST_NODE] = broken
    strategy = fl.secure(N)
    strategy.start(grid, fl.start_arrays(), num_rounds=1)
    assert len(strategy.history[0].survivors) == N - 1


@pytest.mark.parametrize("weight", [-1, 2.5, float("nan")])
def test_a_weight_that_is_no_count_costs_the_client_its_round_and_is_not_named(
    tmp_path: Path, weight: float
) -> None:
    grid = fl.federation(N, tmp_path)
    grid.apps[fl.FIRST_NODE] = fl.app_of(0, weight=weight, state_dir=tmp_path / "heavy")
    strategy = fl.secure(N)
    strategy.start(grid, fl.start_arrays(), num_rounds=1)
    assert len(strategy.history[0].survivors) == N - 1
    assert grid.errors == [CONSTANT]


def test_a_change_beyond_the_clip_is_clipped_and_the_client_alone_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    proposal, model = fl.Proposal(clip=0.5), fl.records.Model.of(fl.RecordDict({"arrays": fl.start_arrays()}))
    values = model.values + np.linspace(-1.0, 0.4, len(model.values))
    update = fl.records.Update(
        values, 5_000, np.zeros(0)
    )  # half of max_weight: the clip comes before the weight
    terms = fl.wire.Terms(
        proposal=proposal,
        round=1,
        attempt=0,
        cohort=(0, 1, 2),
        dimension=9,
        model_digest=bytes(32),
        config_digest=bytes(32),
        nonce=bytes(16),
    )
    vector, n_clipped = fl.institution.encode(update, model, terms, secagg.client.system)
    decoded = proposal.grid(3).decode(vector[:-1])
    assert n_clipped == 3
    assert np.abs(2 * decoded - np.maximum(np.linspace(-1.0, 0.4, 8), -0.5)).max() < 1e-6
    assert int(vector[-1]) == 5_000


def test_the_coins_of_the_rounding_come_from_the_entropy_that_is_passed() -> None:
    model = fl.records.Model.of(fl.RecordDict({"arrays": fl.start_arrays()}))
    update = fl.records.Update(model.values + 1 / 3, 10_000, np.zeros(0))
    terms = fl.wire.Terms(
        proposal=fl.Proposal(modulus_bits=20),
        round=1,
        attempt=0,
        cohort=(0, 1, 2),
        dimension=9,
        model_digest=bytes(32),
        config_digest=bytes(32),
        nonce=bytes(16),
    )
    coins = {
        b: fl.institution.encode(update, model, terms, lambda n, b=b: bytes([b]) * n)[0] for b in (0, 255)
    }
    assert np.array_equal(coins[0] - coins[255], [1] * 8 + [0])


def test_the_latch_holds_across_objects_and_only_the_newest_set_ups_are_kept(tmp_path: Path) -> None:
    store = fl.store.Store(tmp_path)
    assert store.latch(b"step", b"one")
    assert fl.store.Store(tmp_path).latch(b"step", b"one")
    assert not fl.store.Store(tmp_path).latch(b"step", b"two")
    for number in range(fl.store.OPEN_SETUPS + 1):
        saved = fl.store.Saved(terms="", client_id=number, round_number=0, snapshot=b"s")
        store.save(bytes([number]), saved)
        os.utime(store._path(bytes([number])), ns=(number, number))
    assert store.load(bytes([1])).client_id == 1
    with pytest.raises(RunError):
        store.load(bytes([0]))


def test_an_identity_comes_from_the_nodes_own_files(tmp_path: Path) -> None:
    key = secagg.SigningKey.generate()
    (tmp_path / "key").write_text(key.secret.hex() + "\n")
    (tmp_path / "roster").write_text(f'{{"3": "{key.public.hex()}"}}')
    config: dict[str, Any] = {
        "secagg-id": 3,
        "secagg-key": str(tmp_path / "key"),
        "secagg-roster": str(tmp_path / "roster"),
    }

    def context(**changes: Any) -> Any:
        return fl.Context(
            1, 2, {k: v for k, v in (config | changes).items() if v is not None}, fl.RecordDict(), {}
        )

    assert fl.identity_from_node_config(context()).client_id == 3
    for wrong, said in [
        ({"secagg-id": 4}, "another key for client 4"),
        ({"secagg-key": None}, "secagg-key: missing"),
        ({"secagg-key": str(tmp_path / "none")}, "cannot be read"),
        ({"secagg-roster": str(tmp_path / "key")}, "not an id, a key or a roster"),
    ]:
        with pytest.raises(ConfigError, match=said):
            fl.identity_from_node_config(context(**wrong))


def test_the_clients_side_does_not_load_torch() -> None:
    code = "import sys, secure_fed_diffusion.flower_mod; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
