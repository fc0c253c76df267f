"""The server's side for an app: a strategy to wrap, a workflow to pass, or the Grid below both.

The strategy or workflow stays the app's own: it chooses clients, makes the training messages and takes the
reply.  `SecureGrid` stands between it and the nodes; each round of training comes back as ONE reply that
holds the survivors' weighted mean and an error for each node that is not in it, or as errors alone where the
round failed; then the strategy keeps its model and the next round makes a new set-up.

Not protected against: strategies that need each client's own result or weight (Krum, medians, Flower's
central differential privacy) cannot be served by a mean; those that Flower ships are refused.

Source: flwr 1.41, `Strategy.start`, `default_fit_workflow`, `SecAggPlusWorkflow` (the interface).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.server import strategy as legacy
from flwr.server.workflow import default_workflows
from flwr.serverapp import Grid
from flwr.serverapp import strategy as message_api
from flwr.serverapp.strategy import Result, Strategy
from flwr.supercore.run import Run

from ..errors import ConfigError, SecureAggregationError
from ..secagg import Roster
from .coordinator import POLL_SECONDS, STEP_SECONDS, Coordinator
from .exchanges import RoundRecord, replies
from .proposal import SINGLE_ROUNDS, Proposal

NEED_EACH_RESULT = (
    message_api.Bulyan,
    message_api.FedMedian,
    message_api.FedTrimmedAvg,
    message_api.FedXgbBagging,
    message_api.FedXgbCyclic,
    message_api.MultiKrum,
    message_api.QFedAvg,
    message_api.DifferentialPrivacyServerSideFixedClipping,
    message_api.DifferentialPrivacyServerSideAdaptiveClipping,
    message_api.DifferentialPrivacyClientSideFixedClipping,  # checks that all weights are equal
    message_api.DifferentialPrivacyClientSideAdaptiveClipping,
    legacy.Bulyan,
    legacy.FedMedian,
    legacy.FedTrimmedAvg,
    legacy.FedXgbBagging,
    legacy.FedXgbCyclic,
    legacy.FedXgbNnAvg,
    legacy.Krum,
    legacy.QFedAvg,
    legacy.FaultTolerantFedAvg,  # counts replies, of which there is one here, and errors
    legacy.DPFedAvgAdaptive,
    legacy.DPFedAvgFixed,
    legacy.DifferentialPrivacyServerSideFixedClipping,
    legacy.DifferentialPrivacyServerSideAdaptiveClipping,
    legacy.DifferentialPrivacyClientSideFixedClipping,
    legacy.DifferentialPrivacyClientSideAdaptiveClipping,
)
UNAVAILABLE = 5  # flwr.common.constant.ErrorCode.NODE_UNAVAILABLE
log = logging.getLogger("flwr")


class SecureGrid(Grid):
    """A Grid whose training messages go through secure aggregation; all others pass, polled at our pace.

    `train_seconds` bounds how long training may take, beside the timeout that the strategy gives.
    """

    def __init__(self, grid: Grid, coordinator: Coordinator, *, train_seconds: float | None = None) -> None:
        self._grid, self._coordinator, self._train_seconds = grid, coordinator, train_seconds

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Run a secure round for messages of training; pass the others on."""
        messages = list(messages)
        training = [m for m in messages if m.metadata.message_type.partition(".")[0] == MessageType.TRAIN]
        if not training:
            poll_seconds = self._coordinator.poll_seconds
            return [r for _, r in replies(self._grid, messages, seconds=timeout, poll_seconds=poll_seconds)]
        if len(training) != len(messages):
            raise ConfigError("training and other messages cannot be sent together", key="strategy")
        limits = [seconds for seconds in (timeout, self._train_seconds) if seconds is not None]
        return self._secure_round(training, min(limits, default=None))

    def _secure_round(self, messages: list[Message], train_seconds: float | None) -> list[Message]:
        """Return one reply with the mean and an error for each node that is not in it."""
        try:
            content, survivors = self._coordinator.mean(self._grid, messages, train_seconds=train_seconds)
        except SecureAggregationError as error:
            log.error("secure aggregation: the round failed: %s", error)
            failure = Error(UNAVAILABLE, f"the secure round failed: {type(error).__name__}: {error}")
            return [Message(failure, reply_to=message) for message in messages]
        absent = Error(UNAVAILABLE, "not in the secure sum")
        by_node = {message.metadata.dst_node_id: message for message in messages}
        answered = [Message(absent, reply_to=m) for node, m in by_node.items() if node not in survivors]
        return [Message(content, reply_to=by_node[min(survivors)]), *answered]

    @property
    def run(self) -> Run:
        """Run information."""
        return self._grid.run

    def set_run(self, run: Run) -> None:
        """Set the run of the Grid below."""
        self._grid.set_run(run)

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message as the Grid below does."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes of the Grid below."""
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Push as the Grid below does; a client of ours refuses to train on what comes this way."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Pull as the Grid below does."""
        return self._grid.pull_messages(message_ids)


