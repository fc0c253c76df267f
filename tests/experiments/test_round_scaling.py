"""The scaling of a step is measured turn by turn, and every size of the federation is a plan that holds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from experiments.results import into_readme
from experiments.round_scaling import run
from secure_fed_diffusion import config

EMBEDDED = [
    'data.name="digits"',
    "federation.declared_records=1200",
    "model.channels=[8, 8]",
    "model.norm_groups=4",
    "model.attention_head_dim=4",
    "model.patch=1",
    "modes.distributed.divisor=90",
    "modes.distributed.micro_batch=16",
]


@pytest.mark.parametrize(
    ("mode", "clients"),
    [(mode, n) for mode, some in (("distributed", 2), ("central", 1000)) for n in (some, 10, 100)],
)
def test_every_size_is_a_configuration_of_the_same_data(mode: str, clients: int) -> None:
    settings = config.load(run.HERE / "config.toml", run.overrides(clients, mode))
    assert settings.federation.clients == settings.federation.clients_per_round == clients
    assert settings.federation.declared_records == 55_000
    assert settings.privacy.mode == mode
    assert bool(settings.secagg.n_neighbours) == (mode == "central")


def test_a_ratio_is_a_median_of_quotients_within_a_turn() -> None:
    seconds = {(2, 1): 1.0, (10, 1): 2.0, (2, 2): 30.0, (10, 2): 30.0, (2, 3): 9.0, (10, 3): 10.0}
    records = [
        {"clients": clients, "repetition": turn, "seconds": value}
        for (clients, turn), value in seconds.items()
    ]
    assert run.ratios(records) == {"2_over_10": 0.9}
    assert run.ratios([record for record in records if record["clients"] == 2]) == {}
    (low, high) = run.intervals(records)["2_over_10"]
    assert low < (0.5 * 1.0 * 0.9) ** (1 / 3) < high
    assert run.intervals(records[:2]) == {}  # one turn


def test_the_command_writes_a_record_for_each_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "results.json"
    command = ["run.py", "--results", str(results), "--clients", "2", "3", "--sparse", "--turns", "1"]
    command += ["--many", "0"]
    command += [word for change in EMBEDDED for word in ("--set", change)]
    monkeypatch.setattr(sys, "argv", [*command, "--workers", "1"])
    run.main()
    written = json.loads(results.read_text())
    assert [(record["clients"], record["repetition"]) for record in written["records"]] == [(2, 1), (3, 1)]
    for record in written["records"]:
        parts = [value for name, value in record.items() if name.startswith("seconds_")]
        assert 0 < sum(parts) <= record["seconds"] * 1.01
        assert record["workers"] == 1
        assert record["seconds_key_setup"] > 0  # a share of the set-up, which the first step made


def test_the_table_has_the_median_step_and_its_parts() -> None:
    parts = {f"seconds_{part}": 0.25 for part in run.PARTS}
    records = [
        {"clients": clients, "mode": "distributed", "neighbours": clients - 1, "seconds": seconds, **parts}
        for clients, seconds in ((2, 1.0), (2, 1.5), (2, 9.0), (10, 2.0))
    ]
    made = {"command": "c", "commit": "1", "machine": "m", "records": records}
    made["ratios"] = {"distributed": {"2_over_10": 0.75}, "central": {}}
    made["intervals"] = {"distributed": {"2_over_10": (0.5, 1.125)}, "central": {}}
    text = run.markdown(made)
    assert "| 2 | distributed | 1 | 1.50 | 0.75 (0.50 to 1.12) | 0.25 | 0.25 | 0.25 | 0.25 |" in text
    assert "| 10 | distributed | 9 | 2.00 | – | 0.25 | 0.25 | 0.25 | 0.25 |" in text
    assert run.markdown({**made, "records": []}) == "Not run yet."


def test_the_readme_holds_the_table_of_the_committed_results(tmp_path: Path) -> None:
    results = json.loads((run.HERE / "results.json").read_text(encoding="utf-8"))
    text, copy = (run.HERE / "README.md").read_text(encoding="utf-8"), tmp_path / "README.md"
    copy.write_text(text, encoding="utf-8")
    into_readme(copy, "results", run.markdown(results))
    assert copy.read_text(encoding="utf-8") == text


def test_the_committed_results_say_what_of_them_has_run() -> None:
    written = json.loads((run.HERE / "results.json").read_text())
    assert {"command", "commit", "machine", "ratios", "records"} <= written.keys()
    assert bool(written["records"]) == any(written["ratios"].values()) == (written["machine"] != "not run")
