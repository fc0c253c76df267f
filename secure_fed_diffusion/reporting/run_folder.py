"""Reads a run's folder as it stands, finished or not.

Only `config.toml` must be there.  A last line of `metrics.jsonl` that was cut off by a crash is
left out; any other bad line is an error that names it.  Nothing is verified here: `sfd audit`
checks the ledger, this module only counts its lines.

    run = read_run(Path("runs/first"))
    run.mode, run.guard_view, len(run.rounds)
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secure_fed_diffusion.errors import RunError, WrongFolderError
from secure_fed_diffusion.evaluation import names
from secure_fed_diffusion.reporting.wording import bound, colluders, number, terms


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFolder:
    """What a run has written down so far; `rounds` is sorted by round, 0 is the warm-up release."""

    name: str
    config: Mapping[str, Any]
    config_sha256: str
    begun_with: str | None  # the SHA-256 of its configuration by the ledger, where that says it
    rounds: tuple[Mapping[str, Any], ...]
    summary: Mapping[str, Any]
    server_view: Mapping[str, Any]
    samples: tuple[tuple[int, Path], ...]
    run_id: str | None
    ledger_lines: int
    ledger_sha256: str | None

    def fact(self, key: str) -> Any:
        """Return `key` from the summary, else from the newest round that has it, else None."""
        if self.summary.get(key) is not None:
            return self.summary[key]
        return next((line[key] for line in reversed(self.rounds) if line.get(key) is not None), None)

    @property
    def mode(self) -> str:
        """Return the privacy mode, or "unknown"."""
        privacy = self.config.get("privacy")
        configured = privacy.get("mode") if isinstance(privacy, Mapping) else None
        return str(self.fact("mode") or configured or "unknown")

    @property
    def finished(self) -> bool:
        """Return whether the run says that it came to its end."""
        return self.summary.get("finished") is True

    @property
    def begun_alone(self) -> bool:
        """Return whether the run wrote down that it began and no more: not one round is over."""
        return not self.rounds and not self.summary

    @property
    def alarm(self) -> str | None:
        """Return what a reader has to know first: the ledger is gone, or the configuration is not its own."""
        if self.begun_with not in (None, self.config_sha256):
            return "config.toml was changed since the run began: the settings shown may not be the run's"
        if self.ledger_lines:
            return None
        state = "missing" if self.ledger_sha256 is None else "empty"
        return f"ledger.jsonl is {state}: nothing here can be recomputed"

    @property
    def epsilon(self) -> Mapping[str, Any]:
        """Return `{view: {"pld", "rdp"}}` as spent by now, the strongest view of the adversary first."""
        entries = self.fact("epsilon")
        return {view: entries[view] for view in sorted(entries, key=_view_order)} if entries else {}

    @property
    def plan_epsilon(self) -> Mapping[str, Any]:
        """Return the same of all the charges that the plan reserves; empty where no summary states it."""
        entries = self.summary.get("plan_epsilon")
        return entries if isinstance(entries, Mapping) else {}

    @property
    def guarantee(self) -> tuple[float | None, str]:
        """Return the ε that the run was promised in its guarded view, and by which accountant.

        The plan's ε; where no summary states it (an older run, or one that is not over) the budget, which
        is no smaller.  Never what was spent: how often a round failed may have been chosen.  None where
        nothing that was spent has a bound.
        """
        if self.mode == "none" or bound(self.epsilon, self.guard_view)[0] is None:
            return None, "–"
        planned, accountant = bound(self.plan_epsilon, self.guard_view)
        if planned is not None:
            return planned, accountant
        privacy = self.config.get("privacy")
        by = privacy.get("accountant") if isinstance(privacy, Mapping) else None
        return self.budget, str(by or "pld").upper()

    @property
    def guard_view(self) -> str | None:
        """Return the view that the budget guards; without a budget, the first one with a bound."""
        named = self.fact("guard_view")
        if named:
            return str(named)
        candidates = [f"sum_c{self.summary['colluders']}"] if "colluders" in self.summary else []
        candidates += [
            *reversed([view for view in self.epsilon if colluders(view) is not None]),
            *self.epsilon,
        ]
        return next((view for view in candidates if bound(self.epsilon, view)[0] is not None), None)

    @property
    def terms(self) -> str:
        """Return δ, unit and relation of every ε of this run, in words."""
        return terms(self.fact("delta"), self.fact("unit"), self.fact("relation"))

    @property
    def budget(self) -> float | None:
        """Return the ε that the run may spend, where there is a limit."""
        target = number(self.fact("budget_epsilon"))
        return target if target is not None else number(self.summary.get("target_epsilon"))

    @property
    def metrics(self) -> Mapping[str, float]:
        """Return the newest value of each metric, by its key."""
        newest: dict[str, float] = {}
        for line in (*self.rounds, self.summary.get("metrics") or {}):
            newest |= {
                key: value for key in line if is_metric(key) and (value := number(line[key])) is not None
            }
        return newest

    @property
    def newest(self) -> Mapping[str, Any]:
        """Return the newest value of every key of the rounds' lines, and the floors of the summary."""
        return {key: line[key] for line in self.rounds for key in line} | (self.summary.get("floor") or {})

    @property
    def fid_key(self) -> str | None:
        """Return the key of the FID, which ends in the name of its extractor."""
        return next((key for key in self.metrics if key.startswith("fid_")), None)

    @property
    def fid_floor(self) -> float | None:
        """Return the FID of real test images against real training images, same extractor."""
        floors = {**self.metrics, **(self.summary.get("floor") or {})}
        return number(floors.get(f"fid_floor_{(self.fid_key or '').removeprefix('fid_')}"))


