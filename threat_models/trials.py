"""Run a claim: stage the real system, hand the view to the attack and the truth to the judge, count.

One trial is one arm (or peer) at one seed.  Proportions (`Counts`) are pooled over the seeds for a
Clopper-Pearson interval; other metrics get Student's interval of their mean over the seeds, or their value
where all seeds agree exactly.  Both at 95 %.  An exception that the stage did not turn into part of its view
fails the claim and is shown: a broken trial never looks like a defence that held.

    result = run(claim)
    result.as_written, result.arms["on"].verdict

Not protected against: a stage that runs something else than the system.  Reviewers read the stage.

>>> interval((0.5, 0.5, 0.5))
(0.5, 0.5, 0.5)
>>> interval((Counts(5, 10), Counts(5, 10)))[0]
0.5
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.evaluation.intervals import clopper_pearson

from .claim import Arm, Claim, Counts, NotInstalledError, Staged, Threshold, Verdict
from .plain_data import copied, shared_memory

LEVEL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One arm or peer at one seed: the metric, or what went wrong; `seconds` are of the processor."""

    claim_id: str
    column: str
    seed: int
    seconds: float
    metric: float | Counts | None = None
    error: str | None = None
    installed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One arm or peer over all its seeds; `expected` is None for a peer, of which nothing is promised."""

    mean: float | None
    low: float | None
    high: float | None
    verdict: Verdict
    expected: Verdict | None
    values: tuple[float | tuple[int, int], ...]
    seconds: float
    error: str | None = None
    installed: bool = True

    @property
    def as_written(self) -> bool:
        """Whether what was expected came out, if the library is here at all, and no trial broke."""
        return self.error is None and (not self.installed or self.expected in (None, self.verdict))


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A claim's arms and peers, with the thresholds that they were judged by."""

    claim_id: str
    threshold: Threshold
    seeds: tuple[int, ...]
    arms: Mapping[str, Column]
    peers: Mapping[str, Column]

    @property
    def as_written(self) -> bool:
        """Whether every arm did what the claim says, and no peer broke.

        A claim whose arms all need a library that is not here says nothing, and is not held against anyone.
        """
        columns = (*self.arms.values(), *self.peers.values())
        one_way = len({column.installed for column in self.arms.values()}) == 1
        return one_way and all(column.as_written for column in columns)

    @property
    def installed(self) -> bool:
        """Whether the arms could be run."""
        return all(column.installed for column in self.arms.values())

    @property
    def seconds(self) -> float:
        """What all trials took of a processor, together."""
        return sum(column.seconds for column in (*self.arms.values(), *self.peers.values()))

    def to_dict(self) -> dict[str, Any]:
        """Return what `results.json` holds of it."""
        return {
            "threshold": asdict(self.threshold),
            "seeds": list(self.seeds),
            "arms": {name: asdict(column) for name, column in self.arms.items()},
            "peers": {name: asdict(column) for name, column in self.peers.items()},
            "as_written": self.as_written,
        }

    @classmethod
    def from_dict(cls, claim_id: str, data: Mapping[str, Any]) -> Result:
        """Read it back; `as_written` is worked out anew."""

        def columns(name: str) -> dict[str, Column]:
            return {key: _column_from(entry) for key, entry in data[name].items()}

        return cls(
            claim_id=claim_id,
            threshold=Threshold(**data["threshold"]),
            seeds=tuple(data["seeds"]),
            arms=columns("arms"),
            peers=columns("peers"),
        )


def run(claim: Claim[Any, Any], *, seeds: Sequence[int] | None = None) -> Result:
    """Run every arm and peer of a claim, here and now; fewer seeds only to try something out."""
    chosen = tuple(claim.seeds if seeds is None else seeds)
    return collect(claim, [trial for seed in chosen for trial in trials(claim, seed)], seeds=chosen)


def trials(claim: Claim[Any, Any], seed: int) -> list[Trial]:
    """Run one seed in every arm and against every peer."""
    return [try_once(claim, column, seed) for column in (*(arm.value for arm in claim.arms), *claim.peers)]


def try_once(claim: Claim[Any, Any], column: str, seed: int) -> Trial:
    """Stage, attack, judge; an exception is recorded with the place that it came from."""
    start = time.process_time()
    metric: float | Counts | None = None
    error: str | None = None
    installed = True
    try:
        arm, stage = (Arm.ON, claim.peers[column]) if column in claim.peers else (Arm(column), claim.stage)
        staged = stage(arm, seed)
        view = checked_view(claim, staged)
        metric = _checked_metric(claim.judge(claim.attack(view), staged.truth))
    except NotInstalledError:
        installed = False
    except Exception as caught:
        error = _place_of(caught)
    seconds = time.process_time() - start
    return Trial(
        claim_id=claim.id, column=column, seed=seed, seconds=seconds, metric=metric, error=error,
        installed=installed,
    )  # fmt: skip


