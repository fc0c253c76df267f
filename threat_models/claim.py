"""What a claim is: a promise, the attack that tries it, and what must come out in three arms.

`off`: without the defence the attack must succeed, so that we know that it bites.  `on`: with it the
attack must fail.  `dropped`: with the defence and without one assumption it must succeed again, which shows
what the promise rests on.  A non-claim is an attack that succeeds with everything on: we say so instead of
hoping.

An attack receives a `View` and nothing else: a frozen record of just the fields that its adversary sees.
The truth that the trial is judged by goes to the judge alone.

>>> Threshold(succeeds=0.9, fails=0.6).verdict(low=0.95, high=1.0)
<Verdict.SUCCEEDS: 'succeeds'>
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Generic, TypeVar

from secure_fed_diffusion.errors import ConfigError, RunError

from . import taxonomy


class Arm(StrEnum):
    """In which state the defence is."""

    OFF = "off"
    ON = "on"
    DROPPED = "dropped"


class Verdict(StrEnum):
    """What an attack did in one arm, by the thresholds that its claim fixed beforehand."""

    SUCCEEDS = "succeeds"
    FAILS = "fails"
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """The metric's bounds, higher meaning a better attack: fixed in the file, before any run."""

    succeeds: float
    fails: float

    def __post_init__(self) -> None:
        """Refuse bounds that leave no gap."""
        if not self.fails < self.succeeds:
            raise ConfigError(f"expected fails < succeeds={self.succeeds}, got {self.fails}", key="threshold")

    def verdict(self, *, low: float, high: float) -> Verdict:
        """Judge an interval: success needs all of it above, failure all of it below."""
        if low >= self.succeeds:
            return Verdict.SUCCEEDS
        return Verdict.FAILS if high <= self.fails else Verdict.UNCLEAR


@dataclass(frozen=True)
class View:
    """What an adversary sees; subclasses are frozen dataclasses of plain data: no handle on the system."""


@dataclass(frozen=True, slots=True)
class Counts:
    """A trial's metric as a proportion: `hits` of `trials`; seeds are pooled for its interval."""

    hits: int
    trials: int


class NotInstalledError(RunError):
    """A peer's library is not here: its column stays empty."""


V = TypeVar("V", bound=View)
G = TypeVar("G")


@dataclass(frozen=True, slots=True)
class Staged(Generic[V]):
    """One trial of the real system: what the adversary saw, and the truth, which only the judge sees."""

    view: V
    truth: Any = field(repr=False)


Stage = Callable[[Arm, int], Staged[V]]
"""`stage(arm, seed)` runs the real system."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tags:
    """Where the claim stands in the taxonomies that reviewers use."""

    stride: tuple[str, ...] = ()
    linddun: tuple[str, ...] = ()
    atlas: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a word that its taxonomy does not have."""
        for name in ("stride", "linddun", "atlas"):
            taxonomy.check(name, getattr(self, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim(Generic[V, G]):
    """One promise, or one thing that is not promised, with its attack.

    Args:
        adversary: name of the file in `threat_models/adversaries` whose view the attack has.
        statement: what is promised, or, for a non-claim, what is not.
        dropped_assumption: which assumption the third arm drops; None where only the defence itself
            stands between the attack and the asset, or for a non-claim.
        stage: runs the REAL system in one arm; deterministic in the seed as far as the OS entropy lets it.
        attack: takes the view alone; its annotation must be `view`.
        judge: compares the guess with the truth: a float, or `Counts`; higher is a better attack.
        peers: other libraries under the same attack, {name: stage}; a stage whose library is missing raises
            `NotInstalledError`.
        long: left out of the quick table.
    """

    id: str
    title: str
    adversary: str
    asset: str
    statement: str
    defence: str
    dropped_assumption: str | None
    view: type[V]
    stage: Stage[V]
    attack: Callable[[V], G]
    judge: Callable[[G, Any], float | Counts]
    metric: str
    threshold: Threshold
    source: str = ""
    promised: bool = True
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    tags: Tags = Tags()
    peers: Mapping[str, Stage[V]] = field(default_factory=dict)
    long: bool = False

    def __post_init__(self) -> None:
        """Refuse a view that is not frozen, an attack that may know more than it, and too few seeds."""
        if not (dataclasses.is_dataclass(self.view) and self.view.__dataclass_params__.frozen):  # type: ignore[attr-defined]
            raise ConfigError(f"{self.id}: expected a frozen dataclass, got {self.view!r}", key="view")
        if not isinstance(self.attack, types.FunctionType) or self.attack.__closure__ is not None:
            raise ConfigError(f"{self.id}: the attack must be a function without a closure", key="attack")
        hints = typing.get_type_hints(self.attack)
        hints.pop("return", None)
        if list(hints.values()) != [self.view]:
            raise ConfigError(
                f"{self.id}: the attack must take one argument of type {self.view.__name__}", key="attack"
            )
        if len(set(self.seeds)) < 5 or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(
                f"{self.id}: expected at least 5 seeds, each once, got {self.seeds}", key="seeds"
            )
        if self.promised and self.dropped_assumption is None:
            raise ConfigError(f"{self.id}: a promise rests on something: name it", key="dropped_assumption")
        object.__setattr__(self, "peers", types.MappingProxyType(dict(self.peers)))

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The arms that are run: a non-claim has no assumption left to drop."""
        return (Arm.OFF, Arm.ON) if self.dropped_assumption is None else tuple(Arm)

    def expected(self, arm: Arm) -> Verdict:
        """Return what must come out."""
        if arm is Arm.ON and self.promised:
            return Verdict.FAILS
        return Verdict.SUCCEEDS
