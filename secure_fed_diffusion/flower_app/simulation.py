"""The same run on Flower's simulation: the same ServerApp's part, and each node an institution of its own.

Node i plays client i from `clients/NNNN` in the run's folder: its key, its ledger and where it stands lie
there, and its records are its part of the data set.  Flower's Ray backend runs the nodes in as many processes
as there are processors; a client's next message may meet another of them, so nothing is kept in between.

Not protected against: whoever can read the folder holds every client's key.  It is a rehearsal of who does
what, on one machine, not of who can see what.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from secure_fed_diffusion.cores import usable_cores
from secure_fed_diffusion.dp.ledger import Ledger
from secure_fed_diffusion.engines.flower import FlowerEngine
from secure_fed_diffusion.errors import RunError
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.rehearsal import rehearsed
from secure_fed_diffusion.federation.run import Observer
from secure_fed_diffusion.federation.server_part import ServerPart
from secure_fed_diffusion.federation.settings import RunSettings
from secure_fed_diffusion.flower_app.client_app import OpenParty, make_client_app
from secure_fed_diffusion.flower_app.coordinator import conduct
from secure_fed_diffusion.flower_app.rehearsed_client import Rehearsal
from secure_fed_diffusion.flower_app.separate import prepare_separate


@dataclass(slots=True, kw_only=True)
class SimulatedRun:
    """A run that is ready to go on Flower's simulation; it stands where `federation.run.Run` stands."""

    part: ServerPart
    open_party: OpenParty
    time_limit_seconds: float = 24 * 3600.0  # of an exchange: a simulated node is slow, never gone
    join_seconds: float = 600.0
    stopped: threading.Event = field(default_factory=threading.Event)

    @property
    def plan(self) -> Plan:
        """The run's plan."""
        return self.part.plan

    @property
    def ledger(self) -> Ledger:
        """The coordinator's book."""
        return self.part.ledger

    @property
    def finished_round(self) -> int:
        """The last round that is done."""
        return self.part.finished_round

    def client_app(self) -> ClientApp:
        """Return the ClientApp of all simulated nodes."""
        return make_client_app(self.open_party)

    def conduct(self, grid: Grid, observer: Observer) -> dict[str, Any]:
        """Run over `grid`, whose nodes run `client_app`."""
        engine = FlowerEngine(
            grid=grid,
            nodes={},
            time_limit_seconds=self.time_limit_seconds,
            absent=rehearsed(self.part.settings),
            stopped=self.stopped,
        )
        return conduct(self.part, engine, observer, join_seconds=self.join_seconds)

    def execute(self, observer: Observer) -> dict[str, Any]:
        """Run on Flower's simulation; return the summary, which is also in the folder.

        Ctrl-C ends the run at the next exchange and raises `KeyboardInterrupt`; a second one ends it at once.

        Raises:
            RunError: as a run of one process; or Flower ended before it called the run.
        """
        outcome: dict[str, Any] = {}
        server_app = ServerApp()

        @server_app.main()
        def main(grid: Grid, context: Context) -> None:
            try:
                outcome["summary"] = self.conduct(grid, observer)
            except BaseException as error:
                outcome["error"] = error

        with _stopping(self.stopped):
            _simulate(server_app, self.client_app(), self.part.settings)
        if "error" in outcome:
            raise outcome["error"]
        if "summary" not in outcome:
            raise RunError("Flower's simulation ended before it began the run: flwr or ray could not start")
        return outcome["summary"]


def prepare_simulation(
    settings: RunSettings, directory: Path, *, config_text: str, resume: bool = False
) -> SimulatedRun:
    """Build a run in `directory` for Flower's simulation; refuses whatever cannot be honoured.

    Raises:
        ConfigError: the settings need one process, or cannot be honoured.
    """
    part = prepare_separate(settings, directory, config_text=config_text, resume=resume, evaluate=True)
    nodes = Rehearsal(part.folder.root.absolute(), config_text, settings.run.device)
    return SimulatedRun(part=part, open_party=nodes)


def _simulate(server_app: ServerApp, client_app: ClientApp, settings: RunSettings) -> None:
    """Start Flower's simulation without a word on the terminal, and wait for its end."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    from flwr.simulation import run_simulation

    logging.getLogger("flwr").setLevel(logging.CRITICAL + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_simulation(
            server_app,
            client_app,
            settings.federation.clients,
            backend_config={
                "init_args": {
                    "num_cpus": usable_cores(),
                    "logging_level": "CRITICAL",
                    "log_to_driver": False,
                },
                "client_resources": {"num_cpus": 1, "num_gpus": float(_on_gpu(settings))},
            },
        )


def _on_gpu(settings: RunSettings) -> bool:
    """Tell whether the nodes compute on a GPU: then one process for each."""
    import torch

    return settings.run.device != "cpu" and torch.cuda.is_available()


@contextmanager
def _stopping(stopped: threading.Event) -> Iterator[None]:
    """Let the first Ctrl-C set `stopped`; the next one is as it was before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def stop(number: int, frame: Any) -> None:
        stopped.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
