"""What one client and the server of a large round hold at their peak, in vectors.

Both run as `party`; the other clients live here, one vector at a time.  Frames travel as files.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from experiments.secagg_scale.party import MEASURED_CLIENT, frame_path
from secure_fed_diffusion import secagg
from secure_fed_diffusion.benchmarks import secagg_round
from secure_fed_diffusion.secagg import encoding
from secure_fed_diffusion.secagg.phases import PROFILES


class Party:
    """A child process that is one party."""

    def __init__(self, role: str, params: dict[str, Any], folder: Path) -> None:
        command = [sys.executable, "-m", "experiments.secagg_scale.party", role, json.dumps(params)]
        self._process = subprocess.Popen(
            [*command, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, command: str) -> str:
        """Send one command and return the answer.

        Raises:
            SystemExit: the party died; its message is on standard error.
        """
        if self._process.stdin is None or self._process.stdout is None:
            raise SystemExit("a party without pipes")
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        reply = self._process.stdout.readline().strip()
        if not reply:
            raise SystemExit(f"a party ended at {command!r}; its message is above")
        return reply

    def end(self) -> dict[str, Any]:
        """Return what the party measured."""
        summary: dict[str, Any] = json.loads(self.ask("end"))
        self._process.wait()
        return summary


def measure(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Run the round; return one record for the client and one for the server.

    Raises:
        SystemExit: a party died, or the server's sum is not that of the survivors.
    """
    dropouts = set(settings["dropouts"])
    params = {
        "n_clients": settings["clients"],
        "threshold": settings["threshold"],
        "dimension": settings["dimension"],
        "modulus_bits": settings["modulus_bits"],
    }
    session = secagg_round.session_for(secagg.SecAggParams(**params))
    policy = secagg.Policy.accepting(session.params)
    crowd = {v: secagg.Client(session, v, policy=policy) for v in session.cohort if v != MEASURED_CLIENT}
    expected = np.zeros(session.params.dimension, dtype=encoding.ring_dtype(session.params.modulus_bits))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parties = {role: Party(role, params, folder) for role in ("client", "server")}
        for phase in (step.phase for step in PROFILES[session.params.profile]):
            if phase == "masked_input":
                for v in dropouts:
                    crowd.pop(v)
            parties["client"].ask(phase)
            parties["server"].ask(f"receive {MEASURED_CLIENT}")
            for v, client in crowd.items():
                down = frame_path(folder, v, "down")
                vector = secagg_round.vector_of(v, session.params) if phase == "masked_input" else None
                if vector is not None:
                    expected += vector
                frame = secagg_round.answer(
                    client, phase, down.read_bytes() if down.exists() else b"", vector
                )
                del vector
                up = frame_path(folder, v, "up")
                up.write_bytes(frame)
                del frame
                parties["server"].ask(f"receive {v}")
                up.unlink()
            parties["server"].ask("advance")
        measured = {role: party.end() for role, party in parties.items()}
    expected += secagg_round.vector_of(MEASURED_CLIENT, session.params)
    encoding.reduce_in_place(expected, session.params.modulus_bits)
    if measured["server"]["total_digest"] != sha256(expected.data).hexdigest():
        raise SystemExit("the server's sum is not that of the survivors")
    vector_bytes = expected.nbytes
    return [
        {
            "measured": "memory",
            "party": role,
            **params,
            "vector_bytes": vector_bytes,
            "peak_bytes": found["peak_bytes"],
            "before_bytes": found["before_bytes"],
            "peak_vectors": round((found["peak_bytes"] - found["before_bytes"]) / vector_bytes, 3),
        }
        for role, found in measured.items()
    ]
