"""What both ends know beforehand: the session, made from a roster file that each of them keeps."""

from __future__ import annotations

import json
from pathlib import Path

from secure_fed_diffusion import secagg


def session(roster_file: Path, *, dimension: int) -> secagg.Session:
    """Return the session that every party with this roster makes."""
    publics = {int(i): bytes.fromhex(key) for i, key in json.loads(roster_file.read_text()).items()}
    params = secagg.SecAggParams(
        n_clients=len(publics),
        threshold=len(publics) - 1,
        dimension=dimension,
        modulus_bits=32,
        profile="active",
        verifiable=True,
    )
    return secagg.Session(
        run_id=b"over tcp",
        round=0,
        attempt=0,
        cohort=tuple(publics),
        params=params,
        model_digest=bytes(32),
        roster=secagg.Roster(publics),
    )
