"""`sfd threats`: the table, the JSON, the exit status, and a newcomer's claim by the README."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from threat_models.command import ThreatProgress
from threat_models.trials import trials

from . import made_up

ROOT = Path(__file__).parents[2]
README = ROOT / "threat_models" / "README.md"


def sfd(*words: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    own = {**os.environ, "PYTHONPATH": f"{path or ROOT}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "secure_fed_diffusion.cli", "threats", *words],
        env=own,
        cwd=path or ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def own_claims(tmp_path: Path) -> Path:
    """A folder with a package `own` of claims, by copying one file and by the README's page."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "__init__.py").touch()
    copied = (ROOT / "threat_models" / "claims" / "t11_small_ring.py").read_text(encoding="utf-8")
    (tmp_path / "own" / "t91_copied.py").write_text(copied.replace('"T11"', '"T91"'), encoding="utf-8")
    (page,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "own" / "t90_signs.py").write_text(page, encoding="utf-8")
    return tmp_path


def test_a_newcomer_s_claims_run_by_the_readme(own_claims: Path) -> None:
    done = sfd("--claims", "own", "--json", "--jobs", "2", path=own_claims)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    answer = json.loads(done.stdout)
    assert answer["as_written"]
    assert {claim_id: set(entry["arms"]) for claim_id, entry in answer["claims"].items()} == {
        "T90": {"off", "on", "dropped"},
        "T91": {"off", "on", "dropped"},
    }


def test_a_claim_that_does_not_hold_costs_the_exit_status_and_says_which_arm(own_claims: Path) -> None:
    page = own_claims / "own" / "t91_copied.py"
    page.write_text(page.read_text().replace("if arm is Arm.OFF else nullcontext()", "if arm else None"))
    done = sfd("--claims", "own", "--only", "T91", "--jobs", "1", path=own_claims)
    assert done.returncode == 1
    assert "T91 on: expected fails, came out succeeds" in done.stdout
    assert "NOT AS WRITTEN" in done.stdout
    assert "0 of 1 claims came out as written" in done.stdout
    as_json = sfd("--claims", "own", "--only", "T91", "--jobs", "1", "--json", path=own_claims)
    assert as_json.returncode == 1
    assert not json.loads(as_json.stdout)["as_written"]


def test_plain_lines_where_there_is_no_terminal(own_claims: Path) -> None:
    done = sfd("--claims", "own", "--only", "T91", "--jobs", "1", path=own_claims)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert lines[0].startswith("1/5 · T91 ")
    assert lines[5].startswith("id | adversary | asset | defence | metric | off | on | dropped | peers")
    assert lines[-1] == "1 of 1 claims came out as written"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--only", "T0"], "sfd: --only: no claim 'T0'; did you mean T"),
        (["--claims", "no.such.package"], "sfd: --claims: no package 'no.such.package'"),
        (["--jobs", "0"], "sfd: Invalid value for '--jobs'"),
    ],
)
def test_a_wrong_word_gets_one_line(words: list[str], line: str) -> None:
    done = sfd(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1


def test_the_list_names_every_claim_and_runs_nothing() -> None:
    done = sfd("--list", "--json")
    assert done.returncode == 0
    listed = {entry["id"]: entry for entry in json.loads(done.stdout)}
    assert {"T1", "T1b", "T3", "T17"} <= set(listed)
    assert not listed["T1b"]["long"]
    assert not listed["T3"]["long"]
    text = sfd("--list", "--only", "t5").stdout
    assert text.startswith("T5    Cohorts that differ by one\n")


def test_results_of_other_claims_are_not_written_over_ours(own_claims: Path) -> None:
    before = (ROOT / "threat_models" / "results.json").read_bytes()
    done = sfd("--claims", "own", "--only", "T91", "--jobs", "1", "--write", path=own_claims)
    assert done.returncode == 2
    assert "results.json is for the claims of threat_models alone" in done.stderr
    assert (ROOT / "threat_models" / "results.json").read_bytes() == before


def test_a_terminal_shows_a_bar_and_the_errors_above_it(tmp_path: Path) -> None:
    with (tmp_path / "screen").open("w+", encoding="utf-8") as screen:
        console = Console(file=screen, force_terminal=True, width=100)
        claim = made_up.claim(stage=made_up.stage_that_breaks)
        with ThreatProgress(2, console=console) as progress:
            progress.trials(claim, 0, trials(claim, 0))
            progress.trials(claim, 3, trials(claim, 3))
        screen.seek(0)
        shown = screen.read()
    assert "T99 on, seed 3: ZeroDivisionError" in shown
    assert "2/2" in shown
