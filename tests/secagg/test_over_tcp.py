"""The machines know no network: a server and its clients, each a process of its own, over local TCP."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from secure_fed_diffusion.secagg import SigningKey

EXAMPLE = Path(__file__).parents[2] / "experiments" / "secagg_tcp"
VECTORS = {4: (1, 2, -3), 9: (10, 20, 30), 11: (100, -200, 300), 12: (1000, 2000, 3000)}


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(EXAMPLE / script), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


class Play:
    """A server that runs, with its port, and the clients' keys; `clients` lets those take part."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.roster = folder / "roster.json"
        keys = {client_id: SigningKey.generate() for client_id in VECTORS}
        self.roster.write_text(json.dumps({client_id: key.public.hex() for client_id, key in keys.items()}))
        for client_id, key in keys.items():
            (folder / f"{client_id}.key").write_text(key.secret.hex())
        self.server = start("server.py", self.roster, 3)
        assert self.server.stdout is not None
        self.port = int(self.server.stdout.readline())

    def stranger(self, says: bytes) -> socket.socket:
        """Connect before any client does; the server accepts in this order."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        connection.sendall(says)
        return connection

    def clients(self, vanishing: dict[int, str]) -> dict[int, tuple[str, str]]:
        """Start all clients; return what each printed, and its errors."""
        running = {}
        for client_id, values in VECTORS.items():
            written = ",".join(map(str, values))
            key, leaves = self.folder / f"{client_id}.key", vanishing.get(client_id, "")
            running[client_id] = start(
                "client.py", self.port, client_id, self.roster, key, written, *filter(None, [leaves])
            )
        return {client_id: client.communicate(timeout=60) for client_id, client in running.items()}

    def require_sum(self, survivors: list[int], answers: dict[int, tuple[str, str]]) -> str:
        """Hold server and survivors to the exact sum; return what the server complained of."""
        out, err = self.server.communicate(timeout=60)
        assert self.server.returncode == 0, err
        expected = [sum(VECTORS[v][i] for v in survivors) % 2**32 for i in range(3)]
        assert json.loads(out) == {"total": expected, "survivors": survivors}
        for client_id in survivors:
            said, error = answers[client_id]
            assert json.loads(said) == {"verified": expected}, error
        return err


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Play]:
    playing = Play(tmp_path)
    yield playing
    playing.server.kill()  # where the test failed before it ended
    playing.server.communicate()


@pytest.mark.parametrize("vanishing", [{}, {9: "masked_input"}], ids=["all", "one vanishes"])
def test_processes_over_tcp_give_the_exact_sum_and_every_client_verifies_it(
    play: Play, vanishing: dict[int, str]
) -> None:
    answers = play.clients(vanishing)
    play.require_sum(sorted(VECTORS.keys() - vanishing), answers)


def test_strangers_that_say_nothing_hang_up_or_talk_nonsense_take_no_place_and_end_no_round(
    play: Play,
) -> None:
    hellos = {
        "nothing": b"",
        "half a hello": b"\x04\0\0\0\x04",
        "an id of nobody": b"\x04\0\0\0\x05\0\0\0",
        "too long a frame": b"\xff\xff\xff\x0f" + bytes(64),
    }
    strangers = [play.stranger(hello) for hello in hellos.values()]
    strangers[1].close()
    play.stranger(b"").close()
    answers = play.clients({})
    complaints = play.require_sum(sorted(VECTORS), answers)
    assert complaints.count("turned away") == len(hellos) + 1
    for stranger in strangers:
        stranger.close()


def test_whoever_says_a_clients_id_before_it_puts_that_client_out_and_changes_no_sum(play: Play) -> None:
    """README.md, "What it does not show": the hello is not authenticated."""
    impostor = play.stranger(b"\x04\0\0\0\x09\0\0\0" + b"\x04\0\0\0" + bytes(4))
    answers = play.clients({})
    complaints = play.require_sum(sorted(VECTORS.keys() - {9}), answers)
    assert "left out: client 9, advertise" in complaints
    assert answers[9][0] == ""  # turned away, or too late: the cohort was complete without it
    impostor.close()
