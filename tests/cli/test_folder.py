"""A run by the real command, and what the other commands make of its folder."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from secure_fed_diffusion.reporting.wording import epsilon_text
from tests.cli.asking import TWO_ROUNDS, Ask, assert_refused


@pytest.fixture(scope="module")
def first_run(config_file: Path) -> tuple[subprocess.CompletedProcess[str], Path]:
    """Return what the real command said, and the folder that it left."""
    folder = config_file.parent / "run"
    command = [
        sys.executable,
        "-m",
        "secure_fed_diffusion.cli",
        "run",
        str(config_file),
        "--out",
        str(folder),
    ]
    done = subprocess.run([*command, *TWO_ROUNDS], capture_output=True, text=True, check=False)
    return done, folder


@pytest.fixture
def folder(first_run: tuple[object, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(first_run[1], tmp_path / "run"))


def test_a_run_ends_with_the_path_of_its_report(
    first_run: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    done, folder = first_run
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].startswith(
        "mode distributed: ε <= 10 (PLD) at δ = 1e-5, unit: example, relation: add_remove, view: sum_c1; "
    )
    assert any(line.startswith("round 1/2 · ε ") for line in lines)
    summary = json.loads((folder / "summary.json").read_text())
    planned, spent = (epsilon_text(summary[key]["sum_c1"]["pld"]) for key in ("plan_epsilon", "epsilon"))
    assert float(spent) < float(planned)  # a repeat is reserved
    assert lines[-2].startswith(f"guarantee: ε = {planned} (PLD) at δ = 1e-5")
    assert f"view: sum_c1; spent of it: {spent}, if failures do not depend on" in lines[-2]
    assert lines[-1] == f"report: {folder / 'report.html'}"
    assert "\x1b" not in done.stdout
    assert (folder / "report.html").stat().st_size > 10_000


def test_a_program_gets_one_json_document_and_nothing_else(
    sfd: Ask, config_file: Path, tmp_path: Path
) -> None:
    answer = sfd("run", config_file, "--out", tmp_path / "run", "--json", *TWO_ROUNDS)
    assert answer.status == 0, answer.err
    assert answer.err == ""
    summary = json.loads(answer.out)
    assert summary["finished"] is True
    assert summary["mode"] == "distributed"
    assert summary == json.loads((tmp_path / "run" / "summary.json").read_text())


def test_the_audit_says_what_it_can_and_cannot_exclude(sfd: Ask, folder: Path) -> None:
    head = json.loads((folder / "summary.json").read_text())["ledger_head"]
    without = sfd("audit", folder, "--json")
    assert without.status == 0
    assert json.loads(without.out)["truncation_excluded"] is False
    anchored = sfd("audit", folder, "--head", head.upper(), "--json")
    assert anchored.status == 0
    report = json.loads(anchored.out)
    assert report["truncation_excluded"] is True
    assert report["head"] == head
    words = sfd("audit", folder)
    assert words.status == 0
    assert "truncation is not excluded" in words.out
    assert "budget: ε = 10 (PLD) at δ = 1e-5, unit: example, relation: add_remove, view: sum_c1" in words.out
    assert f"head: {head}" in words.out
    told = json.loads(without.out)
    spent = list(told["rounds"].values())[-1]["sum_c1"]["pld"]
    planned = told["plan_epsilon"]["sum_c1"]["pld"]
    _, promised, charged = re.split("guarantee: ε of every charge|spent: ε if failures", words.out)
    assert re.search(rf"sum_c1 +{epsilon_text(planned)} ", promised)
    assert re.search(rf"sum_c1 +{epsilon_text(spent)} ", charged)


def test_a_cut_tail_is_found_by_signed_heads_and_without_them_by_its_anchor_alone(
    sfd: Ask, folder: Path
) -> None:
    head = json.loads((folder / "summary.json").read_text())["ledger_head"]
    ledger = folder / "ledger.jsonl"
    lines = ledger.read_text().splitlines(keepends=True)
    ledger.write_text("".join(lines[:-1]))
    assert_refused(sfd("audit", folder), 1, f"sfd: {ledger}, line {len(lines)}: ", "the tail was cut")
    (folder / "heads.jsonl").unlink()
    shutil.rmtree(folder / "clients")
    assert sfd("audit", folder).status == 0
    assert_refused(
        sfd("audit", folder, "--head", head), 1, f"sfd: {ledger}: the anchor", "; the audit failed"
    )


@pytest.mark.parametrize("deed", ["alter", "drop", "reorder"])
def test_an_altered_ledger_is_found_and_its_line_named(deed: str, sfd: Ask, folder: Path) -> None:
    ledger = folder / "ledger.jsonl"
    lines = ledger.read_text().splitlines(keepends=True)
    if deed == "alter":
        lines[3] = lines[3].replace('"client_id":', '"client_id":1')
    elif deed == "drop":
        del lines[3]
    else:
        lines[3], lines[4] = lines[4], lines[3]
    ledger.write_text("".join(lines))
    assert_refused(sfd("audit", folder), 1, f"sfd: {ledger}, line 4: ", "; the audit failed")
    assert_refused(sfd("audit", folder, "--json"), 1, f"sfd: {ledger}, line 4: ", "; the audit failed")


def test_samples_are_drawn_from_the_model_of_a_run(sfd: Ask, folder: Path, tmp_path: Path) -> None:
    grid = tmp_path / "grids" / "some.png"
    answer = sfd("sample", folder, "--out", grid, "--per-class", 1, "--seed", 3)
    assert answer.status == 0
    assert answer.out == f"10 images: {grid}\n"
    assert grid.read_bytes().startswith(b"\x89PNG")
    again = tmp_path / "again.png"
    answer = sfd("sample", folder, "--out", again, "--per-class", 1, "--seed", 3, "--json")
    assert json.loads(answer.out) == {"file": str(again), "images": 10}
    assert again.read_bytes() == grid.read_bytes()


def test_a_picture_in_a_format_that_is_none_is_refused(sfd: Ask, folder: Path, tmp_path: Path) -> None:
    answer = sfd("sample", folder, "--out", tmp_path / "some.xyz", "--per-class", 1)
    assert answer.status in (1, 2)
    assert_refused(answer, answer.status, "xyz")


def test_a_model_of_few_timesteps_can_be_sampled(sfd: Ask, folder: Path, tmp_path: Path) -> None:
    scheduler = folder / "model" / "scheduler" / "scheduler_config.json"
    values = json.loads(scheduler.read_text())
    scheduler.write_text(json.dumps(values | {"num_train_timesteps": 20}))
    answer = sfd("sample", folder, "--out", tmp_path / "some.png", "--per-class", 1)
    assert answer.status == 0, answer.err


def test_a_report_can_be_written_again(sfd: Ask, folder: Path) -> None:
    (folder / "report.html").unlink()
    answer = sfd("report", folder, "--json")
    assert answer.status == 0
    assert json.loads(answer.out) == {"report": str(folder / "report.html")}
    assert (folder / "report.html").exists()
