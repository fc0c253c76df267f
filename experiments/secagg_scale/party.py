"""One party of a round in a process of its own, so that its memory can be read from the outside.

    python -m experiments.secagg_scale.party client|server PARAMS_JSON FOLDER

Commands come as lines on standard input; a client takes `PHASE` and reads and writes its frames as files
in FOLDER; the server takes `receive CLIENT_ID` and `advance`.  Each is answered by `ok` on standard output;
`end` by a JSON line: the memory before it held a vector and at its peak, and the digest of the sum.
Linux only: the figures are VmRSS and VmHWM of /proc/self/status.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from secure_fed_diffusion import secagg
from secure_fed_diffusion.benchmarks import secagg_round

MEASURED_CLIENT = 0


def memory_bytes(key: str) -> int:
    """Return one figure of the process's memory."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(rf"^{key}:\s+(\d+) kB", status, re.M)
    if found is None:
        raise SystemExit(f"no {key} in /proc/self/status: this measurement needs Linux")
    return 1024 * int(found[1])


def frame_path(folder: Path, client_id: int, direction: str) -> Path:
    """Return where a client's next frame lies; `direction` is up or down."""
    return folder / f"{direction}_{client_id}.frame"


def client_steps(session: secagg.Session, folder: Path) -> tuple[Callable[[str], None], Callable[[], str]]:
    """Return how the measured client takes a command, and what it says at the end."""
    client = secagg.Client(session, MEASURED_CLIENT, policy=secagg.Policy.accepting(session.params))

    def take(phase: str) -> None:
        down = frame_path(folder, MEASURED_CLIENT, "down")
        server_frame = down.read_bytes() if down.exists() else b""
        vector = secagg_round.vector_of(MEASURED_CLIENT, session.params) if phase == "masked_input" else None
        frame = secagg_round.answer(client, phase, server_frame, vector)
        frame_path(folder, MEASURED_CLIENT, "up").write_bytes(frame)

    return take, lambda: ""


def server_steps(session: secagg.Session, folder: Path) -> tuple[Callable[[str], None], Callable[[], str]]:
    """Return how the server takes a command, and the digest of the sum at the end."""
    server = secagg.Server(session)

    def take(command: str) -> None:
        name, *rest = command.split()
        if name == "receive":
            client_id = int(rest[0])
            server.receive(client_id, frame_path(folder, client_id, "up").read_bytes())
            return
        for client_id, frame in server.advance().items():
            frame_path(folder, client_id, "down").write_bytes(frame)

    return take, lambda: sha256(server.total.data).hexdigest()


def main() -> None:
    """Be one party until `end`."""
    role, params, folder = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3])
    session = secagg_round.session_for(secagg.SecAggParams(**params))
    before = memory_bytes("VmRSS")  # the server holds a vector from the start, a client from its third step
    take, finish = (client_steps if role == "client" else server_steps)(session, folder)
    for line in sys.stdin:
        if line.strip() == "end":
            break
        if role == "client" and line.strip() == "masked_input":
            before = memory_bytes("VmRSS")
        take(line.strip())
        print("ok", flush=True)
    peak = memory_bytes("VmHWM")
    summary: dict[str, Any] = {"before_bytes": before, "peak_bytes": peak, "total_digest": finish()}
    print(json.dumps(summary), flush=True)


if __name__ == "__main__":
    main()
