"""A Flower deployment on this machine: one SuperLink and n SuperNodes, each a process of its own, no TLS.

    with Deployment(folder, node_configs) as deployed:
        deployed.run(app_folder, plan="/path/plan.json")

Not protected against: --insecure, on purpose: what is compared is time, and all variants have it alike.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

READY_SECONDS = 120.0


class Deployment:
    """Processes that live as long as the block; each has its log in `folder`."""

    def __init__(
        self, folder: Path, node_configs: Sequence[Mapping[str, str | int]], *, task_poll_seconds: float
    ) -> None:
        self._folder, self._node_configs = folder, node_configs
        self._processes: list[subprocess.Popen[bytes]] = []
        self._environment = {
            **os.environ,
            "FLWR_HOME": str(folder / "flower_home"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": str(task_poll_seconds),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        }

    def __enter__(self) -> Deployment:
        home = self._folder / "flower_home"
        home.mkdir(parents=True, exist_ok=True)
        port, *node_ports = free_ports(1 + len(self._node_configs))
        here = f'[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
        (home / "config.toml").write_text(f'[superlink]\ndefault = "here"\n\n{here}', encoding="utf-8")
        try:
            listen = ["--insecure", "--host", "127.0.0.1", "--port"]
            no_installs = "--disable-runtime-dependency-installation"
            self._start("superlink", ["flower-superlink", no_installs, *listen, str(port)])
            wait_for(port)
            for index, config in enumerate(self._node_configs):
                pairs = " ".join(
                    f'{k}="{v}"' if isinstance(v, str) else f"{k}={v}" for k, v in config.items()
                )
                to = ["--superlink", f"127.0.0.1:{port}", "--node-config", pairs]
                self._start(f"node{index}", ["flower-supernode", *listen, str(node_ports[index]), *to])
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stop()

    def run(self, app: Path, *, timeout: float, **run_config: str) -> str:
        """Run the app until it ends or `timeout` seconds are over; return its log.

        Flower's exit status does not say whether the app went through: that is for the caller to see.
        """
        pairs = " ".join(f'{key}="{value}"' for key, value in run_config.items())
        path = self._folder / "run.log"
        with path.open("wb") as log, contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(
                ["flwr", "run", str(app), "here", "--stream", "--run-config", pairs],
                env=self._environment,
                stdout=log,
                stderr=log,
                timeout=timeout,
                check=False,
            )
        return path.read_text(encoding="utf-8", errors="replace")

    def _start(self, name: str, command: list[str]) -> None:
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    command, env=self._environment, stdout=log, stderr=log, start_new_session=True
                )
            )

    def _stop(self) -> None:
        for sent in (signal.SIGTERM, signal.SIGKILL):
            for process in reversed(self._processes):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, sent)
            ends = time.monotonic() + 10
            for process in self._processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.1, ends - time.monotonic()))
        self._processes.clear()


def free_ports(n: int) -> list[int]:
    """Return n ports of this machine that nobody listened on a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def wait_for(port: int) -> None:
    """Wait until somebody listens.

    Raises:
        TimeoutError: nobody does.
    """
    ends = time.monotonic() + READY_SECONDS
    while time.monotonic() < ends:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.2)
    raise TimeoutError(f"nothing listens on port {port}")
