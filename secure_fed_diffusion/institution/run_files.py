"""What one institution keeps of one run: a folder that `sfd audit` reads like a run's own.

`agreement.json` is what was agreed; `config.toml` the same configuration, naming this institution's own
budget; `ledger.jsonl` its own charges; `roster.json` and `clients/NNNN/peers.jsonl` what its peers signed;
`client/` where it stands between two frames.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

from secure_fed_diffusion import config
from secure_fed_diffusion.dp import chain
from secure_fed_diffusion.dp.ledger import Ledger
from secure_fed_diffusion.dp.terms import Terms
from secure_fed_diffusion.errors import FrameError, PolicyError, RunError
from secure_fed_diffusion.federation.heads import read_heads, require_own_word, write_roster
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.settings import RunSettings
from secure_fed_diffusion.federation.state import forget
from secure_fed_diffusion.federation.testimony import CLIENTS, PEERS, ROSTER
from secure_fed_diffusion.institution.agreement import Agreement
from secure_fed_diffusion.institution.budget import (
    LEDGER,
    RUNS,
    SPENT,
    Budget,
    close_by_hand,
    own_charges,
)
from secure_fed_diffusion.secagg import Roster

AGREEMENT = "agreement.json"


class RunFiles:
    """The paths of one run, and how it is begun and gone on with.

    `flat`: `home` is that of this run alone, as a rehearsal has it within the coordinator's folder.
    """

    def __init__(self, home: Path, run_id: str, client_id: int, *, flat: bool = False) -> None:
        self.root = home if flat else home / RUNS / run_id
        self._run_id, self._client_id, self._flat = run_id, client_id, flat

    @property
    def ledger(self) -> Path:
        """This institution's own charges."""
        return self.root / LEDGER

    @property
    def client(self) -> Path:
        """Where the client stands between two frames."""
        return self.root / "client"

    @property
    def peers(self) -> Path:
        """What the other clients signed."""
        return self.root / PEERS if self._flat else self.root / CLIENTS / f"{self._client_id:04d}" / PEERS

    def agreement(self) -> Agreement | None:
        """Return what was agreed, or None before that.

        Raises:
            RunError: the file was damaged.
        """
        path = self.root / AGREEMENT
        if not path.exists():
            return None
        try:
            found = Agreement.decode(path.read_bytes())
        except FrameError as error:
            raise RunError(f"{path} was altered: {error}") from None
        return found if found.run_id == self._run_id else None

    def begin(
        self, agreement: Agreement, settings: RunSettings, roster: Roster, budget: Budget | None
    ) -> None:
        """Write what was agreed, once; the agreement comes last, so that it is never there without the rest.

        Raises:
            PolicyError: another agreement stands under this run's id.
        """
        known = self.agreement()
        if known is not None:
            if known != agreement:
                raise PolicyError(
                    f"the coordinator changes run {self._run_id[:8]}… after it was joined: agreement "
                    f"{known.digest[:16]}… stands, {agreement.digest[:16]}… was proposed"
                )
            return
        self.peers.parent.mkdir(parents=True, exist_ok=True)
        write_roster(self.root / ROSTER, roster)
        privacy = replace(
            settings.privacy,
            shared_ledger=None if budget is None else str(budget.path),
            shared_epsilon=None if budget is None else budget.settings.epsilon,
        )
        text = config.dump(replace(settings, privacy=privacy))
        (self.root / "config.toml").write_text(text, encoding="utf-8")
        fresh = self.root / (AGREEMENT + ".new")
        with fresh.open("wb") as file:
            file.write(agreement.encode())
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self.root / AGREEMENT)
        chain.sync_folder(self.root)

    def has_ledger(self) -> bool:
        """Tell whether this institution's ledger of the run was begun, and is still there."""
        return self.ledger.exists() and b"\n" in self.ledger.read_bytes()

    def open_ledger(self, plan: Plan, config_digest: str) -> Ledger:
        """Begin this institution's ledger of the run, or go on with it.

        Raises:
            LedgerError: a line of it was altered.
            RunError: another process writes it, or it was begun under another plan.
        """
        terms = own_terms(plan, self._run_id, config_digest, self._client_id)
        if not self.has_ledger():
            return Ledger.create(self.ledger, terms)
        ledger = Ledger.open(self.ledger)
        if ledger.terms != terms:
            ledger.close()
            raise RunError(f"{self.ledger} was begun under another plan than {AGREEMENT} beside it gives")
        return ledger


def close_run(home: Path, run_id: str) -> bool:
    """End a run by its ledger and the institution's alone; False: it was never joined.

    The policy, the keys and the records are not asked, so it works whatever they have become.

    Raises:
        RunError: the node has it open, or its ledger is gone: it stays counted in full.
        LedgerError: a line of a ledger was altered, or this institution signed more than it holds.
    """
    files = RunFiles(home, run_id, 0)
    if not re.fullmatch(r"[0-9a-f]{32}", run_id) or not files.root.exists():
        return False
    if not files.ledger.exists() or not (home / SPENT).exists():
        raise RunError(f"run {run_id} has no ledger any more, or {SPENT} is gone: nothing was changed")
    with Ledger.open(files.ledger) as ledger:
        _require_own_words(files, ledger)
        known = close_by_hand(home / SPENT, ledger)
        forget(files.client)
    return known


def _require_own_words(files: RunFiles, ledger: Ledger) -> None:
    """Hold a ledger to the heads that its owner signed, wherever the run's folder keeps one."""
    for path in files.root.rglob(PEERS):
        for head in read_heads(path):
            if head.client_id == ledger.terms.owner:
                require_own_word(head, ledger)


def own_terms(plan: Plan, run_id: str, config_digest: str, client_id: int) -> Terms:
    """Return the terms of one client's own ledger."""
    return replace(
        plan.terms(run_id, config_digest), owner=client_id, max_charges=own_charges(plan, client_id)
    )
