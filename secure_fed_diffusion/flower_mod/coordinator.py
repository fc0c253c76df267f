"""The server's side of the rounds: key set-ups, the frames of each step, and the mean at the end.

A set-up is made when a round needs one: among the nodes of that round, for as many rounds as the proposal
says.  A later round of the same set-up may ask fewer of them.  Whoever does not answer, answers with an
error, or sends what is no valid frame is out of the round and may be back in the next one; a node that missed
the set-up waits for the next set-up.

Guarantees: what leaves here is the weighted mean of the survivors and the sum of their weights.

Not protected against: a client that lies about its weight or its result; the mean shows no norm.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from ..entropy import Entropy, system
from ..errors import ConfigError, PhaseError, SecureAggregationError, TooFewClientsError
from ..secagg import Roster, SecAggParams, Server
from ..secagg.phases import DONE, ROUND_START, SETUP_PHASES
from . import wire
from .exchanges import Envelope, RoundRecord, exchange, refusal_in
from .proposal import MIN_CLIENTS, Proposal
from .records import Model, config_digest, content_digest

POLL_SECONDS = 0.1
STEP_SECONDS = 120.0
log = logging.getLogger("flwr")
Frames = Mapping[int, bytes]


@dataclass(slots=True)
class _Setup:
    """A key set-up: who is who, and the round that comes next."""

    server: Server
    client_ids: dict[int, int]
    number: int = 0


class Coordinator:
    """Runs secure rounds over a Grid; `history` has one record for each round that was tried.

    `roster` is needed under the profile `active` and refused otherwise; `run_config` is the ServerApp's
    `context.run_config`: clients whose own is another one refuse; `step_seconds` is how long a step
    other than training may take, `poll_seconds` how often replies are looked for.
    """

    def __init__(
        self,
        proposal: Proposal,
        *,
        roster: Roster | None = None,
        run_config: Mapping[str, object] | None = None,
        step_seconds: float | None = STEP_SECONDS,
        poll_seconds: float = POLL_SECONDS,
        entropy: Entropy = system,
    ) -> None:
        if (proposal.profile == "active") != (roster is not None):
            raise ConfigError("the profile active needs a roster, and no other one takes it", key="roster")
        self.proposal = proposal
        self.history: list[RoundRecord] = []
        self._roster = roster
        self.run_config = run_config or {}
        self._entropy = entropy
        self._envelope: Envelope | None = None
        self.poll_seconds = poll_seconds
        self._step_seconds = step_seconds
        self._setup: _Setup | None = None
        self._attempt = 0
        self._known_ids: dict[int, int] = {}
        self._told: set[int] = set()

    def mean(
        self, grid: Grid, messages: Sequence[Message], *, train_seconds: float | None
    ) -> tuple[RecordDict, frozenset[int]]:
        """Train on what the messages hold; return a reply's content with the mean, and the nodes in it.

        Raises:
            SecureAggregationError: the round cannot be completed, or its sum of weights is one that honest
                clients cannot have; the next one makes a new set-up.
            ConfigError: the messages are not all the same, or the proposal does not suit them.
            DataError: no model in them.
        """
        record = RoundRecord(round=len(self.history) + 1, n_clients=len(messages))
        self.history.append(record)
        started = time.monotonic()
        try:
            return self._round(grid, messages, train_seconds)
        except TooFewClientsError as error:
            self._setup = None
            said = "; ".join(filter(None, [str(error), record.commonest_refusal()]))
            record.error = f"{type(error).__name__}: {said}"
            raise TooFewClientsError(said, culprits=error.culprits) from error
        except Exception as error:
            self._setup = None
            record.error = f"{type(error).__name__}: {error}"
            raise
        finally:
            waited = sum(one.seconds for one in record.exchanges)
            record.server_seconds = time.monotonic() - started - waited

    def _round(
        self, grid: Grid, messages: Sequence[Message], train_seconds: float | None
    ) -> tuple[RecordDict, frozenset[int]]:
        content, nodes = messages[0].content, [message.metadata.dst_node_id for message in messages]
        self._envelope = envelope = Envelope.of(messages[0])
        if any(Envelope.of(message) != envelope for message in messages):
            raise ConfigError("all clients of a round must be asked the same", key="strategy")
        asked = {"message_type": envelope.message_type, "group_id": envelope.group_id}
        digest = content_digest(content, **asked)
        if any(m.content is not content and content_digest(m.content, **asked) != digest for m in messages):
            raise ConfigError("all clients of a round must be asked the same", key="strategy")
        model = Model.of(content)
        setup, frames, participants = self._open(grid, nodes, model, digest)

        def training(frame: bytes) -> RecordDict:
            request = wire.request(
                ROUND_START,
                session=setup.server.session.id,
                frame=frame,
                number=setup.number,
                participants=list(participants),
            )
            return RecordDict({**content, **request})

        frames = self._step(grid, setup, frames, training, train_seconds)
        while setup.server.phase != DONE:
            frames = self._step(grid, setup, frames, self._plain(setup), self._step_seconds)
        setup.number += 1
        mean = self._decode(setup.server, model)
        survivors = [node for node, i in setup.client_ids.items() if i in setup.server.survivors]
        self.history[-1].survivors = tuple(sorted(survivors))
        return mean, frozenset(survivors)

    def _open(
        self, grid: Grid, nodes: Collection[int], model: Model, digest: bytes
    ) -> tuple[_Setup, Frames, tuple[int, ...]]:
        """Return a set-up, the frames that open this round of it, and who is asked to take part."""
        dimension = len(model.values) + len(self.proposal.metrics) + 1
        setup = self._setup
        if setup is not None and self._pays_for(setup, nodes, dimension):
            participants = tuple(sorted(setup.client_ids[node] for node in nodes))
            try:
                frames = setup.server.begin(setup.number, model_digest=digest, participants=participants)
            except TooFewClientsError:
                log.info("secure aggregation: too few of this round's nodes are in the set-up; a new one")
            else:
                return setup, frames, participants
        client_ids = self._identify(grid, nodes)
        if len(client_ids) < MIN_CLIENTS:
            raise TooFewClientsError(f"{len(client_ids)} of {len(nodes)} nodes said who they are")
        self.proposal.grid(len(client_ids))  # no headroom: say so before anybody trains
        terms = wire.Terms(
            proposal=self.proposal,
            round=len(self.history),
            attempt=self._attempt,
            cohort=tuple(sorted(client_ids.values())),
            dimension=dimension,
            model_digest=digest,
            config_digest=config_digest(self.run_config),
            nonce=self._entropy(wire.NONCE_BYTES),
        )
        self._attempt += 1
        session = terms.session(run_id=grid.run.run_id, roster=self._roster)
        self._tell_what_is_borne(session.params)
        setup = self._setup = _Setup(Server(session), client_ids)
        proposed = {
            client_id: wire.request("advertise", terms=terms.to_json(), client_id=client_id)
            for client_id in session.cohort
        }
        opening: Frames = self._exchange(grid, setup, proposed, self._step_seconds)
        while setup.server.phase in SETUP_PHASES:
            opening = self._step(grid, setup, opening, self._plain(setup), self._step_seconds)
        return setup, opening, session.cohort

    def _tell_what_is_borne(self, params: SecAggParams) -> None:
        """Log how many dropouts a set-up bears, once for each number of clients."""
        if params.n_clients in self._told:
            return
        self._told.add(params.n_clients)
        spare = self.proposal.spare(params.n_clients)
        said = "secure aggregation: a round among %d clients bears %d dropouts (threshold %d of %d)"
        level = logging.INFO if spare else logging.WARNING
        log.log(level, said, params.n_clients, spare, params.threshold, params.n_holders)

    def _pays_for(self, setup: _Setup, nodes: Collection[int], dimension: int) -> bool:
        params = setup.server.session.params
        return (
            setup.number < params.n_rounds
            and params.dimension == dimension
            and set(nodes) <= setup.client_ids.keys()
            and len(nodes) >= params.threshold
        )

    def _identify(self, grid: Grid, nodes: Collection[int]) -> dict[int, int]:
        """Return each node's client id: what it says under `active`, else its place among the nodes."""
        roster, known = self._roster, self._known_ids
        if roster is None:
            return {node: index for index, node in enumerate(sorted(nodes))}

        def take(node: int, reply: Message) -> None:
            client_id = wire.field(reply.content, "client_id", int)
            if client_id not in roster or client_id in known.values():
                raise SecureAggregationError(f"client {client_id} is not on the roster, or is another node")
            known[node] = client_id

        unknown = [node for node in nodes if node not in known]
        if unknown:
            requests = {node: wire.request(wire.IDENTIFY) for node in unknown}
            self._send(grid, wire.IDENTIFY, requests, take, self._step_seconds)
        return {node: known[node] for node in nodes if node in known}

    def _step(
        self,
        grid: Grid,
        setup: _Setup,
        frames: Frames,
        request: Callable[[bytes], RecordDict],
        seconds: float | None,
    ) -> Frames:
        """Run the phase that these frames open; return the frames that open the next."""
        requests = {client_id: request(frame) for client_id, frame in frames.items()}
        return self._exchange(grid, setup, requests, seconds)

    def _plain(self, setup: _Setup) -> Callable[[bytes], RecordDict]:
        phase, session_id = setup.server.phase, setup.server.session.id
        return lambda frame: wire.request(phase, session=session_id, frame=frame)

    def _exchange(
        self, grid: Grid, setup: _Setup, requests: Mapping[int, RecordDict], seconds: float | None
    ) -> Frames:
        def take(node: int, reply: Message) -> None:
            setup.server.receive(setup.client_ids[node], wire.frame_of(reply.content))

        by_node = {node: requests[i] for node, i in setup.client_ids.items() if i in requests}
        self._send(grid, setup.server.phase, by_node, take, seconds)
        return setup.server.advance()

    def _send(
        self,
        grid: Grid,
        step: str,
        requests: Mapping[int, RecordDict],
        take: Callable[[int, Message], None],
        seconds: float | None,
    ) -> None:
        record, envelope = self.history[-1], self._envelope
        if envelope is None:
            raise PhaseError("no round is under way")

        def take_or_leave_out(node: int, reply: Message) -> None:
            said = refusal_in(reply)
            try:
                if not said:
                    take(node, reply)
            except SecureAggregationError as error:
                said = f"{type(error).__name__}: {error}"
            if said:
                kept = record.leave_out(node, said)
                log.warning("secure aggregation: node %d out of %s: %s", node, step, kept)

        record.exchanges.append(
            exchange(
                grid,
                step,
                requests,
                take=take_or_leave_out,
                envelope=envelope,
                seconds=seconds,
                poll_seconds=self.poll_seconds,
            )
        )

    def _decode(self, server: Server, model: Model) -> RecordDict:
        proposal, total = self.proposal, server.total
        total_weight = int(total[-1])
        largest = proposal.largest_weight
        if not 1 <= total_weight <= len(server.survivors) * largest:
            raise SecureAggregationError(
                f"the survivors' weights add up to 0, or to more than {largest} each"
            )
        grid = proposal.grid(len(server.session.cohort))
        mean = grid.decode(total[:-1]) * (largest / total_weight)
        values, metrics = mean[: len(model.values)], mean[len(model.values) :]
        return model.reply(
            model.values + values,
            weight_key=proposal.weight_key,
            total_weight=total_weight,
            metrics=dict(zip(proposal.metrics, metrics.tolist(), strict=True)),
        )
