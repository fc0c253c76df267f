"""A federation's round whose frames travel as Flower's messages, between the package's own ends.

Server side: `FlowerEngine`, which the coordinator uses.  Client side: the ClientApp that a SuperNode runs,
with the federation's client behind it.  Every message is Flower's, serialised to its protobuf and parsed
again both ways.  In the place of the SuperLink, which stores messages and hands them out, stands a table in
memory: nobody else is on this wire.

Importing this needs flwr.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import cast

from flwr.app import Context, Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity

from secure_fed_diffusion.engines.flower import FlowerEngine
from secure_fed_diffusion.engines.in_process import Engine
from secure_fed_diffusion.flower_app.client_app import make_client_app
from threat_models.staging.federation_round import FederationRound

_NODE_OF_CLIENT_0 = 100
_SERVER = 1


class TableOfMessages:
    """A grid that keeps messages as bytes and runs the ClientApp of the node that each is for."""

    def __init__(self, answer: Callable[[Message], Message]) -> None:
        self._answer = answer
        self._replies: dict[str, bytes] = {}

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Deliver, and keep each answer until it is asked for."""
        identities = []
        for message in messages:
            sent = message_to_proto(message).SerializeToString(deterministic=True)
            identity = hashlib.sha256(sent).hexdigest()
            message.metadata.__dict__["_message_id"] = identity
            arrived = _parsed(sent)
            arrived.metadata.__dict__["_message_id"] = identity
            self._replies[identity] = message_to_proto(self._answer(arrived)).SerializeToString()
            identities.append(identity)
        return identities

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Hand over the answers to these messages, once."""
        return [_parsed(self._replies.pop(i)) for i in message_ids if i in self._replies]


class FlowerRound(FederationRound):
    """A federation's round over Flower's messages."""

    def make_engine(self) -> Engine:
        """Return the engine of a Flower run; this process plays the task of the coordinator."""
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, _SERVER, 1
        contexts = {
            v: Context(
                run_id=1, node_id=_NODE_OF_CLIENT_0 + v, node_config={}, state=RecordDict(), run_config={}
            )
            for v in self.institutions
        }
        app = make_client_app(
            lambda context: nullcontext(self.institutions[context.node_id - _NODE_OF_CLIENT_0])
        )

        def answer(message: Message) -> Message:
            return app(message, contexts[message.metadata.dst_node_id - _NODE_OF_CLIENT_0])

        nodes = {v: _NODE_OF_CLIENT_0 + v for v in self.institutions}
        return FlowerEngine(grid=cast(Grid, TableOfMessages(answer)), nodes=nodes, poll_seconds=0.0)


def _parsed(sent: bytes) -> Message:
    return message_from_proto(ProtoMessage.FromString(sent))
