"""The coordinator's side of a deployment as command lines: SuperLink, registration of nodes, a run.

`folder` is the coordinator's: `ca.crt`, `server.crt`, `server.key`, `roster.json`, and a `*.node.pub` of each
institution.  Flower's own files (its connection, the app bundle, the registered keys) go into
`folder/flower`.  The bundle names our ServerApp and brings no code.

Not protected against: whoever holds `server.key` is the SuperLink to the nodes, and may drop, delay and
propose, and no more.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from secure_fed_diffusion.errors import ConfigError, RunError

CONNECTION = "consortium"
_FILES = ("ca.crt", "server.crt", "server.key")
_APP = """\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "secure-fed-diffusion-run"
version = "1.0.0"
description = "Names the installed ServerApp and ClientApp; brings no code"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "secure-fed-diffusion"

[tool.flwr.app.components]
serverapp = "secure_fed_diffusion.flower_app.server_app:app"
clientapp = "secure_fed_diffusion.flower_app.client_app:app"

[tool.flwr.app.config]
config = ""
out = ""
roster = ""
resume = false
evaluate = false
round-timeout = 600.0
join-seconds = 60.0
"""


def environment(folder: Path, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return Flower's environment: its files under `folder`, nothing sent home, quick to take up a run.

    The SuperLink starts Flower's other programs by name, so those beside this Python come first.
    """
    programs = str(Path(sys.executable).parent)
    return {
        **inherited,
        "PATH": os.pathsep.join([programs, inherited.get("PATH", os.defpath)]),
        "FLWR_HOME": str(folder.resolve() / "flower"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
        "HF_HUB_OFFLINE": "1",
    }


def superlink(folder: Path, *, host: str, port: int) -> list[str]:
    """Return the command that starts the SuperLink: TLS, registered nodes alone, no code fetched.

    Raises:
        ConfigError: a certificate or a key is missing.
    """
    for name in _FILES:
        if not (folder / name).exists():
            raise ConfigError(f"there is no file {folder / name}", key="coordinator")
    home = folder.resolve()
    (home / "flower").mkdir(exist_ok=True)
    return [
        _program("flower-superlink"),
        "--ssl-ca-certfile", str(home / "ca.crt"),
        "--ssl-certfile", str(home / "server.crt"),
        "--ssl-keyfile", str(home / "server.key"),
        "--enable-supernode-auth",
        "--disable-runtime-dependency-installation",
        "--database", str(home / "flower" / "superlink.db"),
        "--host", host,
        "--port", str(port),
    ]  # fmt: skip


def connect(folder: Path, *, address: str) -> None:
    """Write where `flwr` finds the SuperLink."""
    home = folder.resolve() / "flower"
    home.mkdir(exist_ok=True)
    certificate = folder.resolve() / "ca.crt"
    text = (
        f"[superlink]\ndefault = {json.dumps(CONNECTION)}\n\n[superlink.{CONNECTION}]\n"
        f"address = {json.dumps(address)}\nroot-certificates = {json.dumps(str(certificate))}\n"
    )
    (home / "config.toml").write_text(text, encoding="utf-8")


def registrations(folder: Path) -> list[list[str]]:
    """Return one command for each node that is to be let in.

    Raises:
        ConfigError: there is no public key of a node.
    """
    publics = sorted(folder.resolve().glob("*.node.pub"))
    if not publics:
        raise ConfigError(f"{folder} holds no *.node.pub of an institution", key="coordinator")
    return [[_program("flwr"), "supernode", "register", str(path), CONNECTION] for path in publics]


def run(
    folder: Path,
    *,
    config: Path,
    out: Path,
    resume: bool,
    evaluate: bool,
    time_limit_seconds: float,
    join_seconds: float,
) -> list[str]:
    """Return the command that submits a run, and write the bundle that names our apps.

    Raises:
        ConfigError: the configuration or the roster is missing.
    """
    roster = folder / "roster.json"
    for path in (config, roster):
        if not path.exists():
            raise ConfigError(f"there is no file {path}", key="coordinator")
    app = folder.resolve() / "flower" / "app"
    app.mkdir(parents=True, exist_ok=True)
    (app / "pyproject.toml").write_text(_APP, encoding="utf-8")
    values = {
        "config": str(config.resolve()),
        "out": str(out.resolve()),
        "roster": str(roster.resolve()),
        "resume": resume,
        "evaluate": evaluate,
        "round-timeout": float(time_limit_seconds),
        "join-seconds": float(join_seconds),
    }
    chosen = app.parent / "run.toml"
    lines = [f"{key} = {json.dumps(value)}\n" for key, value in values.items()]
    chosen.write_text("".join(lines), encoding="utf-8")
    return [_program("flwr"), "run", str(app), CONNECTION, "--stream", "--run-config", str(chosen)]


def _program(name: str) -> str:
    """Return Flower's program beside this Python.

    Raises:
        ConfigError: Flower is not installed.
    """
    path = Path(sys.executable).parent / name
    if not os.access(path, os.X_OK):
        raise ConfigError("Flower is missing: pip install 'secure-fed-diffusion[train,flower]'", key=name)
    return str(path)


def require_finished(out: Path, *, rounds: int) -> None:
    """Refuse a run that did not reach its last round.

    Raises:
        RunError: with what is there.
    """
    if not (out / "ledger.jsonl").exists():
        raise RunError("the run was not begun; Flower's lines above say why")
    lines = out / "metrics.jsonl"
    done = len(lines.read_text(encoding="utf-8").splitlines()) if lines.exists() else 0
    if done < rounds or not (out / "summary.json").exists():
        raise RunError(f"{done} of {rounds} rounds are done, the lines above say why; go on with --resume")
