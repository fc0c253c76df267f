"""What every experiment's results say of their origin, and how they come into a README."""

from __future__ import annotations

import doctest
import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments import results

EXPERIMENTS = Path(results.__file__).parent
COMMITTED = sorted(EXPERIMENTS.glob("*/*results.json"))


@pytest.mark.parametrize(
    ("word", "recorded"),
    [
        ("runs/mine", "runs/mine"),
        ("../elsewhere/mine", "../elsewhere/mine"),
        ("run.device=cpu", "run.device=cpu"),
        ("/somewhere/runs/mine", "mine"),
        ("/somewhere/runs/mine/", "mine"),
        ("/some where/my runs", "'my runs'"),
        ("--out=/somewhere/mine", "--out=mine"),
        ("digits=/somewhere/a-run", "digits=a-run"),
        ('run.folder="/somewhere/mine"', "'run.folder=\"mine\"'"),
        ('run.folders=["/a/b", "/c/d"]', '\'run.folders=["b", "d"]\''),
    ],
)
def test_of_an_absolute_path_the_command_keeps_the_name_alone(word: str, recorded: str) -> None:
    assert results.command_line("experiments.x.run", ["--out", word]) == (
        f"python -m experiments.x.run --out {recorded}"
    )


def test_the_example_in_the_documentation_is_true() -> None:
    found = doctest.testmod(results)
    assert (found.attempted, found.failed) == (1, 0)


def test_a_command_is_one_that_a_shell_reads_back() -> None:
    assert results.command_line("experiments.x.run", []) == "python -m experiments.x.run"
    assert results.command_line("experiments.x.run", ["--set", "a=[1, 2]"]).endswith("--set 'a=[1, 2]'")


def test_results_begin_with_command_commit_and_machine() -> None:
    found = results.origin("experiments.x.run", ["--quick"])
    assert list(found) == ["command", "commit", "machine"]
    assert re.fullmatch(r"unknown|.*[0-9a-f]{7,}(-dirty)?", found["commit"])
    assert found["machine"] == results.machine()
    assert results.machine("a GPU").startswith(f"{os.cpu_count()} cores, a GPU, ")


def test_what_is_between_the_marks_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(
        "head\n<!-- a -->\nold\n<!-- end of a -->\nmiddle\n<!-- b -->\n<!-- end of b -->\ntail\n"
    )
    for _ in range(2):  # writing the same again changes nothing
        results.into_readme(readme, "a", "new\n\nlines\n")
        assert readme.read_text() == (
            "head\n<!-- a -->\nnew\n\nlines\n<!-- end of a -->\nmiddle\n<!-- b -->\n<!-- end of b -->\ntail\n"
        )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<!-- a -->\n",
        "<!-- end of a -->\n",
        "<!-- end of a -->\n<!-- a -->\n",
        "<!-- b -->\n<!-- end of b -->\n",
    ],
)
def test_a_readme_that_lost_its_marks_is_refused_and_kept(tmp_path: Path, text: str) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(ValueError, match=r"README\.md has no <!-- a --> … <!-- end of a -->"):
        results.into_readme(readme, "a", "new")
    assert readme.read_text() == text


def made(value: object) -> Iterator[dict[str, Any]]:
    """Yield whatever in a `results.json` says what command made it."""
    if isinstance(value, dict):
        if "command" in value:
            yield value
        for inside in value.values():
            yield from made(inside)


@pytest.mark.parametrize("path", COMMITTED, ids=[f"{path.parent.name}-{path.stem}" for path in COMMITTED])
def test_no_committed_results_name_a_folder_of_the_machine_that_made_them(path: Path) -> None:
    whole = json.loads(path.read_text(encoding="utf-8"))
    assert {"command", "commit", "machine"} <= whole.keys()
    assert isinstance(whole["records"], list)
    origins = list(made(whole))
    for origin in origins:
        assert {"command", "commit", "machine"} <= origin.keys()
        module, *words = shlex.split(origin["command"].removeprefix("python -m "))
        assert origin["command"] == results.command_line(module, words)
        assert not re.search(r"(^|[\s='\"])/", origin["command"])
