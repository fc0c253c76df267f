from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

import secure_fed_diffusion.dp as package

_ROOT = Path(__file__).resolve().parents[2]
_PROOF = (_ROOT / "docs" / "privacy.md").read_text(encoding="utf-8")


def test_every_test_that_the_proof_names_exists() -> None:
    named = set(re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", _PROOF))
    assert len(named) > 30
    for file, name in sorted(named):
        assert re.search(rf"^def {name}\(", (_ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), name


def test_every_test_of_a_lemma_is_named_by_the_proof() -> None:
    lemmas = (_ROOT / "tests" / "dp" / "test_lemmas.py").read_text(encoding="utf-8")
    for name in re.findall(r"^def (test_\w+)\(", lemmas, re.MULTILINE):
        assert name in _PROOF


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
