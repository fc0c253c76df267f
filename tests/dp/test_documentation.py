from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

import secure_fed_diffusion.dp as package

_ROOT = Path(__file__).resolve().parents[2]
_DOCS = _ROOT / "docs"
_PROOF = (_DOCS / "privacy.md").read_text(encoding="utf-8")
_HAZARDS = (_DOCS / "hazards.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("page", "least"), [("privacy.md", 60), ("formal_statement.md", 15), ("hazards.md", 60)]
)
def test_every_test_that_a_page_names_exists(page: str, least: int) -> None:
    text = (_DOCS / page).read_text(encoding="utf-8")
    named = set(re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", text))
    assert len(named) >= least
    assert len(re.findall(r"`tests/", text)) == len(re.findall(r"`tests/[\w/]+\.py::test_\w+`", text))
    missing = [
        f"{file}::{name}"
        for file, name in sorted(named)
        if not re.search(rf"^def {name}\(", (_ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert not missing


def test_every_test_of_a_lemma_is_named_by_the_proof() -> None:
    lemmas = (_ROOT / "tests" / "dp" / "test_lemmas.py").read_text(encoding="utf-8")
    for name in re.findall(r"^def (test_\w+)\(", lemmas, re.MULTILINE):
        assert name in _PROOF


def test_every_lemma_and_step_of_the_proof_names_a_test_that_checks_it() -> None:
    paragraphs = re.findall(r"^\*\*((?:Lemma|Step)[^*]+)\*\*((?:.+\n)+)", _PROOF, re.MULTILINE)
    assert [title.split(",")[0] for title, _ in paragraphs] == [
        *("Step 1", "Lemma (a)", "Lemma (b)", "Lemma (c)", "Lemma (d)"),
        *("Step 2", "Step 3", "Step 4", "Lemma (e)"),
    ]
    assert [title for title, text in paragraphs if "`tests/" not in text] == []


def test_every_hazard_has_its_test_or_says_that_it_is_not_covered() -> None:
    rows = re.findall(r"^\| (.+) \| (.+) \|$", _HAZARDS, re.MULTILINE)
    hazards = [(hazard, answer) for hazard, answer in rows if hazard != "hazard"]
    assert len(hazards) > 40
    assert [
        hazard for hazard, answer in hazards if "`tests/" not in answer and "Not covered" not in answer
    ] == []


@pytest.mark.parametrize(
    "name",
    sorted(path.stem for path in Path(package.__file__).parent.glob("*.py") if path.stem != "__init__"),
)
def test_the_examples_in_the_docstrings_hold(name: str) -> None:
    module = importlib.import_module(f"secure_fed_diffusion.dp.{name}")
    assert "Not " in (module.__doc__ or ""), "a module says what it does not do"
    assert doctest.testmod(module).failed == 0


def test_the_example_of_the_package_holds() -> None:
    assert doctest.testmod(package).failed == 0
