"""What a SuperLink chooses for each node, its run's configuration and its number, buys it nothing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

fl = pytest.importorskip("tests.flower_mod.federation", reason="flwr is not installed")
N = 4
ASKED: dict[str, Any] = {"learning-rate": 0.1, "epochs": 2}


@pytest.mark.parametrize(
    "shown",
    [{**ASKED, "learning-rate": 0.0}, {**ASKED, "epochs": 2.0}, {"epochs": 2}, {**ASKED, "x": ""}, {}],
)
def test_a_run_configuration_for_one_client_only_leaves_it_out(tmp_path: Path, shown: Any) -> None:
    grid = fl.federation(N, tmp_path)
    for node, context in grid.contexts.items():
        context.run_config = shown if node == fl.FIRST_NODE else dict(reversed(ASKED.items()))
    strategy = fl.secure(N, run_config=ASKED)
    strategy.start(grid, fl.start_arrays(), num_rounds=1)
    assert len(strategy.history[0].survivors) == N - 1
    assert [reason for reason in grid.errors if "run configuration is not this node's" in reason]
    assert (0, "masked_input") not in grid.asked


def test_a_run_configuration_that_changes_within_a_set_up_is_refused(tmp_path: Path) -> None:
    grid = fl.federation(N, tmp_path)
    grid.tamper = lambda index, message: grid.contexts[fl.FIRST_NODE].run_config.update(
        {"learning-rate": 9.0} if grid.asked[-1:] == [(N - 1, "share_keys")] else {}
    )
    strategy = fl.secure(N)
    strategy.start(grid, fl.start_arrays(), num_rounds=1)
    assert len(strategy.history[0].survivors) == N - 1
    assert len(grid.errors) == 1
    assert "run configuration" in grid.errors[0]


def test_a_server_that_says_nothing_of_its_configuration_is_told_what_to_pass(tmp_path: Path) -> None:
    grid = fl.federation(N, tmp_path)
    for context in grid.contexts.values():
        context.run_config = ASKED
    strategy = fl.secure(N)
    strategy.start(grid, fl.start_arrays(), num_rounds=1)
    assert "TooFewClientsError" in strategy.history[0].error
    assert len(grid.errors) == N
    assert all("pass run_config=context.run_config" in reason for reason in grid.errors)


def test_another_number_for_the_same_client_is_not_another_latch(tmp_path: Path) -> None:
    grid, roster = fl.active_federation(N, tmp_path)
    strategy = fl.secure(N, fl.Proposal(profile="active", threshold_share=0.7), roster=roster)
    strategy.start(grid, fl.start_arrays(), num_rounds=1)
    assert not grid.errors
    asked = next(m for index, m in grid.delivered if index == 0 and "terms" in m.content[fl.wire.RECORD])
    context = grid.contexts[fl.FIRST_NODE]
    context.node_id += 500
    again = grid.apps[fl.FIRST_NODE](asked, context)
    assert "was answered before, in another way" in again.error.reason
    assert len(list((tmp_path / "0").iterdir())) == 1


def test_what_a_kill_left_while_a_set_up_was_written_is_unlinked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save(folder: Path, number: int) -> None:
        saved = fl.store.Saved(terms="{}", client_id=0, round_number=0, snapshot=b"secret")
        fl.store.Store(folder).save(bytes([number]), saved)

    pid = os.fork()
    if not pid:
        monkeypatch.setattr(Path, "replace", lambda *_: os._exit(9))
        save(tmp_path, 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    assert len(list(tmp_path.glob("*.pending"))) == 1  # the kill came between the two steps
    save(tmp_path, 2)
    assert [path.suffix for path in tmp_path.iterdir() if path.is_file() and path.name != "lock"] == [
        ".setup"
    ]


def test_a_node_without_key_files_takes_part_where_nothing_is_signed(tmp_path: Path) -> None:
    """One app for both profiles: the identity is needed under `active` alone."""
    policy = fl.secagg.Policy(profiles=("semi_honest", "active"))
    grid = fl.federation(N, tmp_path, policy=policy, identity=fl.identity_from_node_config)
    strategy = fl.secure(N)
    strategy.start(grid, fl.start_arrays(), num_rounds=1)
    assert len(strategy.history[0].survivors) == N
    assert not grid.errors
