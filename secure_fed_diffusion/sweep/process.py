"""One cell of a sweep on disk and as a process: what its folder says, and `sfd run` in it.

A sweep's folder holds `cells/<name>/` (a product run's folder each), `configs/<name>.toml` (what it was begun
with, complete), `logs/<name>.log` (what it said) and `attempts.jsonl` (what each attempt took, and how it
ended).  A cell that was begun goes on with its own ledger: an interrupted round stays charged, and is
repeated as long as the run's plan reserved attempts for that.

Not protected against: a sweep that is killed outright (SIGKILL) leaves its runs going; a second sweep finds
their ledgers locked and says so.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from secure_fed_diffusion import config
from secure_fed_diffusion.errors import RunError
from secure_fed_diffusion.federation.folder import read_lines
from secure_fed_diffusion.federation.settings import RunSettings
from secure_fed_diffusion.sweep import estimate
from secure_fed_diffusion.sweep.grid import Cell

_MEBIBYTE = 1 << 20
_PATIENCE_SECONDS = 30.0  # between asking a run to stop and ending it
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A cell with its settings, in the folder of its sweep."""

    root: Path
    cell: Cell
    settings: RunSettings

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return self.root / "cells" / self.cell.name

    @property
    def config(self) -> Path:
        """The complete configuration that the run is begun with."""
        return self.root / "configs" / f"{self.cell.name}.toml"

    @property
    def log(self) -> Path:
        """What the run said, all attempts one after the other."""
        return self.root / "logs" / f"{self.cell.name}.log"

    @property
    def rounds(self) -> int:
        """How many rounds the run has."""
        return estimate.n_rounds(self.settings)

    @property
    def rounds_done(self) -> int:
        """How many rounds the run has written down."""
        try:
            return (self.folder / "metrics.jsonl").read_bytes().count(b"\n")
        except OSError:
            return 0

    @property
    def summary(self) -> dict[str, Any]:
        """The run's summary, empty before there is one."""
        path = self.folder / "summary.json"
        return dict(json.loads(path.read_bytes())) if path.exists() else {}

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do here."""
        attacked = not self.settings.evaluation.attacks or (self.folder / "attacks.json").exists()
        return attacked and self.summary.get("finished") is True

    @property
    def begun(self) -> bool:
        """Whether a run charged anything, or may have."""
        return (self.folder / "ledger.jsonl").exists()

    def write_config(self) -> None:
        """Put the configuration down, or hold what is there to it.

        Raises:
            RunError: the folder holds a cell of the same name with other settings.
        """
        text = config.dump(self.settings)
        for there in (self.folder / "config.toml", self.config):
            if there.exists() and there.read_text(encoding="utf-8") != text:
                if there == self.config and not self.begun:
                    break  # nothing was run with it
                raise RunError(
                    f"{there} was begun under other settings than the grid has now: choose another --out"
                )
        self.config.parent.mkdir(parents=True, exist_ok=True)
        self.config.write_text(text, encoding="utf-8")


def command(place: Place) -> list[str]:
    """Return the command line of a cell's run: begun anew, or gone on with."""
    words = [sys.executable, "-m", "secure_fed_diffusion.cli", "run", str(place.config)]
    words += ["--out", str(place.folder)]
    return [*words, "--resume"] if place.begun else words


@dataclass(slots=True, kw_only=True)
class Running:
    """A cell whose process is going."""

    place: Place
    process: subprocess.Popen[bytes]
    log_start: int
    began: float = field(default_factory=time.monotonic)

    @classmethod
    def start(cls, place: Place) -> Running:
        """Start `sfd run` for the cell, or let it go on, in a session of its own."""
        place.log.parent.mkdir(parents=True, exist_ok=True)
        place.folder.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        workers = place.settings.run.workers
        if workers != "auto":  # "auto" is a cell that has the machine to itself
            threads = str(max(1, place.settings.run.threads) * workers)
            environment |= dict.fromkeys(_THREADS, threads)
        with place.log.open("ab") as log:
            start = log.tell()
            process = subprocess.Popen(
                command(place),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches the sweep, which asks its runs to stop
            )
        return cls(place=place, process=process, log_start=start)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.began

    def resident_gib(self) -> float:
        """Return the memory that the process holds now, 0.0 where the system does not say."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        except OSError:
            return 0.0
        line = next((line for line in status.splitlines() if line.startswith("VmHWM:")), "VmHWM: 0 kB")
        return int(line.split()[1]) / _MEBIBYTE

    def ask_to_stop(self) -> None:
        """Send the run what Ctrl-C sends: it leaves a folder that can be gone on with."""
        if self.process.poll() is None:
            self._signal(signal.SIGINT)

    def end(self) -> None:
        """Wait for the run to stop, and end it if it does not."""
        try:
            self.process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
            self.process.wait()

    def _signal(self, number: int) -> None:
        try:
            if hasattr(os, "killpg"):
                os.killpg(self.process.pid, number)
            else:
                self.process.terminate()
        except ProcessLookupError:
            return

    def error(self) -> str | None:
        """Return the one line that says what went wrong, or None after a good end."""
        status = self.process.returncode
        if status == 0 and self.place.finished:
            return None
        with self.place.log.open("rb") as log:
            log.seek(self.log_start)
            lines = [line.strip() for line in log.read().decode("utf-8", "replace").splitlines()]
        said = [line.removeprefix("sfd: ") for line in lines if line.startswith("sfd: ")]
        last = said or [line for line in lines if line]
        ending = f"status {status}" if status >= 0 else f"signal {-status}"
        return last[-1] if last else f"ended with {ending} and said nothing"

    def note(self, status: str, error: str | None) -> None:
        """Add a line to the sweep's `attempts.jsonl`: its time in whole minutes, as in a run's summary."""
        line = {
            "cell": self.place.cell.name,
            "status": status,
            "seconds": 60 * math.ceil(self.seconds / 60),
            "error": error,
        }
        with (self.place.root / "attempts.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def attempts(root: Path) -> dict[str, list[dict[str, Any]]]:
    """Return what each cell's attempts took and how they ended, oldest first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in read_lines(root / "attempts.jsonl"):
        found.setdefault(str(line["cell"]), []).append(line)
    return found
