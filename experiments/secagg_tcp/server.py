"""The server's process: one TCP connection a client, one sum, checked by every client.

python experiments/secagg_tcp/server.py ROSTER DIMENSION [SECONDS]   prints its port, then the sum
"""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import agreement
import transport

from secure_fed_diffusion import secagg
from secure_fed_diffusion.errors import SecureAggregationError

HELLO_SECONDS = 2.0  # a client says its id as soon as it is connected
ID_BYTES = 4


def gather(listener: socket.socket, cohort: tuple[int, ...], patience: float) -> dict[int, socket.socket]:
    """Wait for the whole cohort; who is silent, hangs up or says an id that is not due takes no place.

    Not protected against: the id is the caller's word; the first to say it has the place.
    """
    connections: dict[int, socket.socket] = {}
    while len(connections) < len(cohort):
        connection, _ = listener.accept()
        connection.settimeout(min(patience, HELLO_SECONDS))
        try:
            hello = transport.receive(connection, at_most=ID_BYTES)
        except OSError:  # no hello in time, or a connection that was reset
            hello = b""
        client_id = int.from_bytes(hello, "little")
        if len(hello) != ID_BYTES or client_id not in cohort or client_id in connections:
            print("turned away: not the hello of a client that is due", file=sys.stderr)
            connection.close()
            continue
        connection.settimeout(patience)
        connections[client_id] = connection
    return connections


def exchange(server: secagg.Server, connections: dict[int, socket.socket]) -> None:
    """Gather one answer from each client that is still in; who is silent or talks nonsense is out."""
    for client_id in server.expected:
        if client_id not in connections:
            continue
        try:
            server.receive(client_id, transport.receive(connections[client_id]))
        except (SecureAggregationError, OSError) as error:
            print(f"left out: {error}", file=sys.stderr)


def main(roster: Path, dimension: int, patience: float) -> None:
    """Accept the clients, run the round, print the result as JSON."""
    session = agreement.session(roster, dimension=dimension)
    server = secagg.Server(session)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        connections = gather(listener, session.cohort, patience)
    while server.phase != "done":
        exchange(server, connections)
        for client_id, frame in server.advance().items():
            try:
                transport.send(connections[client_id], frame)
            except OSError:
                continue  # it hung up; the next phase will not hear from it
    print(json.dumps({"total": server.total.tolist(), "survivors": server.survivors}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) if sys.argv[3:] else 10.0)
