"""A grid in this process: it runs the real ClientApp for each message, and loses or delays on demand."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

FIRST_NODE = 7000  # so that no node's id is a client's
Fate = Callable[["Delivery"], "str | int"]
"""What becomes of a message: "answered", "lost" (it never arrives), "unanswered", or after how many pulls."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message on its way to a node: `exchange` is "<round>/<phase>/<name>"."""

    message: Message
    number: int  # of this grid, counted from 0

    @property
    def node(self) -> int:
        return self.message.metadata.dst_node_id

    @property
    def partition(self) -> int:
        return (self.node - FIRST_NODE) % 1000

    @property
    def exchange(self) -> str:
        return str(self.message.content.config_records["frame"]["exchange"])

    @property
    def round(self) -> int:
        return int(self.exchange.split("/")[0])

    @property
    def phase(self) -> str:
        return self.exchange.split("/")[1]

    @property
    def frame(self) -> bytes:
        frame = self.message.content.config_records["frame"]["bytes"]
        assert isinstance(frame, bytes)
        return frame


@contextmanager
def task() -> Iterator[None]:
    """Stand where Flower's runtime stands when it runs an app: `Message` wants to know."""
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 1
    yield


@dataclass
class MemoryGrid(Grid):
    """Nodes 7000, 7001, ...; `strays` are handed out at the next pull, whatever was asked for.

    Node 8001 plays what 7001 played: a node that came back under another id.
    """

    client_app: ClientApp
    n_nodes: int
    fate: Fate = field(default=lambda delivery: "answered")
    first_node: int = FIRST_NODE
    strays: list[Message] = field(default_factory=list)
    delivered: list[Delivery] = field(default_factory=list)
    replies: list[Message] = field(default_factory=list)
    pulls: int = 0

    def __post_init__(self) -> None:
        self._numbers = itertools.count()
        self._ready: dict[str, tuple[int, Message]] = {}
        self.online = set(range(self.first_node, self.first_node + self.n_nodes))

    def set_run(self, run: Any) -> None:
        pass

    @property
    def run(self) -> Any:
        return None

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        return sorted(self.online)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        sent = []
        for message in messages:
            delivery = Delivery(message, next(self._numbers))
            message.metadata.__dict__["_message_id"] = f"message {delivery.number}"
            sent.append(message.metadata.message_id)
            fate = self.fate(delivery)
            if fate == "lost" or delivery.node not in self.online:
                continue
            self.delivered.append(delivery)
            reply = self.answer(message)
            self.replies.append(reply)
            if fate != "unanswered":
                after = fate if isinstance(fate, int) else 0
                self._ready[message.metadata.message_id] = (self.pulls + after, reply)
        return sent

    def answer(self, message: Message) -> Message:
        """Run the ClientApp as a node would."""
        node = message.metadata.dst_node_id
        config = {"partition-id": (node - FIRST_NODE) % 1000, "num-partitions": self.n_nodes}
        context = Context(1, node, config, RecordDict(), {})
        try:
            reply = self.client_app(message, context)
        except Exception as error:  # what a SuperNode makes of an accident
            reply = Message(Error(code=2, reason=f"{type(error)}: {error}"), reply_to=message)
        reply.metadata.__dict__["_message_id"] = f"reply to {message.metadata.message_id}"
        return reply

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        asked = set(message_ids)
        due = [name for name, (at, _) in self._ready.items() if name in asked and at <= self.pulls]
        self.pulls += 1
        strays, self.strays = self.strays, []
        return [*(self._ready.pop(name)[1] for name in due), *strays]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Any:
        raise AssertionError("it sleeps for three seconds")
