"""The coordinator's commands as Flower gets them, and the node's two bells; nothing is started here."""

from __future__ import annotations

import threading
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from secure_fed_diffusion.errors import ConfigError, RunError
from secure_fed_diffusion.flower_app import superlink
from secure_fed_diffusion.institution.certificates import make_trial_certificates

pytest.importorskip("flwr", reason="needs the extra flower")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    home = tmp_path / 'a "quoted" folder'
    make_trial_certificates(home)
    (home / "config.toml").write_text("")
    (home / "roster.json").write_text("{}")
    return home


def test_the_superlink_takes_registered_nodes_over_tls_and_fetches_no_code(folder: Path) -> None:
    words = superlink.superlink(folder, host="127.0.0.1", port=1)
    assert "--insecure" not in words
    assert {"--enable-supernode-auth", "--disable-runtime-dependency-installation"} <= set(words)
    for option, name in (("certfile", "server.crt"), ("keyfile", "server.key"), ("ca-certfile", "ca.crt")):
        assert words[words.index(f"--ssl-{option}") + 1] == str(folder / name)


@pytest.mark.parametrize("name", ["ca.crt", "server.crt", "server.key"])
def test_a_missing_certificate_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ConfigError, match=name):
        superlink.superlink(folder, host="127.0.0.1", port=1)


def test_without_a_node_to_register_that_is_said(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"no \*\.node\.pub"):
        superlink.registrations(folder)


def test_a_run_s_values_reach_flower_as_they_are(folder: Path) -> None:
    from flwr.common.config import parse_config_args

    superlink.connect(folder, address="localhost:1")
    words = superlink.run(
        folder,
        config=folder / "config.toml",
        out=folder / "run",
        resume=True,
        evaluate=False,
        time_limit_seconds=45,
        join_seconds=9,
    )
    values = parse_config_args([words[-1]])
    assert values["config"] == str(folder / "config.toml")
    assert (values["resume"], values["evaluate"]) == (True, False)
    assert (values["round-timeout"], values["join-seconds"]) == (45.0, 9.0)
    app = tomllib.loads((folder / "flower" / "app" / "pyproject.toml").read_text())["tool"]["flwr"]["app"]
    assert set(values) == set(app["config"])
    assert [p.name for p in (folder / "flower" / "app").iterdir()] == ["pyproject.toml"]  # and no code
    connection = tomllib.loads((folder / "flower" / "config.toml").read_text())["superlink"]
    assert connection[connection["default"]]["root-certificates"] == str(folder / "ca.crt")


def test_a_run_that_did_not_end_is_no_success(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not begun"):
        superlink.require_finished(tmp_path, rounds=2)
    (tmp_path / "ledger.jsonl").write_text("")
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(RunError, match="1 of 2 rounds"):
        superlink.require_finished(tmp_path, rounds=2)
    (tmp_path / "metrics.jsonl").write_text("{}\n{}\n")
    (tmp_path / "summary.json").write_text("{}")
    superlink.require_finished(tmp_path, rounds=2)


def test_the_two_halves_of_a_node_wake_each_other() -> None:
    from secure_fed_diffusion.flower_app.node import _Bells

    bells = _Bells(30.0)
    pulls = iter([None, 7])
    loop = SimpleNamespace(_pull_and_store_message=lambda: next(pulls))
    bells.hang(loop)
    assert loop._pull_and_store_message() is None
    assert not bells.message.is_set()
    assert loop._pull_and_store_message() == 7
    assert bells.message.is_set()
    threading.Timer(0.05, bells.answer.set).start()
    began = time.monotonic()
    loop.time.sleep(3.0)  # would sleep for 3 s without the ring
    assert time.monotonic() - began < 2.5
    assert not bells.answer.is_set()


def test_a_node_that_is_not_let_in_yet_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from flwr.supercore import heartbeat
    from flwr.supernode import fleet_http_connection
    from flwr.supernode.fleet_http_client import FleetHttpClient
    from httpx import HTTPStatusError, Request, Response

    from secure_fed_diffusion.flower_app import node

    asked = []

    def activate(client: object, request: object) -> str:
        asked.append(request)
        if len(asked) < 3:
            raise HTTPStatusError("no", request=Request("POST", "https://x"), response=Response(400))
        return "welcome"

    monkeypatch.setattr(FleetHttpClient, "ActivateNode", activate)
    for module in (heartbeat, fleet_http_connection):
        monkeypatch.setattr(module, "HEARTBEAT_DEFAULT_INTERVAL", 30)
    monkeypatch.setattr(node, "_ACTIVATION_SECONDS", 0.0)
    node._be_patient()
    assert FleetHttpClient.ActivateNode(None, "me") == "welcome"
    assert asked == ["me"] * 3
    assert heartbeat.HEARTBEAT_DEFAULT_INTERVAL == fleet_http_connection.HEARTBEAT_DEFAULT_INTERVAL == 20


def test_flower_still_has_the_names_that_the_node_hangs_its_bells_on() -> None:
    from flwr.supernode import start_client_internal

    assert callable(start_client_internal._pull_and_store_message)
    assert callable(start_client_internal.time.sleep)
