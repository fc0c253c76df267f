"""T19: an observer of the ledger of ε; does it say anything about the data?

A ledger is shown to officers and auditors, and nothing in it is noised.  So nothing in it may come from the
data: a charge is what the plan calls for, not what was drawn, and its terms hold declared numbers.  Two
neighbouring data sets give the same file, line by line.  A ledger that noted the number of records would
tell them apart; so does an honest one of a plan that somebody tuned to the exact size of the data.

Source: threats_and_audit.md, section 3 (tuning declared outside ε; public divisor).
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from threat_models.adversaries.model_observer import PublishedLedgers
from threat_models.claim import Arm, Claim, Counts, Staged, Tags, Threshold
from threat_models.staging.published_ledgers import (
    CLIENTS,
    EXPECTED_BATCH,
    RECORDS,
    Purse,
    charge_what_is_due,
    published,
)

RUNS = 12  # a trial each; half of them with the record
_CHAINED = {"previous", "digest"}


class WithCount:
    """A purse that notes the number of records in a field of the charge: what ours must not do."""

    def __init__(self, ledger: Purse, n_records: int) -> None:
        self._ledger, self._n_records = ledger, n_records

    def charge(self, client_id: int, *, round: int, attempt: int, mechanism: str, steps: int = 1) -> None:  # noqa: A002
        """Charge, with the count where a number fits."""
        self._ledger.charge(client_id, round=round, attempt=self._n_records, mechanism=mechanism, steps=steps)


def stage(arm: Arm, seed: int) -> Staged[PublishedLedgers]:
    """Publish ledgers of runs with and without one record, and one of each for comparison."""
    without = np.random.default_rng(seed).permutation([False, True] * (RUNS // 2))
    tell = WithCount if arm is Arm.OFF else charge_what_is_due

    def ledger(without_last: bool) -> bytes:
        n_records = CLIENTS * RECORDS - (without_last if arm is Arm.DROPPED else 0)
        rate = CLIENTS * EXPECTED_BATCH / n_records
        return published(seed, without_last=without_last, sampling_rate=rate, tell=tell)

    view = PublishedLedgers(
        published=tuple(ledger(bool(one)) for one in without), whole=ledger(False), neighbour=ledger(True)
    )
    return Staged(view, without)


def attack(view: PublishedLedgers) -> npt.NDArray[np.bool_]:
    """Name for each ledger the data set whose own is more like it: True for the one without the record."""
    return np.array(
        [_differences(ledger, view.neighbour) < _differences(ledger, view.whole) for ledger in view.published]
    )


def _differences(one: bytes, other: bytes) -> int:
    """Count the lines that differ in more than the chain, and by how much the lengths do."""
    ours, theirs = _lines(one), _lines(other)
    return sum(a != b for a, b in zip(ours, theirs, strict=False)) + abs(len(ours) - len(theirs))


def _lines(ledger: bytes) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in ledger.splitlines()]
    return [{key: value for key, value in entry.items() if key not in _CHAINED} for entry in entries]


def judge(guess: npt.NDArray[np.bool_], truth: Any) -> Counts:
    """Count the runs that were told apart."""
    return Counts(int(np.sum(guess == truth)), len(truth))


CLAIM = Claim(
    id="T19",
    title="What a ledger says about the data",
    adversary="model_observer",
    asset="whether one record was there",
    statement="The ledger of ε is the same file for two data sets that differ by one record.",
    defence="charges follow the plan, never what was drawn",
    dropped_assumption="the plan's numbers were not tuned to the exact size of the data",
    view=PublishedLedgers,
    stage=stage,
    attack=attack,
    judge=judge,
    metric="share of runs told apart (chance 0.50)",
    threshold=Threshold(succeeds=0.9, fails=0.75),
    source="threats_and_audit.md, section 3",
    tags=Tags(stride=("Information disclosure",), linddun=("Detecting",), atlas=("AML.T0024.000",)),
)
