"""The tutorials' own code is run: files written, commands called, Python held to its output."""

from __future__ import annotations

import doctest
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from secure_fed_diffusion import cli

TUTORIALS = Path(__file__).parents[2] / "docs" / "tutorials"
_FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block: its language, the words after it, its text, its line."""

    language: str
    marks: frozenset[str]
    text: str
    line: int


def blocks(name: str) -> Iterator[Block]:
    """Yield the blocks of a tutorial in order."""
    page = (TUTORIALS / f"{name}.md").read_text(encoding="utf-8")
    for match in _FENCE.finditer(page):
        line = page.count("\n", 0, match.start()) + 1
        yield Block(match[1], frozenset(match[2].split()), match[3], line)


def follow(name: str, skip: frozenset[str] = frozenset()) -> int:
    """Do what a tutorial says, in the current folder, and return how many blocks were done."""
    shared: dict[str, Any] = {"__name__": "__main__"}  # as at a prompt; Ray pickles such functions whole
    done = 0
    for block in blocks(name):
        if block.marks & skip:
            continue
        if block.language == "toml":
            head = re.match(r"# file: (\S+)\n", block.text)
            assert head, f"{name}, line {block.line}: no name of a file"
            Path(head[1]).write_text(block.text, encoding="utf-8")
        elif block.language == "sh":
            for line in block.text.splitlines():
                call(line)
        else:
            assert block.language == "python", f"{name}, line {block.line}: nobody runs {block.language}"
            run_python(name, block, shared)
        done += 1
    return done


def call(line: str) -> None:
    """Call `sfd` as a line says; `# status N` names a status other than 0."""
    command, _, remark = line.partition("#")
    wanted = int(remark.split()[1]) if remark.strip().startswith("status") else 0
    words = command.split()
    assert words[0] == "sfd", line
    before, sys.argv = sys.argv, words
    try:
        with pytest.raises(SystemExit) as left:
            cli.main()
    finally:
        sys.argv = before
    assert int(left.value.code or 0) == wanted, line


def run_python(name: str, block: Block, shared: dict[str, Any]) -> None:
    """Hold a block's examples to what they say; names live on from block to block."""
    test = doctest.DocTestParser().get_doctest(block.text, shared, name, f"{name}.md", block.line)
    assert test.examples, f"{name}, line {block.line}: no example"
    said: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(test, out=said.append, clear_globs=False)
    assert runner.failures == 0, "".join(said)
    shared.update(test.globs)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flower_home"))
    for key in ("FLWR_TELEMETRY_ENABLED", "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.setenv(key, "0")
    monkeypatch.setenv("FLWR_DISABLE_UPDATE_CHECK", "1")
    return lambda: tmp_path


def test_the_researchers_tutorial_does_what_it_says(here: Callable[[], Path]) -> None:
    assert follow("researcher") == 5
    page = (here() / "comparison.html").read_text(encoding="utf-8")
    assert "3 runs, modes none, local, distributed at ε = 10" in page


def test_the_privacy_officers_tutorial_does_what_it_says(here: Callable[[], Path]) -> None:
    first = next(blocks("researcher"))
    # With the default of 0.01 an honest run would be accused in one of 130 calls of this test.
    text = f"{first.text}\n[audit]\nfalse_alarm = 1e-6\n"
    (here() / "small.toml").write_text(text, encoding="utf-8")
    assert follow("privacy_officer") == 6
    assert (here() / "comparison.html").is_file()


def test_what_the_privacy_officer_reads_about_epsilon_is_what_is_printed() -> None:
    block = next(b for b in blocks("privacy_officer") if "guess_text" in b.text)
    run_python("privacy_officer", block, {})


def test_the_engineers_tutorial_does_what_it_says(here: Callable[[], Path]) -> None:
    here()
    skipped = {"slow"} | (set() if importlib.util.find_spec("flwr") else {"flower"})
    assert follow("engineer", frozenset(skipped)) >= 6


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("flwr") is None, reason="flwr (extra flower) is not there")
def test_the_engineers_tutorial_runs_on_flowers_simulation(here: Callable[[], Path]) -> None:
    assert follow("engineer") == 8
    assert (here() / "mean.npy").is_file()


def test_a_tutorial_that_no_longer_holds_is_noticed(here: Callable[[], Path]) -> None:
    here()
    with pytest.raises(AssertionError, match="Expected"):
        run_python("x", Block("python", frozenset(), ">>> 1 + 1\n3\n", 1), {})
    with pytest.raises(AssertionError, match="sfd audit"):
        call("sfd audit no-such-folder")
