"""A real deployment on this machine, and what each of its processes opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from secure_fed_diffusion.dp.ledger import verify
from secure_fed_diffusion.dp.shared import verify_shared
from secure_fed_diffusion.federation.records import read_records
from tests.deployment.consortium import Deployment, deployment, wait_for

pytest.importorskip("flwr", reason="needs the extra flower")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    with deployment(tmp_path_factory.mktemp("deployment")) as running:
        process = running.run("--join-seconds", "60", "--time-limit", "60")
        running.seconds["run"] = wait_for("the run is over", lambda: process.popen.poll() is not None, 300)
        assert process.popen.returncode == 0, process.printed()
        yield running
        print(running.seconds)


def test_the_run_is_done_by_all_four_institutions(finished: Deployment) -> None:
    lines = finished.metrics()
    assert [line["round"] for line in lines] == [1, 2]
    assert all(line["survivors"] == [0, 1, 2, 3] for line in lines)
    assert (finished.out / "model").is_dir()


def test_the_server_opens_no_file_of_data(finished: Deployment) -> None:
    servers = finished.processes("flwr-serverapp")
    assert len(servers) == 1
    (opened,) = servers.values()
    assert any(path.endswith("coordinator/config.toml") for path in opened)  # the hook sees what it should
    homes = [str(path.parent) for path in finished.paths]
    assert [path for path in opened if any(path.startswith(home) for home in homes)] == []
    assert [path for path in opened if path.endswith((".npz", ".csv.gz", ".npy"))] == []


def test_each_node_opens_its_own_records_and_nobody_else_s(finished: Deployment) -> None:
    nodes = finished.processes("secure_fed_diffusion.flower_app.node")
    assert len(nodes) == 4
    homes = {str(path.parent) for path in finished.paths}
    seen = set()
    for opened in nodes.values():
        own = {home for home in homes if f"{home}/records.npz" in opened}
        assert len(own) == 1
        seen |= own
        others = homes - own
        assert [path for path in opened if any(path.startswith(f"{home}/") for home in others)] == []
        assert [path for path in opened if path.endswith(".csv.gz")] == []
    assert seen == homes


def test_no_node_runs_code_that_the_coordinator_sent(finished: Deployment) -> None:
    for opened in finished.processes("secure_fed_diffusion.flower_app.node").values():
        assert [path for path in opened if "/flower/apps/" in path] == []
    (server,) = finished.processes("flwr-serverapp").values()
    assert [path for path in server if "/flower/apps/" in path] != []  # there Flower unpacks the bundle


def test_the_ledgers_of_server_and_clients_agree(finished: Deployment) -> None:
    book = verify(finished.out / "ledger.jsonl")
    for client_id, path in enumerate(finished.paths):
        own = verify(finished.state(client_id) / "ledger.jsonl")
        assert own.terms.owner == client_id
        assert own.clients[client_id] == book.clients[client_id]
        assert own.most["training"] == 2
        spent = verify_shared(path.parent / "state" / "spent.jsonl")
        (held,) = spent.holdings.values()
        assert held.settled
        assert held.counts == {"training": 2}


def test_every_head_that_a_client_signed_is_in_its_own_ledger(finished: Deployment) -> None:
    from secure_fed_diffusion.federation.heads import read_heads

    heads = read_heads(finished.out / "heads.jsonl")
    assert {head.client_id for head in heads} == {0, 1, 2, 3}
    for head in heads:
        own = verify(finished.state(head.client_id) / "ledger.jsonl")
        assert own.digests[head.line - 1] == head.head.hex()
    assert read_records(finished.out).testimony.n_heads == len(heads)


def test_the_keys_on_the_wire_and_on_the_roster_are_two(finished: Deployment) -> None:
    for path in finished.paths:
        home = path.parent
        assert (home / "node.pub").read_text().startswith("ecdsa-sha2-nistp384 ")
        assert len(bytes.fromhex((home / "signing.pub").read_text())) == 32
        assert oct((home / "signing.key").stat().st_mode & 0o777) == "0o600"
    assert not list(Path(finished.out).rglob("*.key"))