def is_metric(key: str) -> bool:
    """Return whether a key of a metrics line holds a measured utility that is safe to show."""
    return names.is_metric(key)


def read_run(run_dir: Path) -> RunFolder:
    """Read what a run has written so far.

    Raises: WrongFolderError when this is no run's folder, RunError when a file in it cannot be read.
    """
    config_path = run_dir / "config.toml"
    if not config_path.is_file():
        raise WrongFolderError(f"{run_dir}: no run's folder, it holds no config.toml")
    config_bytes = config_path.read_bytes()
    try:
        config = tomllib.loads(config_bytes.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RunError(f"{config_path}: not TOML: {error}") from error
    ledger = run_dir / "ledger.jsonl"
    ledger_bytes = ledger.read_bytes() if ledger.is_file() else None
    return RunFolder(
        name=run_dir.resolve().name,
        config=config,
        config_sha256=hashlib.sha256(config_bytes).hexdigest(),
        rounds=_read_lines(run_dir / "metrics.jsonl"),
        summary=_read_object(run_dir / "summary.json"),
        server_view=_read_object(run_dir / "server_view.json"),
        samples=_find_samples(run_dir / "samples"),
        begun_with=None
        if (run_dir / "agreement.json").exists()  # an institution's, whose configuration names its own files
        else _of_terms(ledger_bytes or b"", "config_digest"),
        run_id=_of_terms(ledger_bytes or b"", "run_id"),
        ledger_lines=len(ledger_bytes.splitlines()) if ledger_bytes else 0,
        ledger_sha256=None if ledger_bytes is None else hashlib.sha256(ledger_bytes).hexdigest(),
    )


def _of_terms(ledger: bytes, key: str) -> str | None:
    """Return a text out of a ledger's first line, None where that holds none."""
    try:
        named = json.loads(ledger.split(b"\n", 1)[0])[key]
    except (ValueError, TypeError, KeyError):
        return None
    return named if isinstance(named, str) else None


def _view_order(view: str) -> tuple[int, int, str]:
    c = colluders(view)
    return (1, -c, view) if c is not None else (0 if view == "raw_update" else 2, 0, view)


def _read_object(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise RunError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise RunError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def _read_lines(path: Path) -> tuple[Mapping[str, Any], ...]:
    if not path.is_file():
        return ()
    lines = [line for line in path.read_bytes().split(b"\n") if line.strip()]
    by_round: dict[int, Mapping[str, Any]] = {}
    for i, line in enumerate(lines, start=1):
        try:
            content = json.loads(line)
            by_round[int(content["round"])] = content
        except (ValueError, TypeError, KeyError) as error:
            if i == len(lines) and isinstance(error, ValueError):
                break  # the run was killed while it wrote this line
            raise RunError(f"{path}: line {i}: expected a JSON object with a round") from error
    return tuple(by_round[key] for key in sorted(by_round))


def _find_samples(folder: Path) -> tuple[tuple[int, Path], ...]:
    found = [(re.search(r"(\d+)$", path.stem), path) for path in folder.glob("round_*.png")]
    return tuple(sorted((int(match[1]), path) for match, path in found if match))
