"""A Grid in memory over real ClientApps: every message goes through Flower's own bytes, and can be lost.

`faults` maps (node's index, step) to what becomes of the reply: "drop" (never comes), "late" (comes when the
next exchange is under way), "garbage", "empty" (no record at all), "replay" (the node's last masked input).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAdam, FedAvg, Krum
from flwr.supercore.task_identity import TaskIdentity

from secure_fed_diffusion import secagg
from secure_fed_diffusion.flower_mod import (
    Identity,
    Proposal,
    SecureAggregation,
    SecureAggregationWorkflow,
    identity_from_node_config,
    institution,
    records,
    secure_aggregation_mod,
    store,
    wire,
)

__all__ = [
    "Array",
    "ConfigRecord",
    "Error",
    "FedAdam",
    "FedAvg",
    "Identity",
    "Krum",
    "MetricRecord",
    "RecordDict",
    "SecureAggregationWorkflow",
    "identity_from_node_config",
    "institution",
    "records",
    "store",
]

RUN_ID = (1 << 64) - 3  # Flower's run and node ids take all of 64 bits
FIRST_NODE = (1 << 64) - 1000
SHAPES = {"weight": (3, 2), "bias": (2,)}
SECRET = 4242.4242


class MemoryGrid(Grid):
    """Nodes FIRST_NODE, FIRST_NODE + 1, ...; `seen` is every byte that came to the server."""

    def __init__(self, apps: list[ClientApp], node_configs: list[dict[str, Any]] | None = None) -> None:
        logging.getLogger("flwr").setLevel(logging.CRITICAL)
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN_ID, 1, 1
        configs = node_configs or [{"partition-id": i} for i in range(len(apps))]
        self.apps = {FIRST_NODE + i: app for i, app in enumerate(apps)}
        self.contexts = {
            FIRST_NODE + i: Context(RUN_ID, FIRST_NODE + i, config, RecordDict(), {})
            for i, config in enumerate(configs)
        }
        self.faults: dict[tuple[int, str], str] = {}
        self.tamper: Callable[[int, Message], None] = lambda index, message: None
        self.asked: list[tuple[int, str]] = []
        self.delivered: list[tuple[int, Message]] = []
        self.seen: list[bytes] = []
        self.errors: list[str] = []
        self._replies: dict[str, Message] = {}
        self._late: dict[str, Message] = {}
        self._masked: dict[int, RecordDict] = {}
        self._count = 0

    @property
    def run(self) -> Any:
        return SimpleNamespace(run_id=RUN_ID)

    def set_run(self, run: object) -> None:
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> list[int]:
        return list(self.apps)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        self._replies |= self._late
        self._late = {}
        return [self._deliver(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [self._replies.pop(i) for i in list(message_ids) if i in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return self.pull_messages(self.push_messages(messages))

    def _deliver(self, message: Message) -> str:
        self._count += 1
        message_id = f"m{self._count}"
        message.metadata.__dict__["_message_id"] = message_id
        index = message.metadata.dst_node_id - FIRST_NODE
        received = message_from_proto(message_to_proto(message))
        self.tamper(index, received)
        held = received.content.config_records.get(wire.RECORD, {})
        step = str(held.get("step", received.metadata.message_type))
        self.asked.append((index, step))
        self.delivered.append((index, message_from_proto(message_to_proto(received))))
        fault = self.faults.get((index, step), "")
        reply = self._answer(index, received)
        if reply.has_error():
            self.errors.append(str(reply.error.reason))
        elif fault == "replay":
            reply = Message(self._masked[index], reply_to=received)
        elif step == "masked_input":
            self._masked[index] = reply.content
        if fault == "garbage":
            reply = Message(wire.answer(b"\x07" * 400), reply_to=received)
        if fault == "empty":
            reply = Message(RecordDict({"x": MetricRecord({"y": 1})}), reply_to=received)
        if fault != "drop":
            proto = message_to_proto(reply)
            self.seen.append(proto.SerializeToString())
            (self._late if fault == "late" else self._replies)[message_id] = message_from_proto(proto)
        return message_id

    def _answer(self, index: int, received: Message) -> Message:
        """As Flower's own process does: what the app raises comes back as an error."""
        node = FIRST_NODE + index
        try:
            return self.apps[node](received, self.contexts[node])
        except ArithmeticError as raised:
            return Message(Error(2, str(raised)), reply_to=received)

    def steps(self, index: int) -> list[str]:
        return [step for asked, step in self.asked if asked == index]