class SecureAggregation(Strategy):
    """A strategy of the Message API whose training rounds are secure; `history` says what each took.

    `run_config` is the ServerApp's `context.run_config`; it may be left out where that is empty.

    Raises:
        ConfigError: a strategy that needs each client's own result, or weighs by another key than the
            proposal; a roster without the profile, or the other way round.
    """

    def __init__(
        self,
        strategy: Strategy,
        proposal: Proposal = SINGLE_ROUNDS,
        *,
        run_config: Mapping[str, object] | None = None,
        roster: Roster | None = None,
        train_seconds: float | None = None,
        step_seconds: float | None = STEP_SECONDS,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        _refuse_unservable(strategy)
        _refuse_another_weight(strategy, proposal)
        self.strategy = strategy
        self._train_seconds = train_seconds
        self._coordinator = Coordinator(
            proposal,
            roster=roster,
            run_config=run_config,
            step_seconds=step_seconds,
            poll_seconds=poll_seconds,
        )

    @property
    def history(self) -> list[RoundRecord]:
        """One record for each round that was tried."""
        return self._coordinator.history

    def start(self, grid: Grid, *args: Any, **kwargs: Any) -> Result:
        """Run the wrapped strategy over a secure Grid; the arguments are `Strategy.start`'s."""
        secure = SecureGrid(grid, self._coordinator, train_seconds=self._train_seconds)
        return self.strategy.start(secure, *args, **kwargs)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask the wrapped strategy."""
        return self.strategy.configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Ask the wrapped strategy."""
        return self.strategy.aggregate_train(server_round, replies)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask the wrapped strategy."""
        return self.strategy.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Ask the wrapped strategy."""
        return self.strategy.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        """Log the wrapped strategy's."""
        self.strategy.summary()


class SecureAggregationWorkflow:
    """A fit workflow for legacy apps, in the place of `SecAggPlusWorkflow`; `history` as above.

    Raises:
        ConfigError: a roster without the profile, or the other way round; when called, also a strategy
            that needs each client's own result.
    """

    def __init__(
        self,
        proposal: Proposal = SINGLE_ROUNDS,
        *,
        roster: Roster | None = None,
        train_seconds: float | None = None,
        step_seconds: float | None = STEP_SECONDS,
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self._train_seconds = train_seconds
        self._coordinator = Coordinator(
            proposal, roster=roster, step_seconds=step_seconds, poll_seconds=poll_seconds
        )

    @property
    def history(self) -> list[RoundRecord]:
        """One record for each round that was tried."""
        return self._coordinator.history

    def __call__(self, grid: Grid, context: Context) -> None:
        """Run one round of training."""
        _refuse_unservable(getattr(context, "strategy", None))
        self._coordinator.run_config = context.run_config
        secure = SecureGrid(grid, self._coordinator, train_seconds=self._train_seconds)
        default_workflows.default_fit_workflow(secure, context)


def _refuse_unservable(strategy: object) -> None:
    while strategy is not None:
        if isinstance(strategy, NEED_EACH_RESULT):
            raise ConfigError(
                f"{type(strategy).__name__} needs each client's own result, which nobody sees here",
                key="strategy",
            )
        strategy = getattr(strategy, "strategy", None)


def _refuse_another_weight(strategy: object, proposal: Proposal) -> None:
    """Refuse a strategy that would look for another weight in the reply than the one that is summed."""
    while strategy is not None:
        key = getattr(strategy, "weighted_by_key", None)
        if isinstance(key, str) and key != proposal.weight_key:
            raise ConfigError(
                f"the strategy has weighted_by_key={key!r}, the proposal {proposal.weight_key!r}: both need "
                "the name that the clients' mod has",
                key="weight_key",
            )
        strategy = getattr(strategy, "strategy", None)
