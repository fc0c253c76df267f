"""The coordinator's part of a run: its plan, its book or ledger, its model; it opens no file of data.

`prepare_server` builds it in the run's folder, beginning it or going on with it; `ServerPart.run` adds the
engine that reaches the clients.  With `separate` the clients are other processes with ledgers of their own,
and the server's ledger is a `Book` of what it asked for.

Not protected against: two coordinators in one folder on two machines; the ledger's lock is this machine's.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secure_fed_diffusion.dp.account import Charge
from secure_fed_diffusion.dp.ledger import Ledger
from secure_fed_diffusion.engines.in_process import Engine
from secure_fed_diffusion.entropy import Entropy, system
from secure_fed_diffusion.errors import BudgetExceededError
from secure_fed_diffusion.federation import checkpoint
from secure_fed_diffusion.federation.assessment import Assessment, SamplesOnly
from secure_fed_diffusion.federation.book import Book, BookedServer
from secure_fed_diffusion.federation.folder import (
    Folder,
    Identities,
    adopt_roster,
    cut_metrics,
    open_identities,
    open_ledger,
)
from secure_fed_diffusion.federation.heads import HeadBook
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.run import Run
from secure_fed_diffusion.federation.server import Server
from secure_fed_diffusion.federation.settings import RunSettings
from secure_fed_diffusion.federation.shared_budget import SharedBudget
from secure_fed_diffusion.federation.testimony import require_whole
from secure_fed_diffusion.federation.workbench import Workbench
from secure_fed_diffusion.secagg.signing import Roster


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPart:
    """Everything of a run but its clients; `identities` only where one machine plays them all."""

    settings: RunSettings
    folder: Folder
    plan: Plan
    server: Server
    ledger: Ledger
    book: Book | None
    roster: Roster
    heads: HeadBook
    identities: Identities | None
    assessment: Assessment | SamplesOnly
    class_names: tuple[str, ...]
    config_text: str
    finished_round: int
    unmeasured: dict[str, Any] | None
    shared: SharedBudget | None

    @property
    def run_id(self) -> str:
        """The run's name, in every session and every agreement."""
        return self.ledger.terms.run_id

    def run(self, engine: Engine) -> Run:
        """Return the run over `engine`."""
        return Run(
            settings=self.settings,
            folder=self.folder,
            plan=self.plan,
            server=self.server,
            engine=engine,
            ledger=self.ledger,
            book=self.book,
            assessment=self.assessment,
            class_names=self.class_names,
            finished_round=self.finished_round,
            unmeasured=self.unmeasured,
            shared=self.shared,
        )


def prepare_server(
    settings: RunSettings,
    directory: Path,
    *,
    plan: Plan,
    bench: Workbench,
    assessment: Assessment | SamplesOnly,
    dataset_name: str,
    class_names: tuple[str, ...],
    config_text: str,
    resume: bool = False,
    separate: bool = False,
    roster: Roster | None = None,
    entropy: Entropy = system,
) -> ServerPart:
    """Begin the run's folder, or go on with it; nothing is sent.

    `bench` is a scratch one, whose model has the initial weights.  Without a `roster` this machine plays
    every client, and makes their keys in the folder.

    Raises:
        RunError: the folder is taken, or does not belong to these settings.
        BudgetExceededError: too few clients could pay for the next round.
        LedgerError: the ledger lacks what a client signed, or a round that is finished.
    """
    folder = Folder(directory)
    model = copy.deepcopy(bench.model)
    shared = SharedBudget.of(plan, dataset_name)
    if shared is not None and not resume:
        shared.require()
    ledger, run_id = open_ledger(folder, plan, config_text, resume=resume, by_server=separate)
    try:
        if roster is None:
            identities = open_identities(folder, ledger, settings.federation.clients, entropy=entropy)
            roster, heads = identities.roster, identities.heads
        else:
            identities, heads = None, adopt_roster(folder, ledger, roster)
        book = Book(ledger, folder.attempts) if separate else None
        parts = {"heads": heads, "roster": roster, "entropy": entropy}
        server: Server = (
            Server(run_id, plan, model, bench.objective, **parts)
            if book is None
            else BookedServer(run_id, plan, model, bench.objective, book=book, **parts)
        )
        saved = checkpoint.load(folder.checkpoint)
        unmeasured = None
        if saved is not None:
            server.load_state_dict(saved.state)
            unmeasured = saved.unmeasured
        finished = saved.finished_round if saved else 0
        require_whole(folder.root, ledger, finished)
        _require_affordable(plan, ledger, finished)
        if shared is not None and finished < len(plan.rounds):
            shared.reserve(ledger)
        cut_metrics(folder, finished if unmeasured is None else finished - 1)
        return ServerPart(
            settings=settings,
            folder=folder,
            plan=plan,
            server=server,
            ledger=ledger,
            book=book,
            roster=roster,
            heads=heads,
            identities=identities,
            assessment=assessment,
            class_names=class_names,
            config_text=config_text,
            finished_round=finished,
            unmeasured=unmeasured,
            shared=shared,
        )
    except BaseException:
        ledger.close()  # its lock would outlive a refusal
        raise


def _require_affordable(plan: Plan, ledger: Ledger, finished: int) -> None:
    """Refuse to go on where too few clients can pay for the next round.

    Raises:
        BudgetExceededError: with the reason of the first that cannot.
    """
    if finished == len(plan.rounds):
        return
    planned = plan.rounds[finished]
    refusals = []
    for client_id in planned.cohort:
        try:
            ledger.price(
                Charge(
                    client_id=client_id,
                    round=planned.number,
                    attempt=ledger.attempts(planned.number),
                    mechanism=planned.release,
                    steps=plan.releases[planned.release].steps,
                )
            )
        except BudgetExceededError as error:
            refusals.append(str(error))
    if len(planned.cohort) - len(refusals) < plan.federation.min_survivors:
        raise BudgetExceededError(f"the budget is spent: {refusals[0]}")
