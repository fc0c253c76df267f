"""What the tree promises and a reader of one file cannot see: layers, randomness, and the doors."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "secure_fed_diffusion"
MODULES = sorted(PACKAGE.rglob("*.py"))
SEEDERS = ("manual_seed", "default_rng")


def name_of(module: Path) -> str:
    return module.relative_to(PACKAGE).as_posix()


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the dotted name of everything that a module imports, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def dotted(node: ast.AST) -> str:
    """Return `a.b.c` of a chain of attributes, with whatever stands before it left out."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join(reversed([*parts, node.id] if isinstance(node, ast.Name) else parts))


def private_randomness(tree: ast.AST) -> set[str]:
    """Name what draws from the operating system, other than through `entropy`."""
    found = {name for name in imported(tree) if name.partition(".")[0] in ("secrets", "random", "uuid")}
    found |= {name for name in imported(tree) if name in ("os.urandom", "os.getrandom")}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and dotted(node) in ("os.urandom", "os.getrandom"):
            found.add(dotted(node))
        if isinstance(node, ast.Call):
            name = dotted(node.func)
            if name.endswith(("default_rng", "SeedSequence", "RandomState")) and not node.args:
                found.add(f"{name}() without a seed")
            if name.endswith(("Generator.seed", "torch.seed", "random.seed")):
                found.add(name)
    return found


def seeded_randomness(tree: ast.AST) -> set[str]:
    """Name every use of a seeded or global generator."""
    found = {name for name in imported(tree) if name.partition(".")[0] in ("random", "torch")}
    found |= {name for name in imported(tree) if name.startswith("numpy.random")}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            name = dotted(node)
            if name.startswith(("np.random", "numpy.random", "random.", "torch.")) or node.attr in SEEDERS:
                found.add(name)
    return found


def test_every_import_contract_holds() -> None:
    checked = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "Contracts:" in checked.stdout
    assert ", 0 broken" in checked.stdout


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_the_operating_system_s_randomness_has_one_door(module: Path) -> None:
    found = private_randomness(ast.parse(module.read_text(encoding="utf-8")))
    assert found == ({"os.urandom"} if name_of(module) == "entropy.py" else set())


@pytest.mark.parametrize("module", [m for m in MODULES if m.parent.name in ("secagg", "dp")], ids=name_of)
def test_no_seeded_generator_comes_near_keys_masks_or_noise(module: Path) -> None:
    assert seeded_randomness(ast.parse(module.read_text(encoding="utf-8"))) == set()


def test_opacus_has_one_door() -> None:
    users = {
        name_of(module)
        for module in MODULES
        if any(name.partition(".")[0] == "opacus" for name in imported(ast.parse(module.read_text("utf-8"))))
    }
    assert "training/dpsgd.py" in users
    assert {user for user in users if not user.startswith("benchmarks/")} == {"training/dpsgd.py"}


def test_no_input_is_checked_by_a_statement_that_python_can_leave_out() -> None:
    asserting = {
        name_of(module)
        for module in MODULES
        if any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(module.read_text("utf-8"))))
    }
    assert asserting == set()  # `python -O` drops them


@pytest.mark.parametrize(
    "code",
    [
        "import os\nos.urandom(4)",
        "from os import urandom",
        "import secrets",
        "def f():\n    import random",
        "import numpy as np\nnp.random.default_rng()",
        "from numpy.random import default_rng\ndefault_rng()",
    ],
)
def test_the_check_of_private_randomness_can_fail(code: str) -> None:
    assert private_randomness(ast.parse(code))


@pytest.mark.parametrize(
    "code",
    [
        "import numpy as np\nnp.random.normal(size=3)",
        "from numpy.random import default_rng\ndefault_rng(1)",
        "import torch",
        "import random",
        "generator.manual_seed(3)",
    ],
)
def test_the_check_of_seeded_randomness_can_fail(code: str) -> None:
    assert seeded_randomness(ast.parse(code))
