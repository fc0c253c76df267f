"""A consortium of real processes on this machine: a SuperLink, four nodes, TLS, two kinds of keys.

Every process runs with an audit hook that notes each file it opens, so that a test can look.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from secure_fed_diffusion import config
from secure_fed_diffusion.dp.ledger import verify
from secure_fed_diffusion.institution.rehearsal import rehearse
from tests.institution.consortium import settings_for

SFD = [sys.executable, "-m", "secure_fed_diffusion.cli"]
_HOOK = """
import os, sys
_file = open(os.path.join(os.environ["SFD_TEST_OPENED"], f"{os.getpid()}.txt"), "a", buffering=1)
_file.write("argv " + " ".join(sys.orig_argv) + "\\n")
def _note(event, args):
    if event == "open" and isinstance(args[0], (str, bytes)):
        _file.write("open " + os.fsdecode(args[0]) + "\\n")
sys.addaudithook(_note)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Process:
    """One process group of this test, and what it printed."""

    words: list[str]
    log: Path
    env: dict[str, str]
    popen: subprocess.Popen[bytes] | None = None
    told_from: int = 0  # what it printed before is of an earlier run

    def start(self) -> Process:
        with self.log.open("ab") as file:
            self.popen = subprocess.Popen(
                self.words, stdout=file, stderr=subprocess.STDOUT, env=self.env, start_new_session=True
            )
        return self

    @property
    def pid(self) -> int:
        assert self.popen is not None
        return self.popen.pid

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def kill(self) -> None:
        """As a power cut does."""
        self.signal(signal.SIGKILL)
        assert self.popen is not None
        self.popen.wait()

    def exchanges(self, done: str) -> set[tuple[int, str]]:
        """The (round, phase) of every message of which this node says `done` ("Received", "Sent")."""
        found, current = set(), (0, "")
        for line in self.printed()[self.told_from :].splitlines():
            named = re.search(r"ROUND (\d+)/(\w+)/", line)
            if named:
                current = int(named[1]), named[2]
            elif f"{done} successfully" in line:
                found.add(current)
        return found

    def printed(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""


def wait_for(
    what: str, condition: Callable[[], object], seconds: float, *, alive: Process | None = None
) -> float:
    """Wait until `condition` holds, as long as the process is `alive`; return how long that took."""
    began = time.monotonic()
    while not condition():
        gone = alive is not None and alive.popen is not None and alive.popen.poll() is not None
        if gone or time.monotonic() - began > seconds:
            raise TimeoutError(f"{what} within {seconds:g} s" + " (its process ended)" * gone)
        time.sleep(0.02)
    return time.monotonic() - began


@dataclass
class Deployment:
    """What is running; every process belongs to this test and is killed with it."""

    folder: Path
    paths: list[Path]
    port: int
    opened: Path
    nodes: dict[int, Process] = field(default_factory=dict)
    others: list[Process] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    superlink: Process | None = None

    @property
    def coordinator(self) -> Path:
        return self.folder / "coordinator"

    @property
    def address(self) -> str:
        return f"localhost:{self.port}"

    def environment(self, home: Path) -> dict[str, str]:
        hook = self.folder / "hook"
        root = str(Path(__file__).parents[2])
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(hook), root]),
            "SFD_TEST_OPENED": str(self.opened),
            "FLWR_HOME": str(home / "flower"),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "OMP_NUM_THREADS": "1",
            "HOME": str(home),
        }

    def begin(self) -> None:
        began = time.monotonic()
        words = [*SFD, "coordinator", "superlink", str(self.coordinator), "--port", str(self.port)]
        self.start_superlink(words)
        subprocess.run(
            [*SFD, "coordinator", "register", str(self.coordinator), "--address", self.address],
            env=self.environment(self.coordinator),
            check=True,
            capture_output=True,
            timeout=120,
        )
        for client_id in range(len(self.paths)):
            self.start_node(client_id)
        for client_id in self.nodes:
            with self.explained(self.nodes[client_id]):
                wait_for(
                    f"node {client_id} is up",
                    lambda c=client_id: self.is_up(c),
                    90,
                    alive=self.nodes[client_id],
                )
        self.seconds["start"] = time.monotonic() - began

    @contextlib.contextmanager
    def explained(self, process: Process) -> Iterator[None]:
        """Show what a process printed where a wait for it fails."""
        try:
            yield
        except TimeoutError as error:
            raise TimeoutError(f"{error}; it printed:\n{process.printed()[-3000:]}") from None

    def start_superlink(self, words: list[str]) -> None:
        log = self.folder / "superlink.log"
        self.superlink = Process(words, log, self.environment(self.coordinator)).start()
        self.others.append(self.superlink)
        with self.explained(self.superlink):
            wait_for("the SuperLink listens", lambda: listens(self.port), 60, alive=self.superlink)

    def start_node(self, client_id: int) -> Process:
        home = self.paths[client_id].parent
        words = [*SFD, "institution", "start", str(self.paths[client_id])]
        node = Process(words, home / f"node-{time.monotonic_ns()}.log", self.environment(home)).start()
        self.nodes[client_id] = node
        return node

    def is_up(self, client_id: int) -> bool:
        return "SuperNode ID" in self.nodes[client_id].printed()

    def run(self, *more: str, out: Path | None = None) -> Process:
        where = out or self.out
        words = [*SFD, "coordinator", "run", str(self.coordinator), "--out", str(where)]
        words += ["--address", self.address, *more]
        log = self.folder / f"run-{time.monotonic_ns()}.log"
        process = Process(words, log, self.environment(self.coordinator)).start()
        self.others.append(process)
        return process

    @property
    def out(self) -> Path:
        return self.folder / "run"

    def metrics(self, out: Path | None = None) -> list[dict[str, Any]]:
        path = (out or self.out) / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def state(self, client_id: int, out: Path | None = None) -> Path:
        """The folder of a run at one institution."""
        run_id = verify((out or self.out) / "ledger.jsonl").terms.run_id
        return self.paths[client_id].parent / "state" / "runs" / run_id

    def processes(self, *named: str) -> dict[int, list[str]]:
        """The files that each process opened whose command line names one of `named`."""
        found = {}
        for path in self.opened.glob("*.txt"):
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            argv = [line for line in lines if line.startswith("argv ")]
            if any(name in line for line in argv for name in named):
                found[int(path.stem)] = [line[5:] for line in lines if line.startswith("open ")]
        return found

    def server_processes(self) -> list[int]:
        """The ServerApp processes that live now."""
        return [pid for pid in self.processes("flwr-serverapp") if Path(f"/proc/{pid}").exists()]

    def stop(self) -> None:
        everybody = [*self.nodes.values(), *self.others]
        for process in everybody:  # a stopped one as well
            process.signal(signal.SIGCONT)
            process.signal(signal.SIGKILL)
        for pid in self.processes("flwr-serverapp", "flower-superexec"):  # of sessions of their own
            if "SFD_TEST_OPENED" in _environ(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def _environ(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_text(errors="replace")
    except OSError:
        return ""


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def deployment(folder: Path, *overrides: str, epsilon: float | None = None) -> Iterator[Deployment]:
    """Write the folders, start everything, and kill it in the end; `epsilon` is each institution's budget."""
    port = free_port()
    settings = settings_for(*overrides)
    where = folder / "consortium"
    paths = rehearse(settings, where, address=f"localhost:{port}")
    for path in paths if epsilon is not None else ():
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace("\nepsilon = 8.0", f"\nepsilon = {epsilon}"), encoding="utf-8")
    (where / "hook").mkdir()
    (where / "opened").mkdir()
    (where / "hook" / "sitecustomize.py").write_text(_HOOK, encoding="utf-8")
    assert config.load(where / "coordinator" / "config.toml") == settings
    running = Deployment(folder=where, paths=paths, port=port, opened=where / "opened")
    try:
        running.begin()
        yield running
    finally:
        running.stop()
