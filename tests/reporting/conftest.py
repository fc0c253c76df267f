from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.reporting.synthetic_run import write_run


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a finished run in mode `distributed`; tests do not change it."""
    return write_run(tmp_path_factory.mktemp("runs") / "finished")


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[..., Path]:
    """Return a maker of runs that a test may change."""
    return lambda **settings: write_run(tmp_path / "run", **settings)
