"""`results.json`: what came out, by claim, with the thresholds and seeds that it was judged by.

    {"command": ..., "machine": {...}, "claims": {"T5": {"threshold", "seeds", "arms", "peers", ...}}}

Results of another threshold, other seeds or another set of arms are stale: `stale` names them.

>>> read(Path("no/such/file"))
{}
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from secure_fed_diffusion.errors import DataError

from .claim import Claim
from .trials import Column, Result

PATH = Path(__file__).with_name("results.json")


def read(path: Path = PATH) -> dict[str, Result]:
    """Return the committed results by claim; none where there is no file."""
    if not path.exists():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return {claim_id: Result.from_dict(claim_id, entry) for claim_id, entry in data["claims"].items()}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no file of results: {type(error).__name__}") from error


def write(results: Mapping[str, Result], path: Path = PATH) -> None:
    """Write the whole file; see `merged` for what a run of a few claims leaves of it."""
    data = {
        "command": "sfd threats --long --write",
        "machine": machine(),
        "claims": {claim_id: result.to_dict() for claim_id, result in results.items()},
    }
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def merged(
    new: Mapping[str, Result], old: Mapping[str, Result], claims: Mapping[str, Claim[Any, Any]]
) -> dict[str, Result]:
    """Return the newest result of every claim that exists, in the order of the claims.

    What needs a library that is not here keeps the columns that it had.
    """
    return {
        claim_id: _with_older_columns(new[claim_id], old.get(claim_id)) if claim_id in new else old[claim_id]
        for claim_id in claims
        if claim_id in new or claim_id in old
    }


def _with_older_columns(new: Result, old: Result | None) -> Result:
    if old is None:
        return new

    def kept(columns: Mapping[str, Column], older: Mapping[str, Column]) -> dict[str, Column]:
        return {name: c if c.installed else older.get(name, c) for name, c in columns.items()}

    return replace(new, arms=kept(new.arms, old.arms), peers=kept(new.peers, old.peers))


def stale(claims: Mapping[str, Claim[Any, Any]], results: Mapping[str, Result]) -> dict[str, str]:
    """Say for each claim whose result cannot stand for it why not; and for results without a claim."""
    why = {claim_id: "has no claim" for claim_id in results if claim_id not in claims}
    for claim_id, claim in claims.items():
        result = results.get(claim_id)
        if result is None:
            why[claim_id] = "has no result"
        elif result.threshold != claim.threshold:
            why[claim_id] = f"was run for {result.threshold}"
        elif result.seeds != tuple(claim.seeds):
            why[claim_id] = f"was run over the seeds {result.seeds}"
        elif set(result.arms) != {arm.value for arm in claim.arms}:
            why[claim_id] = f"was run in the arms {', '.join(result.arms)}"
        elif set(result.peers) != set(claim.peers):
            why[claim_id] = f"was run against {', '.join(result.peers) or 'no peer'}"
        elif any(column.expected != claim.expected(arm) for arm, column in _arms(claim, result)):
            why[claim_id] = "was run when something else was expected"
    return why


def machine() -> dict[str, Any]:
    """Return what a reader needs to place a figure; no name of a host."""
    return {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.system()}


def _arms(claim: Claim[Any, Any], result: Result) -> list[Any]:
    return [(arm, result.arms[arm.value]) for arm in claim.arms]
