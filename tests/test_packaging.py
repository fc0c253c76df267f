"""The wheel's core in a clean environment: two dependencies, and a script that says what it lacks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from importlib import metadata
from pathlib import Path

import pytest

from secure_fed_diffusion import __version__

ROOT = Path(__file__).parents[1]
SOURCES = (
    "secure_fed_diffusion",
    "threat_models",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "constraints.txt",
)
CORE = {"numpy", "cryptography", "cffi", "pycparser", "secure-fed-diffusion"}
TOOLS = {"pip", "setuptools", "wheel"}
UNREACHABLE = (
    "No matching distribution found",
    "Failed to establish a new connection",
    "Max retries exceeded",
    "Read timed out",
)

SECURE_SUM = """
import sys
import numpy as np
from secure_fed_diffusion import secagg
params = secagg.SecAggParams(n_clients=5, threshold=4, dimension=3, modulus_bits=32)
vectors = {v: np.full(3, v + 1, dtype=np.uint32) for v in range(5)}
result = secagg.simulate(params, vectors, dropouts={3: "masked_input"})
print(result.total.tolist(), result.survivors)
print(*{"torch", "scipy", "opacus", "pydantic"} & set(sys.modules))
"""


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of executables of an environment with nothing but the core wheel."""
    place = tmp_path_factory.mktemp("clean")
    tree = place / "tree"
    tree.mkdir()
    no_builds = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=no_builds)
        else:
            shutil.copyfile(source, tree / name)
    venv.create(place / "venv", with_pip=True)
    programs = place / "venv" / ("Scripts" if os.name == "nt" else "bin")
    command = [programs / "python", "-m", "pip", "install", "-c", "constraints.txt", "."]
    done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    if done.returncode and any(reason in done.stderr for reason in UNREACHABLE):
        pytest.skip(f"pip reaches no index: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return programs


def ask(programs: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the clean environment, away from this tree and its path."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    return subprocess.run(
        [programs / command[0], *command[1:]],
        cwd=programs.parent,
        env=own,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_core_brings_numpy_and_cryptography_alone(clean: Path) -> None:
    listed = json.loads(ask(clean, "python", "-m", "pip", "list", "--format", "json").stdout)
    names = {entry["name"].lower().replace("_", "-") for entry in listed}
    assert names - TOOLS <= CORE
    assert {"numpy", "cryptography", "secure-fed-diffusion"} <= names


def test_secure_aggregation_runs_where_nothing_else_is(clean: Path) -> None:
    done = ask(clean, "python", "-c", SECURE_SUM)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[11, 11, 11] (0, 1, 2, 4)\n\n"


@pytest.mark.parametrize("script", ["sfd", "secure-fed-diffusion"])
@pytest.mark.parametrize("words", [[], ["--version"], ["run", "a.toml", "--out", "b"]])
def test_the_script_says_in_one_line_which_extra_it_lacks(script: str, words: list[str], clean: Path) -> None:
    done = ask(clean, script, *words)
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr == "sfd needs the training extra: pip install 'secure-fed-diffusion[train]'\n"


def test_the_wheel_carries_its_types_its_extractors_and_its_report(clean: Path) -> None:
    code = "import secure_fed_diffusion as s, pathlib; print(pathlib.Path(s.__file__).parent)"
    home = Path(ask(clean, "python", "-c", code).stdout.strip())
    assert clean.parent in home.parents
    assert (home / "py.typed").exists()
    for pattern in (
        "evaluation/extractors/*.safetensors",
        "reporting/*.html.j2",
        "reporting/page.js",
        "secagg/README.md",
    ):
        ours = {path.name for path in (ROOT / "secure_fed_diffusion").glob(pattern)}
        assert ours
        assert {path.name for path in home.glob(pattern)} == ours


def test_there_is_one_version(clean: Path) -> None:
    code = (
        "import secure_fed_diffusion as s, importlib.metadata as m;"
        "print(s.__version__, m.version('secure-fed-diffusion'))"
    )
    assert ask(clean, "python", "-c", code).stdout.split() == [__version__, __version__]
    assert metadata.version("secure-fed-diffusion") == __version__
    done = subprocess.run(
        [sys.executable, "-m", "secure_fed_diffusion.cli", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == __version__
