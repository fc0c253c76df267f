"""The machines know no network: a server and its clients, each a process of its own, over local TCP."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from secure_fed_diffusion.secagg import SigningKey

EXAMPLE = Path(__file__).parents[2] / "experiments" / "secagg_tcp"
VECTORS = {4: (1, 2, -3), 9: (10, 20, 30), 11: (100, -200, 300), 12: (1000, 2000, 3000)}


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(EXAMPLE / script), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("vanishing", [{}, {9: "masked_input"}], ids=["all", "one vanishes"])
def test_processes_over_tcp_give_the_exact_sum_and_every_client_verifies_it(
    tmp_path: Path, vanishing: dict[int, str]
) -> None:
    keys = {client_id: SigningKey.generate() for client_id in VECTORS}
    roster = tmp_path / "roster.json"
    roster.write_text(json.dumps({client_id: key.public.hex() for client_id, key in keys.items()}))
    server = start("server.py", roster, 3)
    assert server.stdout is not None
    port = server.stdout.readline().strip()
    clients = {}
    for client_id, values in VECTORS.items():
        secret = tmp_path / f"{client_id}.key"
        secret.write_text(keys[client_id].secret.hex())
        written = ",".join(map(str, values))
        leaves = vanishing.get(client_id, "")
        clients[client_id] = start(
            "client.py", port, client_id, roster, secret, written, *filter(None, [leaves])
        )
    answers = {client_id: client.communicate(timeout=60) for client_id, client in clients.items()}
    out, err = server.communicate(timeout=60)
    assert server.returncode == 0, err
    survivors = sorted(VECTORS.keys() - vanishing)
    expected = [sum(VECTORS[v][i] for v in survivors) % 2**32 for i in range(3)]
    assert json.loads(out) == {"total": expected, "survivors": survivors}
    for client_id in survivors:
        said, error = answers[client_id]
        assert json.loads(said) == {"verified": expected}, error
