"""Is everything that leaves a client charged before it leaves, and refused beyond the budget?"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from secure_fed_diffusion import dp
from secure_fed_diffusion.dp.account import Charge
from secure_fed_diffusion.dp.ledger import verify
from secure_fed_diffusion.errors import BudgetExceededError, LedgerError, SecureFedDiffusionError
from secure_fed_diffusion.federation import contribution
from secure_fed_diffusion.federation.contribution import Contributor
from secure_fed_diffusion.federation.messages import unwrap
from secure_fed_diffusion.training import dpsgd
from tests.mutants.laboratory import ROUNDS, Laboratory
from tests.mutants.questions.check import Table

LEDGER = Table()
check = LEDGER.check


@check("ledger: before the frame", "When a contribution leaves, its charge is in the file and synced.")
def _charged_first(lab: Laboratory) -> str | None:
    it = lab.federation("distributed")
    synced: list[int] = []
    late: list[int] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        synced.append(it.ledger_path.read_bytes().count(b"\n"))

    def watched(client_id: int, handler: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
        def handle(frame: bytes) -> bytes:
            answer = handler(frame)
            if frame[0] != 0 and unwrap(frame)[0] == "masked_input":
                lines = it.ledger_path.read_text().splitlines()[: synced[-1]]
                if not any(json.loads(line).get("client_id") == client_id for line in lines):
                    late.append(client_id)
            return answer

        return handle

    it.engine.handlers = {c: watched(c, handler) for c, handler in it.engine.handlers.items()}
    with patch.object(os, "fsync", fsync):
        synced.append(it.ledger_path.read_bytes().count(b"\n"))
        next(it.rounds())
    it.ledger.close()
    return f"clients {late} sent a contribution without a synced charge" if late else None


def _charged_steps(lab: Laboratory, mode: str, *overrides: str) -> str | None:
    """Count what computed noise for a release, and hold it against the charges of that client and round."""
    it = lab.federation(mode, *overrides)
    used: dict[tuple[int, int], int] = {}
    asked = list[int]()
    share, step, vector = contribution.draw_noise, dpsgd.discrete_gaussian, Contributor.vector

    def counted(honest: Callable[..., Any]) -> Callable[..., Any]:
        def draw(*arguments: Any) -> Any:
            asked.append(1)
            return honest(*arguments)

        return draw

    def watched(self: Contributor, release: Any, weights: Any, *, number: int, attempt: int) -> Any:
        asked.clear()
        answer = vector(self, release, weights, number=number, attempt=attempt)
        used[self.client_id, number] = len(asked)
        return answer

    with (
        patch.object(contribution, "draw_noise", counted(share)),
        patch.object(dpsgd, "discrete_gaussian", counted(step)),
        patch.object(Contributor, "vector", watched),
    ):
        for _ in it.rounds():
            pass
    charged: dict[tuple[int, int], int] = {}
    for line in map(json.loads, it.ledger_path.read_text().splitlines()[1:]):
        key = line["client_id"], line["round"]
        charged[key] = charged.get(key, 0) + line["steps"]
    missing = sum(max(0, n - charged.get(key, 0)) for key, n in used.items())
    return f"mode {mode}: {missing} steps left without a charge" if missing else None


@check("ledger: covers what left", "Every use of a mechanism, local steps included, has its charge.")
def _covered(lab: Laboratory) -> str | None:
    runs = (("distributed",), ("local", "warmup.covariances.draws=1"))
    return next(filter(None, (_charged_steps(lab, *run) for run in runs)), None)


@check("sfd audit: ledger", "The audit recomputes the chain and each ε of a run's ledger from the file.")
def _verified(lab: Laboratory) -> str | None:
    played = lab.distributed
    try:
        report = verify(played.it.ledger_path)
    except LedgerError as error:
        return str(error)
    charged = ROUNDS * len(played.it.clients) + len(played.it.clients)
    return None if report.lines == charged + 1 else f"{report.lines - 1} charges of {charged}"


@check("ledger: refuses", "A charge beyond the reserved steps, beyond the budget, or made twice is refused.")
def _refused(lab: Laboratory) -> str | None:
    it = lab.federation("distributed")
    most = it.plan.max_charges()["training"]
    with it.ledger as ledger:
        for number in range(most):
            ledger.charge(0, round=number + 1, attempt=0, mechanism="training")
        for number, what in ((most + 1, "beyond the reserve"), (1, "made twice")):
            try:
                ledger.charge(0, round=number, attempt=0, mechanism="training")
            except SecureFedDiffusionError:
                continue
            return f"a charge {what} was taken"
    terms = replace(it.plan.terms("run", "digest"), budget_epsilon=1.0)
    with dp.Ledger.create(lab.new_folder() / "ledger.jsonl", terms) as ledger:
        try:
            ledger.price(Charge(client_id=0, round=1, attempt=0, mechanism="training", steps=most))
        except BudgetExceededError:
            return None
    return "a charge beyond the budget was taken"
