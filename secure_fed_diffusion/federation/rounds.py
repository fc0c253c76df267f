"""The loop that joins the clients and the server through an engine, round by round.

A round is a sequence of exchanges, frames out and frames back, until the server knows its sum.  A round
that fails after frames left is charged and done again under a new attempt, with fresh noise and a fresh
sample, as often as the plan reserved.

Exchanges are what a round waits for.  Each with its own key set-up takes 4 (5 under the profile active); one
in a set-up for several rounds takes 2 (3), and the first of them the set-up's 2 besides.
"""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion.dp.account import write_prices
from secure_fed_diffusion.dp.ledger import Ledger
from secure_fed_diffusion.engines.in_process import Engine
from secure_fed_diffusion.errors import PrivacyError, RunError, SecureAggregationError
from secure_fed_diffusion.federation.messages import count_bytes
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.schedule import PHASES, Round
from secure_fed_diffusion.federation.server import Server
from secure_fed_diffusion.secagg.phases import ROUND_START, SETUP_PHASES

Note = Callable[[str], None]


class Attempts(Protocol):
    """The part of a ledger that the loop needs."""

    def attempts(self, round: int) -> int:  # noqa: A002
        """Return the first attempt at a round, counted from 0, that was not made."""

    def paid(self, round: int) -> int:  # noqa: A002
        """Return at how many attempts of a round somebody was charged."""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """One finished round, as the server lived it."""

    planned: Round
    attempt: int
    total: npt.NDArray[np.int64]
    survivors: tuple[int, ...]
    dropped: dict[int, str]
    frames: dict[str, dict[int, bytes]]  # the clients', by phase
    bytes_down: int
    seconds: dict[str, float]

    @property
    def exchanges(self) -> int:
        """How often frames went out and answers were waited for."""
        return len(self.frames)

    @property
    def bytes_up(self) -> int:
        """Bytes that the clients sent."""
        return sum(len(frame) for sent in self.frames.values() for frame in sent.values())


_PARTS = ("clients", "key_setup", "secure_aggregation")


@dataclass(slots=True)
class _Tally:
    """What one attempt has moved so far."""

    frames: dict[str, dict[int, bytes]] = field(default_factory=dict)
    dropped: dict[int, str] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    bytes_down: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_PARTS, 0.0))

    def add(self, phase: str, seconds: float, *, at_clients: bool = False) -> None:
        """Count seconds: what clients take to compute apart from what the protocol takes."""
        computing = at_clients and phase in (ROUND_START, "plain")
        protocol = "key_setup" if phase in SETUP_PHASES else "secure_aggregation"
        self.seconds["clients" if computing else protocol] += seconds


def run_rounds(
    plan: Plan, server: Server, engine: Engine, ledger: Attempts, *, first: int, note: Note
) -> Iterator[Outcome]:
    """Yield each round's outcome from round `first` on; the caller applies it before the next begins.

    Raises:
        RunError: a round failed and no repeat is left of those that the plan reserved.
    """
    repeats: Counter[str] = Counter()  # of this whole run, also what a kill cut short once it was paid for
    for planned in plan.rounds:
        paid, finished = ledger.paid(planned.number), planned.number < first
        repeats[plan.reserve_key(planned.release)] += max(0, paid - 1) if finished else paid
    for planned in plan.rounds[first - 1 :]:
        while True:
            attempt = ledger.attempts(planned.number)
            try:
                yield _attempt(server, engine, planned, attempt)
                break
            except (SecureAggregationError, PrivacyError) as error:
                key, reserved = plan.reserve_key(planned.release), plan.reserved(planned.release)
                if repeats[key] >= reserved:
                    raise RunError(
                        f"round {planned.number} failed, and all repeats that were paid for "
                        f"({key}={reserved}) are used: {error}"
                    ) from error
                repeats[key] += 1
                note(f"round {planned.number}, attempt {attempt}: {error}; trying again")


