"""Claims about a coin, with something wrong on request: what the runner must find out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from threat_models.claim import Arm, Claim, Counts, Staged, Threshold, View


@dataclass(frozen=True)
class Sealed(View):
    """An envelope: the number in clear, or zero; `extra` is for what should not be there."""

    number: int
    extra: Any = None


def stage(arm: Arm, seed: int) -> Staged[Sealed]:
    return Staged(Sealed(0 if arm is Arm.ON else seed + 1), seed + 1)


def stage_without_defence(arm: Arm, seed: int) -> Staged[Sealed]:
    return Staged(Sealed(seed + 1), seed + 1)


def stage_with_a_handle(arm: Arm, seed: int) -> Staged[Sealed]:
    return Staged(Sealed(0, extra=np.random.default_rng(seed)), seed + 1)


def stage_that_breaks(arm: Arm, seed: int) -> Staged[Sealed]:
    if arm is Arm.ON and seed == 3:
        raise ZeroDivisionError("the system fell over")
    return stage(arm, seed)


@dataclass(frozen=True)
class Wider(Sealed):
    """A view that says more than the declared one."""

    secret: int = 0


def stage_of_another_view(arm: Arm, seed: int) -> Staged[Any]:
    return Staged(Wider(0, secret=seed + 1), seed + 1)


def attack(view: Sealed) -> int:
    return view.number


def attack_that_does_not_bite(view: Sealed) -> int:
    return 0


def judge(guess: int, truth: Any) -> float:
    return float(guess == truth)


def claim(**changes: Any) -> Claim[Any, Any]:
    settings: dict[str, Any] = {
        "id": "T99",
        "title": "A sealed number",
        "adversary": "network",
        "asset": "the number",
        "statement": "The number stays in the envelope.",
        "defence": "an envelope",
        "dropped_assumption": "nobody opens it",
        "view": Sealed,
        "stage": stage,
        "attack": attack,
        "judge": judge,
        "metric": "share of numbers read",
        "threshold": Threshold(succeeds=0.9, fails=0.1),
        "source": "tests",
    }
    return Claim(**{**settings, **changes})


def counting(hits: int, trials: int) -> Any:
    """A judge whose every trial comes out like this."""
    return lambda guess, truth: Counts(hits, trials)
