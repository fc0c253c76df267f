"""A client's process: its own key, its own policy, its own vector; it believes the sum once it checked it.

python experiments/secagg_tcp/client.py PORT ID ROSTER KEY VALUE,VALUE,... [PHASE]   vanishes before PHASE
"""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import agreement
import numpy as np
import transport

from secure_fed_diffusion import secagg


def main(port: int, client_id: int, roster: Path, key: Path, values: str, vanish: str = "") -> None:
    """Take part in one round; print the total that was verified."""
    vector = np.array(values.split(","), dtype=np.int64).astype(np.uint32)
    session = agreement.session(roster, dimension=len(vector))
    client = secagg.Client(
        session,
        client_id,
        policy=secagg.Policy(min_cohort=3, min_survivors=3, profiles=("active",)),
        signer=secagg.SigningKey(bytes.fromhex(key.read_text())),
    )
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        transport.send(connection, client_id.to_bytes(4, "little"))
        transport.send(connection, client.advertise())
        while client.phase != vanish:
            frame = transport.receive(connection)
            if client.phase == "verify":
                print(json.dumps({"verified": client.verify(frame).tolist()}))
                return
            if client.phase == "masked_input":
                transport.send(connection, client.masked_input(frame, vector))
            else:
                transport.send(connection, getattr(client, client.phase)(frame))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), *sys.argv[5:])
