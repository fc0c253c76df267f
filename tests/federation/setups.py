"""A small federation whose clients train nothing, for set-ups of several rounds and whoever abuses them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from secure_fed_diffusion.federation.messages import (
    Announcement,
    openings,
)
from secure_fed_diffusion.federation.rounds import Outcome, run_rounds
from secure_fed_diffusion.federation.server import Server
from secure_fed_diffusion.secagg import codec
from secure_fed_diffusion.secagg.messages import ShareDelivery
from secure_fed_diffusion.secagg.phases import Kind
from tests.federation.small import Federation, federation, settings_for

LONG = ("warmup.draws=0", "modes.none.rounds=5")


class Quick:
    """Stands where a contributor stands: a constant that says whose it is."""

    def __init__(self, client_id: int, plan: Any) -> None:
        self.client_id, self.plan = client_id, plan

    def vector(self, release: Any, weights: Any, *, number: int, attempt: int) -> Any:
        return np.full(release.length, 10**self.client_id, dtype=np.uint64)


def quick(rounds_per_setup: int = 5, *overrides: str) -> Federation:
    """Six clients, five a round, at least four survivors; no time is spent on training."""
    settings = settings_for("none", f"secagg.rounds_per_setup={rounds_per_setup}", *LONG, *overrides)
    it = federation(settings)
    for client_id, client in it.clients.items():
        client._contributor = Quick(client_id, it.plan)
    return it


def outcomes(it: Federation, notes: list[str] | None = None) -> Iterator[Outcome]:
    return run_rounds(
        it.plan, it.server, it.engine, it.book, first=1, note=print if notes is None else notes.append
    )


def require_exact(outcome: Outcome) -> None:
    """Check that a sum holds exactly the survivors."""
    assert set(outcome.total.tolist()) == {sum(10**c for c in outcome.survivors)}


def another_server(it: Federation) -> Server:
    """A server that was restarted: its weights are the same, it remembers no set-up."""
    return Server("run", it.plan, it.server.model, None, roster=it.clients[0]._roster)  # type: ignore[arg-type]


def opened(it: Federation, *, upto: int = 1) -> Mapping[int, bytes]:
    """Run the set-up and the rounds before `upto`; return the frames that open that round."""
    loop = outcomes(it)
    for _ in range(upto - 1):
        next(loop)
    outgoing = it.server.open(upto, 0)
    while it.server.phase != "masked_input":
        outgoing = it.server.take({c: it.clients[c].handle(frame) for c, frame in outgoing.items()})
    return outgoing


def delivery(it: Federation, slot: int, announcement: Announcement, cohort: tuple[int, ...]) -> Any:
    """Open a slot as a server that minds no rule would, and return the frames."""
    machine = it.server._sums.machine
    session = machine.session
    bound = session.slot(
        slot, model_digest=announcement.binding, participants=cohort, commitment=machine.commitment
    )
    empty = ShareDelivery(sealed={}, masks_only=[]).encode(session.params)
    frames = {
        c: codec.pack(Kind.SHARE_DELIVERY, session_id=bound.id, client_id=c, payload=empty) for c in cohort
    }
    return openings(slot, announcement, frames)


def model(it: Federation, value: float = 0.0) -> np.ndarray:
    return np.full(it.plan.dimension, value, dtype=np.float32)