def n_examples(index: int) -> int:
    return 10 * (index + 1) + 7


def trained(index: int, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What client `index` makes of a model: far from every other client's."""
    return {
        name: (array * 0.9 + (index + 1) * np.linspace(-0.3, 0.4, array.size).reshape(array.shape)).astype(
            array.dtype
        )
        for name, array in arrays.items()
    }


def app_of(index: int, *, weight: float | None = None, action: str = "default", **options: Any) -> ClientApp:
    """A Message API app; without options its replies go out in clear."""
    app = ClientApp()

    def answer(message: Message, context: Context) -> Message:
        arrays = {name: array.numpy() for name, array in message.content["arrays"].items()}
        metrics = MetricRecord(
            {
                "num-examples": n_examples(index) if weight is None else weight,
                "loss": 0.123456 + index,
                "secret": SECRET,
            }
        )
        record = ArrayRecord({name: Array(array) for name, array in trained(index, arrays).items()})
        return Message(RecordDict({"arrays": record, "metrics": metrics}), reply_to=message)

    def evaluate(message: Message, context: Context) -> Message:
        return Message(
            RecordDict({"metrics": MetricRecord({"num-examples": 1, "loss": 0.5})}), reply_to=message
        )

    mods = [secure_aggregation_mod(**options)] if options else []
    app.train(action, mods=mods)(answer)
    app.evaluate(mods=mods)(evaluate)
    return app


def federation(n: int, folder: Path, **options: Any) -> MemoryGrid:
    return MemoryGrid([app_of(i, state_dir=folder / str(i), **options) for i in range(n)])


def active_federation(n: int, folder: Path) -> tuple[MemoryGrid, secagg.Roster]:
    """Nodes whose numbers on the roster are not their places among the nodes."""
    keys = {10 * (n - i): secagg.SigningKey.generate() for i in range(n)}
    roster = secagg.Roster({number: key.public for number, key in keys.items()})
    policy = secagg.Policy(profiles=("active",))
    apps = []
    for i, (number, key) in enumerate(keys.items()):
        identity = Identity(client_id=number, signer=key, roster=roster)
        apps.append(app_of(i, state_dir=folder / str(i), policy=policy, identity=lambda _, own=identity: own))
    return MemoryGrid(apps), roster


def start_arrays() -> ArrayRecord:
    return ArrayRecord(
        {
            name: Array(np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32).reshape(shape))
            for name, shape in SHAPES.items()
        }
    )


def fedavg(n: int, **options: Any) -> FedAvg:
    return FedAvg(fraction_evaluate=0.0, min_train_nodes=n, min_available_nodes=n, **options)


def secure(
    n: int,
    proposal: Proposal | None = None,
    *,
    strategy: Any = None,
    roster: secagg.Roster | None = None,
    run_config: Mapping[str, object] | None = None,
) -> SecureAggregation:
    return SecureAggregation(
        strategy or fedavg(n),
        proposal or Proposal(),
        run_config=run_config,
        roster=roster,
        train_seconds=0.05,
        step_seconds=0.05,
        poll_seconds=0.005,
    )


def in_clear(indices: Iterable[int], arrays: ArrayRecord) -> dict[str, np.ndarray]:
    """FedAvg over these clients alone, in float64."""
    before = {name: array.numpy() for name, array in arrays.items()}
    weights = {i: n_examples(i) for i in indices}
    total = sum(weights.values())
    return {
        name: sum(w / total * trained(i, before)[name].astype(np.float64) for i, w in weights.items())
        for name in before
    }


def largest_error(arrays: ArrayRecord, expected: Mapping[str, np.ndarray]) -> float:
    return max(float(np.abs(arrays[name].numpy() - expected[name]).max()) for name in expected)


def allowed_error(proposal: Proposal, n: int, indices: Iterable[int]) -> float:
    """The proven bound of the fixed point, and what float32 adds to numbers below 4."""
    return proposal.step(n_clients=n, total_weight=sum(map(n_examples, indices))) + 4 * 2.0**-24


def parsed(reply: bytes) -> Message:
    """A message that the server saw."""
    return message_from_proto(ProtoMessage.FromString(reply))
