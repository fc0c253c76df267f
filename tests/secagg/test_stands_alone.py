"""The module can be lifted out: numpy, cryptography and the standard library, and documentation that runs."""

from __future__ import annotations

import doctest
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import secure_fed_diffusion.secagg
from secure_fed_diffusion.secagg import wire
from secure_fed_diffusion.secagg.phases import PROFILES

FOLDER = Path(secure_fed_diffusion.secagg.__file__).parent
MODULES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")
FORBIDDEN_IN_SOURCE = ("torch", "opacus", "flwr", "asyncio", "socket", "time", "logging", "random", "scipy")

PROBE = """
import sys
before = set(sys.modules)
import secure_fed_diffusion.secagg
loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
stdlib = set(sys.stdlib_module_names)
print(*sorted(loaded - stdlib - {"numpy", "cryptography", "secure_fed_diffusion"}))
"""


def test_a_clean_interpreter_loads_numpy_and_cryptography_alone() -> None:
    probe = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
    extra = set(probe.stdout.split())
    own_parts = {"_cffi_backend", "_openssl", "_cython_3_1", "cython_runtime"}  # of the two themselves
    assert not extra - own_parts


@pytest.mark.parametrize("module", MODULES)
def test_no_module_imports_what_the_protocol_must_not_know(module: str) -> None:
    lines = (FOLDER / f"{module}.py").read_text().splitlines()
    imports = [line.split() for line in lines if line.startswith(("import ", "from "))]
    roots = {words[1].partition(".")[0] for words in imports}
    assert not roots & set(FORBIDDEN_IN_SOURCE)


@pytest.mark.parametrize("module", ["__init__", *MODULES])
def test_the_examples_in_the_docstrings_run(module: str) -> None:
    name = "secure_fed_diffusion.secagg" + ("" if module == "__init__" else f".{module}")
    assert doctest.testmod(import_module(name)).failed == 0


def test_the_readme_runs() -> None:
    result = doctest.testfile(str(FOLDER / "README.md"), module_relative=False)
    assert result.attempted >= 10
    assert result.failed == 0


def test_the_readme_shows_the_states_and_the_wire_format_of_the_code() -> None:
    text = (FOLDER / "README.md").read_text()
    assert wire.diagrams() in text
    assert wire.table() in text
    assert all(profile in text for profile in PROFILES)
