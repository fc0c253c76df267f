"""The server's end of a run over Flower: who takes part behind which node, and the run itself.

Every node is shown the agreement; one that accepts signs it with its key on the roster, and that says
which client it is.  `Coordinator` is the engine of the run: it names the run in each frame, and a client
whose node is gone is looked for among the nodes that came since.

Not protected against: a node that accepts and then stays silent is a dropout, like one that never accepts.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from secure_fed_diffusion.engines.flower import FlowerEngine
from secure_fed_diffusion.engines.in_process import Replies
from secure_fed_diffusion.errors import LedgerError, RunError, SecureAggregationError
from secure_fed_diffusion.federation.heads import SignedHead
from secure_fed_diffusion.federation.run import Observer
from secure_fed_diffusion.federation.server_part import ServerPart
from secure_fed_diffusion.institution.agreement import Agreement
from secure_fed_diffusion.institution.messages import Acceptance, enclose, join, leave
from secure_fed_diffusion.secagg import Roster


class _Enclosed(Mapping[int, bytes]):
    """Frames that name their run, each made when it is asked for: a model's are large."""

    def __init__(self, run_id: str, frames: Mapping[int, bytes]) -> None:
        self._run_id, self._frames = run_id, frames

    def __getitem__(self, client_id: int) -> bytes:
        return enclose(self._run_id, self._frames[client_id])

    def __iter__(self) -> Iterator[int]:
        return iter(self._frames)

    def __len__(self) -> int:
        return len(self._frames)


@dataclass(slots=True, kw_only=True)
class Coordinator:
    """An `Engine` that knows its nodes by the clients that answer behind them."""

    engine: FlowerEngine  # its `nodes` are filled in here
    agreement: Agreement
    roster: Roster
    join_seconds: float
    nodes: dict[int, int] = field(default_factory=dict)  # by client
    refusals: dict[int, str] = field(default_factory=dict)  # by node, of this agreement

    def gather(self, wanted: int, least: int) -> None:
        """Show the agreement to all nodes until `wanted` have accepted, or the time for it is over.

        Raises:
            RunError: fewer than `least` have accepted; with what the others said.
        """
        ends = self.engine.clock() + self.join_seconds
        while True:
            self._join(max(1.0, ends - self.engine.clock()))
            if len(self.nodes) >= wanted:
                return
            if self.engine.clock() >= ends or self._refused_all():
                break
            if self.engine.stopped.wait(self.engine.poll_seconds):
                raise KeyboardInterrupt
        if len(self.nodes) < least:
            said = "; ".join(dict.fromkeys(self.refusals.values())) or "the others gave no answer"
            raise RunError(
                f"{len(self.nodes)} of {wanted} clients joined within {self.join_seconds:g} s, the run needs "
                f"{least}: {said}"
            )

    def exchange(self, frames: Mapping[int, bytes], *, round: int, phase: str) -> Replies:  # noqa: A002
        """Carry the frames of this run to the nodes of their clients."""
        if any(client_id not in self.nodes for client_id in frames) or self._gone(frames):
            self._join(self.join_seconds)
        return self.engine.exchange(_Enclosed(self.agreement.run_id, frames), round=round, phase=phase)

    def dismiss(self) -> dict[int, bytes]:
        """Tell every client that the run is over; return the signed heads of their ledgers."""
        farewell = dict.fromkeys(self.nodes, leave(self.agreement.run_id))
        engine = replace(self.engine, time_limit_seconds=self.join_seconds)
        return engine.exchange(farewell, round=0, phase="leave").frames

    def _online(self) -> set[int]:
        return set(self.engine.grid.get_node_ids())

    def _gone(self, clients: Collection[int]) -> bool:
        """Tell whether a node of `clients` has left while another, unknown one has come."""
        online = self._online()
        gone = any(self.nodes[client_id] not in online for client_id in clients)
        return gone and bool(online - set(self.nodes.values()) - set(self.refusals))

    def _refused_all(self) -> bool:
        return bool(self.refusals) and self._online() <= set(self.refusals) | set(self.nodes.values())

    def _join(self, seconds: float) -> None:
        """Show the agreement to the nodes that have not answered it yet."""
        unknown = self._online() - set(self.nodes.values()) - set(self.refusals)
        if not unknown:
            return
        engine = replace(
            self.engine,
            nodes={node: node for node in unknown},
            time_limit_seconds=min(seconds, self.join_seconds),
        )
        replies = engine.exchange(dict.fromkeys(unknown, join(self.agreement)), round=0, phase="join")
        self.refusals |= {node: str(error) for node, error in replies.refusals.items()}
        for node, frame in sorted(replies.frames.items()):
            try:
                self.nodes[Acceptance.decode(frame).require(self.agreement, self.roster)] = node
            except SecureAggregationError as error:
                self.refusals[node] = str(error)


def conduct(
    part: ServerPart,
    engine: FlowerEngine,
    observer: Observer,
    *,
    join_seconds: float,
) -> dict[str, Any]:
    """Gather the clients, run the rounds that are left, and take leave; return the run's summary.

    Raises:
        RunError: too few clients joined, or a round could not be repeated any more.
    """
    federation = part.settings.federation
    agreement = Agreement.of(
        part.plan,
        config_text=part.config_text,
        run_id=part.run_id,
        class_names=part.class_names,
        roster=part.roster,
    )
    coordinator = Coordinator(
        engine=engine, agreement=agreement, roster=part.roster, join_seconds=join_seconds
    )
    engine.nodes = coordinator.nodes
    started = time.perf_counter()
    coordinator.gather(federation.clients, federation.min_survivors)
    observer.note(
        f"{len(coordinator.nodes)} of {federation.clients} clients joined, "
        f"{time.perf_counter() - started:.1f} s; agreement {agreement.digest[:16]}…"
    )
    for reason in dict.fromkeys(coordinator.refusals.values()):
        observer.note(f"a node refused: {reason}")
    summary = part.run(coordinator).execute(observer)
    for client_id, frame in coordinator.dismiss().items():
        try:
            if frame:
                part.heads.learn(SignedHead.decode(frame))
        except (LedgerError, SecureAggregationError) as error:
            observer.note(f"client {client_id}, on leaving: {error}")
    part.heads.save()
    return summary
