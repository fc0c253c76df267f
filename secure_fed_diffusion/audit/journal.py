"""What an auditor keeps of a run, in its folder: the coins, once, and one line a round.

`canaries.json` holds who owns each canary, the secret coins, and the terms of the audit (confidence, false
alarms, number of rounds); it is written, readable by its owner alone, before the first frame and never
again, so no level is chosen after the fact.  `audit.jsonl` gets one line a round, with what the
canaries' coordinates of the released sum held, how often each canary was drawn, and the noise that the
plan says is there; a round of the warm-up carries no canaries, and its line says only who took part.

Nothing here says anything of a real record: whoever holds both files knows the canaries only.

Not protected against: somebody who may write in the folder.  Unlike the ledger these files are not
chained, so an audit of them speaks of an honest auditor's notes.

>>> Journal(Path("runs/first")).lines_path.name
'audit.jsonl'
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from secure_fed_diffusion.audit.canaries import Canaries, Integers
from secure_fed_diffusion.audit.observations import CanaryObservations
from secure_fed_diffusion.errors import ConfigError, RunError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RoundNotes:
    """One line of `audit.jsonl`; `sums` and `counts` (m,) are None where a round carries no canaries."""

    number: int
    attempt: int
    release: str
    survivors: tuple[int, ...]
    sampling_rate: float
    sensitivity: float  # grid units
    noise_stddev: float  # of all noise that the plan says is in this sum, grid units
    magnitude: int  # what a drawn canary adds to its coordinate, grid units
    sums: Integers | None
    counts: Integers | None

    def to_json(self) -> str:
        """Return the line, newline included."""
        fields = {
            "round": self.number,
            "attempt": self.attempt,
            "release": self.release,
            "survivors": list(self.survivors),
            "sampling_rate": self.sampling_rate,
            "sensitivity": self.sensitivity,
            "noise_stddev": self.noise_stddev,
            "magnitude": self.magnitude,
            "sums": None if self.sums is None else self.sums.tolist(),
            "counts": None if self.counts is None else self.counts.tolist(),
        }
        return json.dumps(fields) + "\n"

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> RoundNotes:
        """Return the notes that `to_json` wrote."""

        def integers(value: Sequence[int] | None) -> Integers | None:
            return None if value is None else np.array(value, dtype=np.int64)

        return cls(
            number=int(fields["round"]),
            attempt=int(fields["attempt"]),
            release=str(fields["release"]),
            survivors=tuple(int(client_id) for client_id in fields["survivors"]),
            sampling_rate=float(fields["sampling_rate"]),
            sensitivity=float(fields["sensitivity"]),
            noise_stddev=float(fields["noise_stddev"]),
            magnitude=int(fields["magnitude"]),
            sums=integers(fields["sums"]),
            counts=integers(fields["counts"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AuditTerms:
    """What is fixed before the first frame: the canaries and their coins, and how they will be judged."""

    canaries: Canaries
    confidence: float  # of each lower bound
    false_alarm: float  # of the conformance tests, over the whole run
    planned_rounds: int  # that carry canaries


@dataclass(frozen=True, slots=True)
class Journal:
    """The auditor's two files in a run's folder."""

    root: Path

    @property
    def coins_path(self) -> Path:
        """The coins and the owners of the canaries."""
        return self.root / "canaries.json"

    @property
    def lines_path(self) -> Path:
        """One line a round."""
        return self.root / "audit.jsonl"

    def write_terms(self, terms: AuditTerms) -> None:
        """Write the coins and the terms, whole or not at all; they are never written twice.

        Raises:
            RunError: there are coins already.
        """
        if self.coins_path.exists():
            raise RunError(f"{self.coins_path.name} exists: coins are tossed once")
        fresh = self.coins_path.with_suffix(".new")
        fields = {
            "owners": terms.canaries.owners.tolist(),
            "included": terms.canaries.included.astype(int).tolist(),
            "confidence": terms.confidence,
            "false_alarm": terms.false_alarm,
            "planned_rounds": terms.planned_rounds,
        }
        with open(
            os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8"
        ) as file:
            file.write(json.dumps(fields) + "\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.coins_path)

    def read_terms(self) -> AuditTerms | None:
        """Return the coins and terms of this run, or None where it has none.

        Raises:
            RunError: the file cannot be read.
        """
        if not self.coins_path.exists():
            return None
        try:
            fields = json.loads(self.coins_path.read_text(encoding="utf-8"))
            return AuditTerms(
                canaries=Canaries(
                    owners=np.array(fields["owners"], dtype=np.int64),
                    included=np.array(fields["included"], dtype=np.bool_),
                ),
                confidence=float(fields["confidence"]),
                false_alarm=float(fields["false_alarm"]),
                planned_rounds=int(fields["planned_rounds"]),
            )
        except (ValueError, KeyError, TypeError, ConfigError) as error:
            raise RunError(f"{self.coins_path} holds no coins: {type(error).__name__}") from error

    def append(self, notes: RoundNotes) -> None:
        """Write one round's line."""
        with self.lines_path.open("a", encoding="utf-8") as file:
            file.write(notes.to_json())

    def rounds(self) -> tuple[RoundNotes, ...]:
        """Return every round's notes; a last line that a kill tore is left out.

        Raises:
            RunError: a line in the middle cannot be read.
        """
        if not self.lines_path.exists():
            return ()
        *complete, _torn = self.lines_path.read_text(encoding="utf-8").split("\n")
        found = []
        for number, text in enumerate(complete, start=1):
            try:
                found.append(RoundNotes.from_fields(json.loads(text)))
            except (ValueError, KeyError, TypeError) as error:
                raise RunError(f"{self.lines_path}: line {number} is no round's notes") from error
        return tuple(found)

    def cut(self, finished: int) -> None:
        """Drop the lines after round `finished`: those rounds are done again, with fresh noise."""
        if self.lines_path.exists():
            kept = [notes.to_json() for notes in self.rounds() if notes.number <= finished]
            fresh = self.lines_path.with_suffix(".new")
            fresh.write_text("".join(kept), encoding="utf-8")
            fresh.replace(self.lines_path)


def observations(canaries: Canaries, rounds: Sequence[RoundNotes]) -> CanaryObservations | None:
    """Return what the auditors look at, or None where no round carried canaries."""
    seen = [(notes, notes.sums, notes.counts) for notes in rounds]
    carrying = [
        (notes, sums, counts) for notes, sums, counts in seen if sums is not None and counts is not None
    ]
    if not carrying:
        return None
    return CanaryObservations(
        sums=np.stack([sums for _, sums, _ in carrying]),
        included=canaries.included,
        counts=np.stack([counts for _, _, counts in carrying]),
        rates=np.stack([canaries.rates(notes.sampling_rate, notes.survivors) for notes, _, _ in carrying]),
        magnitudes=np.array([notes.magnitude for notes, _, _ in carrying], dtype=np.int64),
        noise_stddevs=np.array([notes.noise_stddev for notes, _, _ in carrying]),
        sensitivities=np.array([notes.sensitivity for notes, _, _ in carrying]),
    )
