"""Work on several cores: what comes back is what one core gives, and a worker that dies is an error."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from threat_models import pool, registry

CLAIM = """
import os
from dataclasses import replace
from typing import Any

from threat_models.adversaries.network import Refusals
from threat_models.claim import Arm, Claim, Counts, Staged, Threshold


def stage(arm: Arm, seed: int) -> Staged[Refusals]:
    if {dies} and seed == 3:
        os._exit(1)
    return Staged(Refusals(accepted=(arm is not Arm.ON, os.environ["OMP_NUM_THREADS"] == "1")), None)


def attack(view: Refusals) -> tuple[bool, ...]:
    return view.accepted


def judge(guess: tuple[bool, ...], truth: Any) -> float:
    return float(guess[0])


CLAIM = Claim(
    id="{id}", title="t", adversary="network", asset="a", statement="s", defence="d", dropped_assumption="x",
    view=Refusals, stage=stage, attack=attack, judge=judge, metric="m",
    threshold=Threshold(succeeds=0.9, fails=0.1),
)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    folder = tmp_path / "claims_in_workers"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "t97_sound.py").write_text(CLAIM.format(id="T97", dies=False))
    (folder / "t98_dies.py").write_text(CLAIM.format(id="T98", dies=True))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield folder.name
    for name in [name for name in sys.modules if name.startswith(folder.name)]:
        del sys.modules[name]
    registry.claims.cache_clear()
    registry.claims_in.cache_clear()


def test_workers_give_what_one_process_gives_and_every_seed_is_told(package: str) -> None:
    (claim,) = registry.choose(package, ["T97"])
    told: list[tuple[str, int]] = []

    def on_trials(done: Any, seed: int, found: Any) -> None:
        told.append((done.id, seed))

    here = pool.run_all([claim], package=package)["T97"]
    there = pool.run_all([claim], package=package, jobs=2, on_trials=on_trials)["T97"]
    assert there.as_written
    assert {n: c.values for n, c in here.arms.items()} == {n: c.values for n, c in there.arms.items()}
    assert sorted(told) == [("T97", seed) for seed in claim.seeds]


def test_a_worker_that_dies_fails_its_claim_and_the_command_ends(package: str) -> None:
    (claim,) = registry.choose(package, ["T98"])
    result = pool.run_all([claim], package=package, jobs=2)["T98"]
    assert not result.as_written
    assert "BrokenProcessPool" in str(result.arms["on"].error)


def test_the_environment_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with pool._one_thread_each():
        assert os.environ["MKL_NUM_THREADS"] == "1"
    assert "MKL_NUM_THREADS" not in os.environ
