"""The apps themselves: what a deployed server reads, what it never opens, what a client's process imports."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr", reason="the extra `flower` is not installed")

from flwr.app import Context, RecordDict

from secure_fed_diffusion import config
from secure_fed_diffusion.data.datasets import load
from secure_fed_diffusion.errors import ConfigError, RunError
from secure_fed_diffusion.federation.assessment import NO_PUBLIC_DATA
from secure_fed_diffusion.federation.folder import read_lines
from secure_fed_diffusion.federation.heads import write_roster
from secure_fed_diffusion.federation.records import read_records
from secure_fed_diffusion.federation.rehearsal import deal
from secure_fed_diffusion.flower_app import client_app, separate, server_app
from secure_fed_diffusion.flower_app.server_app import RunConfig
from secure_fed_diffusion.institution.institution import Institution
from secure_fed_diffusion.reporting.html import write_report
from secure_fed_diffusion.secagg import Roster, SigningKey
from tests.flower_app.memory_grid import MemoryGrid, task
from tests.flower_app.played import charges, leave_out_measurements, tiny

SETTINGS = tiny("distributed")


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_out_measurements(monkeypatch)


@pytest.fixture
def hospitals(tmp_path: Path) -> dict[int, Institution]:
    """Five institutions, each with a folder of its own that the coordinator does not know."""
    keys = {client_id: SigningKey.generate() for client_id in range(5)}
    roster = Roster({client_id: key.public for client_id, key in keys.items()})
    write_roster(tmp_path / "roster.json", roster)
    (tmp_path / "config.toml").write_text(config.dump(SETTINGS))
    dataset = load(SETTINGS.data)
    parts = [dataset.train.subset(indices) for indices in deal(SETTINGS, dataset)]
    return {
        client_id: Institution(
            tmp_path / f"hospital {client_id}",
            client_id=client_id,
            key=key,
            roster=roster,
            images=lambda client_id=client_id: parts[client_id],
            device="cpu",
        )
        for client_id, key in keys.items()
    }


def run_config(folder: Path, **more: Any) -> dict[str, Any]:
    named = {"config": "config.toml", "out": "run", "roster": "roster.json"}
    return {key: str(folder / name) for key, name in named.items()} | more


def serve(folder: Path, hospitals: dict[int, Institution], **more: Any) -> MemoryGrid:
    """Run the deployment's ServerApp over a grid in this process."""

    def open_party(context: Context) -> Any:
        return nullcontext(hospitals[int(context.node_config["partition-id"])])

    grid = MemoryGrid(client_app.make_client_app(open_party), len(hospitals))
    with task():
        server_app.app(grid, Context(1, 1, {}, RecordDict(), run_config(folder, **more)))
    return grid


