"""How fast discrete Gaussian noise is, beside a plain table search and beside the bare cipher.

`ours` is what a client calls: `discrete_gaussian`, its array included.  `search` is the textbook sampler on
the same table: 64 random bits a draw and one binary search, x₁ + k·x₂ alike (and, at 64 bits, too coarse
to be charged for).  `cipher` is AES-256-CTR alone over the 16 bits a draw that ours reads first, into one
reused buffer: what the randomness costs before anything is done with it.  They run in turns in one
process on one thread; seconds are of the processor, so that a neighbour's work is not counted, and medians
of `repetitions` (at least 5); a ratio is the median of the ratios of the turns.

Not measured here: the table, built once per process and standard deviation (seconds, under `table`);
several threads.

    >>> from secure_fed_diffusion.benchmarks import noise
    >>> noise.run()["samples_per_second"]["834"] > 50e6    # doctest: +SKIP
    True
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from secure_fed_diffusion import entropy
from secure_fed_diffusion.dp import noise
from secure_fed_diffusion.errors import ConfigError

MIN_REPETITIONS = 5
N_SAMPLES = 1_000_000
STDDEVS = (64.0, 834.0, 10_848.0)
_SEARCHED_AT_A_TIME = 1 << 16  # as many as ours, so that both work in the same cache

Action = Callable[[], object]


def run(*, repetitions: int = MIN_REPETITIONS, n_samples: int = N_SAMPLES) -> dict[str, Any]:
    """Return {"ratios", "samples_per_second", "seconds", "sizes", "repetitions"}, by standard deviation.

    `ours_over_search` says how many times faster ours is than the plain search; `ours_over_cipher` is the
    share of the bare cipher's throughput that ours reaches.

    Raises:
        ConfigError: fewer than five repetitions, or no samples.
    """
    if repetitions < MIN_REPETITIONS:
        raise ConfigError(f"expected repetitions >= {MIN_REPETITIONS}, got {repetitions}", key="repetitions")
    if n_samples < 1:
        raise ConfigError(f"expected n_samples >= 1, got {n_samples}", key="n_samples")
    ratios: dict[str, dict[str, float]] = {}
    seconds: dict[str, dict[str, float]] = {}
    sizes: dict[str, str] = {}
    for stddev in STDDEVS:
        name, plan = f"{stddev:g}", noise._plan(stddev)
        noise._table.cache_clear()
        start = time.process_time()
        noise._table(plan.stddev)
        built = time.process_time() - start
        taken = _in_turns(_actions(stddev, n_samples), repetitions)
        ratios[name] = {
            "ours_over_search": _ratio(taken, "search", "ours"),
            "ours_over_cipher": _ratio(taken, "cipher", "ours"),
        }
        seconds[name] = {
            **{action: statistics.median(times) for action, times in taken.items()},
            "table": built,
        }
        sizes[name] = f"{n_samples} samples, {plan.terms} draws of stddev {plan.stddev:.4g} each, one thread"
    return {
        "ratios": ratios,
        "samples_per_second": {name: n_samples / taken["ours"] for name, taken in seconds.items()},
        "seconds": seconds,
        "sizes": sizes,
        "repetitions": repetitions,
    }


def _in_turns(actions: Mapping[str, Action], repetitions: int) -> dict[str, list[float]]:
    """Time each action once per turn; the first turn pays for caches and is not counted."""
    samples: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(repetitions + 1):
        for name, action in actions.items():
            start = time.process_time()
            action()
            if turn:
                samples[name].append(time.process_time() - start)
    return samples


def _ratio(samples: Mapping[str, list[float]], over: str, under: str) -> float:
    return statistics.median(a / b for a, b in zip(samples[over], samples[under], strict=True))


def _actions(stddev: float, n_samples: int) -> dict[str, Action]:
    plan = noise._plan(stddev)
    table = noise._table(plan.stddev)
    words = np.empty(n_samples * plan.terms, dtype=np.uint16)
    stream = entropy.Keystream(entropy.system(entropy.KEY_BYTES))

    def search() -> object:
        total = np.zeros(n_samples, dtype=np.int64)
        for start in range(0, n_samples, _SEARCHED_AT_A_TIME):
            out = total[start : start + _SEARCHED_AT_A_TIME]
            heads = np.empty(out.size, dtype=np.uint64)
            for _ in range(plan.terms):
                stream.fill(heads)
                out *= plan.step
                out += np.searchsorted(table.heads, heads, side="right")
                out -= table.bound
        return total

    return {
        "ours": lambda: noise.discrete_gaussian(stddev, n_samples),
        "search": search,
        "cipher": lambda: stream.fill(words),
    }
