"""The command line that makes this machine a node of the consortium: Flower's SuperNode, our own answers.

The SuperNode connects to the SuperLink by TLS and shows the node's P-384 key; beside it, in the same
process, `flower_app.node` answers with the code that is INSTALLED here.  A stock SuperNode would run the code
that the coordinator sends (the app bundle), and then no policy in `institution.toml` would mean anything.

Not protected against: other programs under the same account on this machine.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.institution.settings import InstitutionSettings

NODE_MODULE = "secure_fed_diffusion.flower_app.node"
POLL_VARIABLE = "SFD_NODE_POLL_SECONDS"


def command(path: Path, settings: InstitutionSettings) -> list[str]:
    """Return the command that starts the node of `path`.

    Raises:
        ConfigError: Flower is not installed here.
    """
    if find_spec("flwr") is None:
        raise ConfigError("Flower is missing: pip install 'secure-fed-diffusion[train,flower]'", key="start")
    link = settings.superlink
    return [
        sys.executable,
        "-m",
        NODE_MODULE,
        "--superlink",
        link.address,
        "--root-certificates",
        link.ca_certificate,
        "--auth-supernode-private-key",
        link.node_key,
        "--node-config",
        f'institution="{path.resolve()}"',
    ]


def environment(settings: InstitutionSettings, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return the environment to start it in: no telemetry, no check for updates, the threads asked for."""
    chosen = {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_OFFLINE": "1",
        POLL_VARIABLE: repr(settings.superlink.poll_seconds),
    }
    if settings.machine.threads:
        chosen["OMP_NUM_THREADS"] = str(settings.machine.threads)
    return {**inherited, **chosen}


def replace_process(path: Path, settings: InstitutionSettings) -> None:
    """Become the node: this process is replaced, so that whoever stops it stops the node."""
    words = command(path, settings)
    os.execve(words[0], words, environment(settings, os.environ))
