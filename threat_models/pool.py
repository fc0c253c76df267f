"""Run the trials of many claims on several cores.

One piece of work is one claim at one seed in all its arms, so that arms may share what is costly to
prepare; a worker is a fresh process with one thread of arithmetic, so that a figure does not depend on the
number of workers.  The pieces that took longest the last time start first.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

from . import registry
from .claim import Claim
from .trials import Result, Trial, collect, trials

OnTrials = Callable[[Claim[Any, Any], int, Sequence[Trial]], None]
"""`on_trials(claim, seed, trials)` is called whenever a claim has one more seed behind it."""

OnResult = Callable[[Result], None]

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def run_all(
    chosen: Sequence[Claim[Any, Any]],
    *,
    package: str = registry.CLAIMS,
    jobs: int = 1,
    costs: Mapping[str, float] | None = None,
    on_trials: OnTrials | None = None,
    on_result: OnResult | None = None,
) -> dict[str, Result]:
    """Run these claims over their seeds and return their results by id, in their order.

    Args:
        package: where workers find the claims again.
        costs: seconds that a claim took before, to start with the longest.
        on_result: is called with each claim's result as soon as all its seeds are in.
    """
    known = costs or {}
    work = [(claim, seed) for claim in chosen for seed in claim.seeds]
    work.sort(key=lambda piece: -known.get(piece[0].id, 0.0) / len(piece[0].seeds))
    done: dict[str, list[Trial]] = {claim.id: [] for claim in chosen}
    finished = _here(work) if jobs == 1 else _elsewhere(work, package, jobs)
    for claim, seed, found in finished:
        done[claim.id] += found
        if on_trials is not None:
            on_trials(claim, seed, found)
        if on_result is not None and len({trial.seed for trial in done[claim.id]}) == len(claim.seeds):
            on_result(collect(claim, done[claim.id]))
    return {claim.id: collect(claim, done[claim.id]) for claim in chosen}


Piece = tuple[Claim[Any, Any], int]


def _here(work: Sequence[Piece]) -> Iterator[tuple[Claim[Any, Any], int, list[Trial]]]:
    for claim, seed in work:
        yield claim, seed, trials(claim, seed)


def _elsewhere(
    work: Sequence[Piece], package: str, jobs: int
) -> Iterator[tuple[Claim[Any, Any], int, list[Trial]]]:
    """Give the pieces to worker processes; one whose process died has no trials, which `collect` reports."""
    with _one_thread_each():
        pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_ignore_interrupts)
        try:
            futures: dict[Future[list[Trial]], Piece] = {
                pool.submit(_trials_of, package, claim.id, seed): (claim, seed) for claim, seed in work
            }
            for future in as_completed(futures):
                claim, seed = futures[future]
                yield claim, seed, _found(future, claim, seed)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _found(future: Future[list[Trial]], claim: Claim[Any, Any], seed: int) -> list[Trial]:
    """Return a worker's trials, or the error that ended it in every column."""
    error = future.exception()
    if error is None:
        return future.result()
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    columns = (*(arm.value for arm in claim.arms), *claim.peers)
    return [Trial(claim_id=claim.id, column=name, seed=seed, seconds=0.0, error=text) for name in columns]


def _trials_of(package: str, claim_id: str, seed: int) -> list[Trial]:
    """Run in a worker: find the claim by its id, importing its module alone."""
    (claim,) = registry.choose(package, [claim_id])
    return trials(claim, seed)


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let the processes started here inherit one thread of arithmetic each."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