def _attempt(server: Server, engine: Engine, planned: Round, attempt: int) -> Outcome:
    tally = _Tally()
    outgoing = server.open(planned.number, attempt)
    while outgoing:
        phase = server.phase
        tally.bytes_down += count_bytes(outgoing)
        replies = engine.exchange(outgoing, round=planned.number, phase=phase)
        tally.frames[phase] = replies.frames
        tally.add(phase, replies.client_seconds, at_clients=True)
        for client_id in outgoing:
            if client_id not in replies.frames:
                tally.dropped.setdefault(client_id, phase)
        tally.reasons |= {c: str(error) for c, error in replies.refusals.items()}
        started = time.perf_counter()
        try:
            outgoing = server.take(replies.frames)
        except (SecureAggregationError, PrivacyError) as error:
            raise _with_reasons(error, tally.reasons | server.refused) from error
        tally.add(phase, time.perf_counter() - started)
        for client_id in server.refused:
            tally.dropped.setdefault(client_id, phase)
    for client_id in server.out_of_setup:  # of this round's set-up, or of one before
        tally.dropped.setdefault(client_id, "share_keys")
    started = time.perf_counter()
    total = server.total()
    tally.seconds["server"] = time.perf_counter() - started
    return Outcome(
        planned=planned,
        attempt=attempt,
        total=total,
        survivors=server.survivors,
        dropped={c: phase for c, phase in tally.dropped.items() if c in planned.cohort},
        frames=tally.frames,
        bytes_down=tally.bytes_down,
        seconds=tally.seconds,
    )


def _with_reasons(
    error: SecureAggregationError | PrivacyError, reasons: Mapping[int, str]
) -> SecureAggregationError | PrivacyError:
    """Return the error with what the clients that refused said: a spent budget must not hide behind it."""
    if not reasons:
        return error
    said = "; ".join(f"client {client_id}: {reason}" for client_id, reason in sorted(reasons.items()))
    detailed = copy.copy(error)  # with its culprits
    detailed.args = (f"{error} ({said})",)
    return detailed


def record(plan: Plan, ledger: Ledger, outcome: Outcome) -> dict[str, Any]:
    """Return the line of `metrics.jsonl` that every round has: what it cost and what it moved."""
    mechanism = plan.releases[outcome.planned.release].mechanism
    training = "gradient" if plan.mode in ("central", "distributed") else "update"
    return {
        "round": outcome.planned.number,
        "kind": training if outcome.planned.release in PHASES else outcome.planned.release,
        "mode": plan.mode,
        "epsilon": epsilon_by_view(plan, ledger),
        "delta": plan.privacy.delta,
        "unit": mechanism.unit,
        "relation": mechanism.relation,
        "budget_epsilon": plan.budget_epsilon,
        "guard_view": plan.guard.key,
        "attempt": outcome.attempt,
        "exchanges": outcome.exchanges,
        "cohort": list(outcome.planned.cohort),
        "survivors": list(outcome.survivors),
        "dropped": {str(client_id): phase for client_id, phase in outcome.dropped.items()},
        "bytes_up": outcome.bytes_up,
        "bytes_down": outcome.bytes_down,
        # The clients' own seconds grow with how many records they drew, which is private.
        "seconds": {
            part: round(seconds, 4) for part, seconds in outcome.seconds.items() if part != "clients"
        },
    }


def epsilon_by_view(plan: Plan, ledger: Ledger) -> dict[str, dict[str, float | None]]:
    """Return {view: {"pld": epsilon, "rdp": epsilon}} of the client that spent most; None: no guarantee.

    It holds if failures depend on no output (`SPENT_ASSUMPTION`): who decides that a round failed after
    seeing its sum chooses how many repeats are counted here.  What a run guarantees is `planned_by_view`.
    """
    return write_prices(
        {
            view.key: {"pld": ledger.epsilon(view, "pld"), "rdp": ledger.epsilon(view, "rdp")}
            for view in plan.views()
        }
    )


def planned_by_view(ledger: Ledger) -> dict[str, dict[str, float | None]] | None:
    """Return the same of all the charges that the ledger's terms reserve; None where none are (mode none)."""
    planned = ledger.terms.planned()
    return None if planned is None else write_prices(planned)
