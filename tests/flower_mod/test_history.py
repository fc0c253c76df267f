"""What the server's history says of a round: who is in the mean, who is not and why, and how it failed."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from secure_fed_diffusion import secagg
from secure_fed_diffusion.errors import PolicyError, TooFewClientsError

fl = pytest.importorskip("tests.flower_mod.federation", reason="flwr is not installed")
N = 5
ROOT = Path(__file__).parents[2]
OTHER = "PolicyError: the server asks for a weight or a metric that this client does not name"
STEPS = ("advertise", "share_keys", "masked_input", "unmask")


def nodes(*indices: int) -> tuple[int, ...]:
    return tuple(fl.FIRST_NODE + index for index in indices)


def one_round(grid: Any, proposal: Any = None, **options: Any) -> Any:
    """The record of a round over all nodes of the grid."""
    strategy = fl.secure(len(grid.apps), proposal, **options)
    strategy.start(grid, fl.start_arrays(), num_rounds=1)
    return strategy.history[0]


def says(code: int, text: str | None) -> Any:
    """An app that answers whatever comes with this error."""
    return lambda message, context: fl.Message(fl.Error(code, text), reply_to=message)


def test_survivors_are_the_nodes_in_the_mean_and_a_refusal_is_in_the_nodes_own_words(tmp_path: Path) -> None:
    grid = fl.federation(N, tmp_path)
    grid.apps[fl.FIRST_NODE + 3] = fl.app_of(3, state_dir=tmp_path / "other", weight_key="rows")
    record = one_round(grid)
    assert record.survivors == nodes(0, 1, 2, 4)
    assert record.refusals == {fl.FIRST_NODE + 3: OTHER}
    assert record.error == ""


def test_under_active_survivors_are_nodes_too_and_no_numbers_of_the_roster(tmp_path: Path) -> None:
    grid, roster = fl.active_federation(N, tmp_path)
    grid.faults[1, "masked_input"] = "drop"
    record = one_round(grid, fl.Proposal(profile="active"), roster=roster)
    assert record.survivors == nodes(0, 2, 3, 4)
    assert record.refusals == {}  # it said nothing


def test_where_all_refuse_the_error_names_the_commonest_reason(tmp_path: Path) -> None:
    grid = fl.federation(N, tmp_path, weight_key="rows")
    grid.apps[fl.FIRST_NODE] = fl.app_of(0, state_dir=tmp_path / "equal", weighting="equal")
    strategy = fl.secure(N)
    strategy.start(grid, fl.start_arrays(), num_rounds=1)
    record = strategy.history[0]
    assert record.survivors == ()
    assert len(record.refusals) == N
    assert re.fullmatch(rf"TooFewClientsError: .*, 0 left; .*; 4 of 5 refusals: {OTHER}", record.error)
    messages = list(fl.fedavg(N).configure_train(1, fl.start_arrays(), fl.ConfigRecord(), grid))
    with pytest.raises(TooFewClientsError, match=f"4 of 5 refusals: {OTHER}") as raised:
        strategy._coordinator.mean(grid, messages, train_seconds=0.05)
    assert raised.value.culprits == tuple(range(N))


def test_a_frame_that_is_none_is_written_down_with_what_is_wrong_with_it(tmp_path: Path) -> None:
    grid = fl.federation(N, tmp_path)
    grid.faults[2, "unmask"] = "garbage"
    record = one_round(grid)
    assert record.survivors == nodes(*range(N))  # its input had come
    assert record.refusals == {
        fl.FIRST_NODE + 2: "FrameError: client 2, unmask: not a frame of this protocol"
    }


def test_a_node_that_says_that_it_is_somebody_else_is_written_down(tmp_path: Path) -> None:
    grid, roster = fl.active_federation(N, tmp_path)
    grid.apps[fl.FIRST_NODE + 1] = grid.apps[fl.FIRST_NODE]
    record = one_round(grid, fl.Proposal(profile="active"), roster=roster)
    ((late, said),) = record.refusals.items()  # of the two the one whose answer was looked at first is in
    assert late in nodes(0, 1)
    assert record.survivors == tuple(sorted({*nodes(*range(N))} - {late}))
    assert said == "SecureAggregationError: client 50 is not on the roster, or is another node"


def test_what_a_client_sends_as_its_reason_is_kept_short_and_on_one_line(tmp_path: Path) -> None:
    grid = fl.federation(N, tmp_path)
    grid.apps[fl.FIRST_NODE] = says(6, "\x1b[2J\nround 7: all is well\u202e" + "x" * 100_000)
    record = one_round(grid)
    kept = record.refusals[fl.FIRST_NODE]
    assert kept.startswith(" [2J round 7: all is well xxx")
    assert kept.isprintable()
    assert len(kept) == 300


@pytest.mark.parametrize("code", [0, 1, 2])
def test_what_an_exception_outside_the_mod_says_is_not_repeated(tmp_path: Path, code: int) -> None:
    grid = fl.federation(N, tmp_path)
    grid.apps |= dict.fromkeys(nodes(*range(N)), says(code, "<class 'ValueError'>:<'patient 4711'>"))
    record = one_round(grid)
    assert len(record.refusals) == N
    assert "5 of 5 refusals: the app failed outside the mod" in record.error
    assert "4711" not in repr(record)


def test_an_error_without_a_reason_is_named_by_its_number(tmp_path: Path) -> None:
    grid = fl.federation(N, tmp_path)
    grid.apps[fl.FIRST_NODE] = says(8, None)
    assert one_round(grid).refusals == {fl.FIRST_NODE: "Flower's error 8"}


@pytest.mark.parametrize(("n", "spare", "level"), [(3, 0, "WARNING"), (4, 1, "INFO")])
def test_the_log_says_once_at_the_start_how_many_dropouts_are_borne(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, n: int, spare: int, level: str
) -> None:
    grid, strategy = fl.federation(n, tmp_path), fl.secure(n)
    caplog.set_level(logging.INFO, logger="flwr")  # the Grid in memory has silenced it
    strategy.start(grid, fl.start_arrays(), num_rounds=2)
    ours = [record for record in caplog.records if record.getMessage().startswith("secure aggregation")]
    assert len([record for record in strategy.history if record.exchanges[0].step == "advertise"]) == 2
    assert [(record.levelname, record.getMessage()) for record in ours] == [
        (
            level,
            f"secure aggregation: a round among {n} clients bears {spare} dropouts (threshold 3 of {n})",
        )
    ]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("n", [3, 4, 6])
def test_a_round_bears_as_many_dropouts_as_the_proposal_says_and_no_more(
    tmp_path: Path, n: int, step: str
) -> None:
    spare = fl.Proposal().spare(n)
    for lost in (spare, spare + 1):
        grid = fl.federation(n, tmp_path / str(lost))
        grid.faults |= {(index, step): "drop" for index in range(lost)}
        assert (one_round(grid).error == "") == (lost == spare)


def test_the_safe_policy_asks_for_three_survivors_whatever_the_threshold_leaves(tmp_path: Path) -> None:
    for step, ends in (("masked_input", False), ("unmask", True)):
        grid = fl.federation(3, tmp_path / step)
        grid.faults[0, step] = "drop"
        record = one_round(grid, fl.Proposal(threshold_share=1 / 2))
        assert (record.error == "") == ends
    assert fl.Proposal(threshold_share=1 / 2).spare(3) == 1


def test_under_active_the_safe_policy_refuses_a_bare_majority_of_an_odd_number() -> None:
    proposal = fl.Proposal(threshold_share=1 / 2, profile="active")
    secagg.Policy().check(proposal.params(n_clients=6, dimension=1))
    with pytest.raises(PolicyError, match="threshold"):
        secagg.Policy().check(proposal.params(n_clients=5, dimension=1))


@pytest.mark.parametrize("profile", ["semi_honest", "active"])
def test_the_dropouts_of_a_sparse_graph_are_counted_among_one_clients_holders(profile: str) -> None:
    proposal = fl.Proposal(n_neighbours=12, profile=profile)
    assert (proposal.spare(13), proposal.spare(40)) == (4, 4)
    params, vectors = proposal.params(n_clients=16, dimension=1), {i: [1] for i in range(16)}
    lost = dict.fromkeys(range(proposal.spare(16)), "masked_input")
    assert len(secagg.simulate(params, vectors, dropouts=lost).survivors) == 12


def test_the_readmes_table_is_what_the_proposal_says() -> None:
    text = (ROOT / "secure_fed_diffusion/flower_mod/README.md").read_text(encoding="utf-8")
    rows = [row.strip("| ").split(" | ") for row in text.splitlines() if row.startswith("| ")]
    (clients,) = [row[1:] for row in rows if row[0] == "clients"]
    shares = {"=2/3`, the default": fl.Proposal(), "=1/2`, the least": fl.Proposal(threshold_share=1 / 2)}
    for start, proposal in shares.items():
        (borne,) = [row[1:] for row in rows if start in row[0]]
        assert [int(cell) for cell in borne] == [proposal.spare(int(n)) for n in clients]