def checked_view(claim: Claim[Any, Any], staged: Staged[Any]) -> Any:
    """Return the copy of the view that the attack gets.

    Raises:
        ConfigError: the view is not of exactly the declared type, holds more than plain data, or lies in
            the truth's memory.
    """
    if type(staged.view) is not claim.view:
        raise ConfigError(
            f"expected a view of exactly {claim.view.__name__}, got {type(staged.view).__name__}",
            key=claim.id,
        )
    view = copied(staged.view, where=claim.view.__name__)
    if shared_memory(staged.view, staged.truth):
        raise ConfigError(f"{claim.view.__name__} lies in the memory of the truth", key=claim.id)
    return view


def collect(claim: Claim[Any, Any], done: Iterable[Trial], *, seeds: Sequence[int] | None = None) -> Result:
    """Judge the trials of a claim by its thresholds; a missing one is an error."""
    chosen = tuple(claim.seeds if seeds is None else seeds)
    by_column: dict[str, dict[int, Trial]] = {}
    for trial in done:
        by_column.setdefault(trial.column, {})[trial.seed] = trial

    def column(name: str, expected: Verdict | None) -> Column:
        return _column(claim.threshold, expected, by_column.get(name, {}), chosen)

    return Result(
        claim_id=claim.id,
        threshold=claim.threshold,
        seeds=chosen,
        arms={arm.value: column(arm.value, claim.expected(arm)) for arm in claim.arms},
        peers={name: column(name, None) for name in claim.peers},
    )


def interval(metrics: Sequence[float | Counts]) -> tuple[float, float, float]:
    """Return mean, low and high at 95 %.

    Raises:
        ConfigError: proportions and other figures are mixed, or there is none.
    """
    counts = [metric for metric in metrics if isinstance(metric, Counts)]
    if not metrics or (counts and len(counts) < len(metrics)):
        raise ConfigError("expected figures of one kind, and at least one", key="metric")
    if counts:
        hits, n_trials = sum(c.hits for c in counts), sum(c.trials for c in counts)
        return hits / n_trials, *clopper_pearson(hits, n_trials, LEVEL)
    values = np.array(metrics, dtype=np.float64)
    mean = float(values.mean())
    if np.all(values == values[0]):
        return float(values[0]), float(values[0]), float(values[0])
    half = float(student.ppf((1 + LEVEL) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return mean, mean - half, mean + half


def _column(
    threshold: Threshold, expected: Verdict | None, by_seed: Mapping[int, Trial], seeds: Sequence[int]
) -> Column:
    seconds = sum(trial.seconds for trial in by_seed.values())
    errors = [f"seed {t.seed}: {t.error}" for t in by_seed.values() if t.error]
    errors += [f"seed {seed}: no trial" for seed in seeds if seed not in by_seed]
    installed = all(trial.installed for trial in by_seed.values())
    figures = [by_seed[seed].metric for seed in seeds if seed in by_seed]
    known = [figure for figure in figures if figure is not None]
    mean = low = high = None
    verdict = Verdict.UNCLEAR
    if installed and not errors:
        try:
            mean, low, high = interval(known)
            verdict = threshold.verdict(low=low, high=high)
        except ConfigError as error:
            errors.append(str(error))
    return Column(
        mean=mean,
        low=low,
        high=high,
        verdict=verdict,
        expected=expected,
        values=tuple((m.hits, m.trials) if isinstance(m, Counts) else m for m in known),
        seconds=seconds,
        error=errors[0] if errors else None,
        installed=installed,
    )


def _column_from(data: Mapping[str, Any]) -> Column:
    expected = None if data["expected"] is None else Verdict(data["expected"])
    values = tuple(tuple(value) if isinstance(value, list) else value for value in data["values"])
    return Column(**{**data, "verdict": Verdict(data["verdict"]), "expected": expected, "values": values})


def _checked_metric(metric: Any) -> float | Counts:
    if isinstance(metric, Counts):
        if not 0 <= metric.hits <= metric.trials or metric.trials < 1:
            raise ConfigError(f"expected 0 <= hits <= trials, got {metric}", key="judge")
        return Counts(int(metric.hits), int(metric.trials))
    if not np.isfinite(metric):
        raise ConfigError(f"expected a finite figure or Counts, got {metric!r}", key="judge")
    return float(metric)


def _place_of(error: Exception) -> str:
    """Say what broke and where, in one line."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text} ({Path(frame.filename).name}:{frame.lineno}, {frame.name})"