def test_a_deployed_server_runs_without_opening_a_file_of_data(
    hospitals: dict[int, Institution],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def opened(settings: Any) -> Any:
        raise AssertionError("the coordinator has no data")

    monkeypatch.setattr(separate, "load", opened)
    serve(tmp_path, hospitals)
    folder = tmp_path / "run"
    lines = read_lines(folder / "metrics.jsonl")
    assert [line["round"] for line in lines] == [1, 2, 3]
    assert all(line["evaluation"] == NO_PUBLIC_DATA for line in lines)
    assert not any(key.startswith("fid") or key == "holdout_loss" for line in lines for key in line)
    assert (folder / "samples" / "round_0003.png").stat().st_size > 0
    assert write_report(folder).stat().st_size > 0
    printed = capsys.readouterr().out
    assert "5 of 5 clients joined" in printed
    assert "round 3: ε spent = " in printed
    assert not (folder / "clients").exists()


def test_the_book_agrees_with_ledgers_that_the_coordinator_never_sees(
    hospitals: dict[int, Institution], tmp_path: Path
) -> None:
    serve(tmp_path, hospitals)
    records = read_records(tmp_path / "run")
    own = [charges(path) for path in tmp_path.glob("hospital*/runs/*/ledger.jsonl")]
    assert len(own) == 5
    assert sorted(sum(own, [])) == charges(tmp_path / "run" / "ledger.jsonl")  # noqa: RUF017
    assert records.testimony.own_ledgers == 0
    assert "own ledgers are not here" in records.statement
    last = {client_id: 1 + len(charges(path)) for client_id, path in enumerate(_ledgers(tmp_path))}
    assert records.testimony.signed == last  # every client's last word is with the server


def _ledgers(folder: Path) -> list[Path]:
    return [next(folder.glob(f"hospital {client_id}/runs/*/ledger.jsonl")) for client_id in range(5)]


def test_a_deployed_server_can_be_given_the_public_data(
    hospitals: dict[int, Institution], tmp_path: Path
) -> None:
    serve(tmp_path, hospitals, evaluate=True)
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert all("holdout_loss" in line for line in lines)
    assert "fid_floor_lenet32_digits" in lines[-1]


def test_another_roster_than_the_run_was_begun_with_is_refused(
    hospitals: dict[int, Institution], tmp_path: Path
) -> None:
    serve(tmp_path, hospitals)
    write_roster(tmp_path / "roster.json", Roster({c: SigningKey.generate().public for c in range(5)}))
    with pytest.raises(RunError, match="another roster"):
        serve(tmp_path, hospitals, resume=True)


def test_a_roster_of_other_clients_than_the_configuration_s_is_refused(
    hospitals: dict[int, Institution], tmp_path: Path
) -> None:
    write_roster(tmp_path / "roster.json", Roster({c: SigningKey.generate().public for c in range(4)}))
    with pytest.raises(ConfigError, match=r"federation\.clients: expected the keys of clients 0\.\.4"):
        serve(tmp_path, hospitals)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"config": "c", "out": "o"}, "roster: "),
        ({"config": "c", "out": "o", "roster": ""}, "roster: "),
        ({"config": "c", "out": "o", "roster": "r", "rosters": "s"}, "rosters: no such key"),
        ({"config": "c", "out": "o", "roster": "r", "resume": 1}, "resume: got 1"),
        ({"config": "c", "out": "o", "roster": "r", "round-timeout": True}, "round-timeout: got True"),
    ],
)
def test_a_wrong_run_configuration_is_refused_by_its_key(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RunConfig.of(values)


def test_the_run_configuration_takes_flower_s_hyphens() -> None:
    chosen = RunConfig.of({"config": "c", "out": "o", "roster": "r", "round-timeout": 5, "join-seconds": 2.5})
    assert (chosen.round_timeout, chosen.join_seconds, chosen.resume) == (5, 2.5, False)


def test_a_node_that_names_no_institution_refuses_by_name() -> None:
    with pytest.raises(ConfigError, match="institution"):
        client_app._institution(Context(1, 7000, {}, RecordDict(), {}))


def test_a_client_s_process_answers_without_importing_torch(tmp_path: Path) -> None:
    """JOIN and the first step of a round, as a process of its own; the digits are not even read."""
    script = """
import sys
from pathlib import Path
from secure_fed_diffusion import config
from secure_fed_diffusion.data.facts import facts
from secure_fed_diffusion.federation.planning import make_plan
from secure_fed_diffusion.federation.messages import Announcement
from secure_fed_diffusion.flower_app import client_app
from secure_fed_diffusion.institution.agreement import Agreement
from secure_fed_diffusion.institution.institution import Institution
from secure_fed_diffusion.institution.messages import enclose, join
from secure_fed_diffusion.secagg import Roster, SigningKey
import numpy as np

text = Path(sys.argv[1]).read_text()
s, known = config.parse(text), facts("digits")
plan = make_plan(seed=0, federation=s.federation, secure_sum=s.secagg, privacy=s.privacy, modes=s.modes,
    warmup=s.warmup, diffusion=s.diffusion, model=s.model, image_shape=known.image_shape, n_classes=10,
    dimension=77, public_records=s.federation.declared_records)
keys = {c: SigningKey(bytes([c + 1] * 32)) for c in range(5)}
roster = Roster({c: key.public for c, key in keys.items()})
names = known.class_names
agreement = Agreement.of(plan, config_text=text, run_id="ab" * 16, class_names=names, roster=roster)
me = plan.rounds[0].cohort[0]
party = Institution(Path(sys.argv[2]), client_id=me, key=keys[me], roster=roster, images=lambda: 1 / 0)
party.handle(join(agreement))
party.handle(enclose("ab" * 16, Announcement(1, 0, np.zeros(77, np.float32)).encode()))
heavy = {"torch", "diffusers", "opacus", "sklearn", "torchmetrics", "ray"} & set(sys.modules)
assert not heavy, heavy
"""
    text = tmp_path / "config.toml"
    text.write_text(config.dump(SETTINGS))
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", script, str(text), str(home)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
