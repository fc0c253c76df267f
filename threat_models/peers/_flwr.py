"""The few functions of flwr 1.41's SecAgg+ that the adapter calls; importing this needs flwr.

`Client.ask` is one message to `secaggplus_mod` and its answer, with the client's state kept in its `Context`
as Flower keeps it.
"""

from __future__ import annotations

import copy
import logging
import struct
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.app.message_type import MessageType
from flwr.client.mod.secure_aggregation.secaggplus_mod import secaggplus_mod
from flwr.common import (
    Code,
    FitIns,
    FitRes,
    Parameters,
    Status,
    bytes_to_ndarray,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import decrypt, encrypt, generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import parameters_addition, parameters_subtraction
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, RECORD_KEY_STATE, Key
from flwr.common.secure_aggregation.secaggplus_utils import (
    pseudo_rand_gen,
    share_keys_plaintext_concat,
    share_keys_plaintext_separate,
)
from flwr.compat.common import recorddict_compat
from flwr.server.compat.legacy_context import LegacyContext
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.server.workflow.secure_aggregation.secaggplus_workflow import SecAggPlusWorkflow
from flwr.supercore.primitives.asymmetric import (
    bytes_to_private_key,
    bytes_to_public_key,
    generate_key_pairs,
    private_key_to_bytes,
    public_key_to_bytes,
)
from flwr.supercore.task_identity import TaskIdentity

from secure_fed_diffusion.secagg.codec import HEADER_BYTES

logging.getLogger("flwr").setLevel(logging.CRITICAL)  # it writes each stage of each client to the terminal

mask = pseudo_rand_gen
combine = combine_shares
array = bytes_to_ndarray
add = parameters_addition
subtract = parameters_subtraction
KeyPair = tuple[bytes, bytes]


class Client:
    """One client of SecAgg+ that trains nothing: its update is a fixed vector."""

    def __init__(self, node_id: int, update: npt.NDArray[np.float64], *, num_examples: int) -> None:
        self.node_id = node_id
        self.update = update
        self.num_examples = num_examples
        self.metrics = {"train_loss": 0.4375}
        self.context = Context(run_id=1, node_id=node_id, node_config={}, state=RecordDict(), run_config={})

    def ask(self, stage: str, configs: Mapping[str, Any]) -> dict[str, Any]:
        """Send the configuration of a stage; return the record of the answer."""
        return dict(self.exchange(stage, configs).content.config_records[RECORD_KEY_CONFIGS])

    def exchange(self, stage: str, configs: Mapping[str, Any]) -> Message:
        """Send the configuration of a stage; return the whole answer."""
        record = ConfigRecord({**configs, Key.STAGE: stage})
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 1  # or no message can be made
        message = Message(
            RecordDict({RECORD_KEY_CONFIGS: record}),
            dst_node_id=self.node_id,
            message_type=MessageType.TRAIN,
        )
        return self.handle(message)

    def handle(self, message: Message) -> Message:
        """Give a message to the modifier, as Flower's runtime does."""
        return secaggplus_mod(message, self.context, self._train)

    def _train(self, message: Message, context: Context) -> Message:
        status = Status(Code.OK, "")
        result = FitRes(status, ndarrays_to_parameters([self.update]), self.num_examples, dict(self.metrics))
        return Message(recorddict_compat.fitres_to_recorddict(result, False), reply_to=message)


def key_pairs() -> tuple[KeyPair, KeyPair]:
    """Make two key pairs, (secret, public) each: to agree on masks, and to seal."""
    made = [generate_key_pairs() for _ in range(2)]
    masks, seals = [(private_key_to_bytes(secret), public_key_to_bytes(public)) for secret, public in made]
    return masks, seals


def agree(secret: bytes, public: bytes) -> bytes:
    """Return the shared key of two ends."""
    return generate_shared_key(bytes_to_private_key(secret), bytes_to_public_key(public))


def seal_empty(secret: bytes, public: bytes, sender: int, receiver: int) -> bytes:
    """Seal two shares that are none: the receiver keeps them unread."""
    return encrypt(agree(secret, public), share_keys_plaintext_concat(sender, receiver, b"none", b"none"))


def open_sealed(secret: bytes, public: bytes, sealed: bytes) -> tuple[bytes, bytes]:
    """Open what was sealed for the holder of `secret`: shares of the seed and of the mask key."""
    _, _, seed, mask_key = share_keys_plaintext_separate(decrypt(agree(secret, public), sealed))
    return seed, mask_key


def folded(client: Client, peer_public: bytes) -> int:
    """Return the seed of the mask that a client shares with a peer: for the one who stages a trial."""
    state = client.context.state.config_records[RECORD_KEY_STATE]
    words = np.frombuffer(agree(state["sk1"], peer_public), dtype="<u4")
    return int(np.bitwise_xor.reduce(words))


def values_of(answer: Message) -> tuple[bytes, ...]:
    """Return every value of an answer's records, header-sized padding before it, numbers as eight bytes."""
    content = answer.content
    values: list[bytes] = []
    for record in (*content.config_records.values(), *content.metric_records.values()):
        for value in record.values():
            parts = value if isinstance(value, list) else [value]
            values += [_bytes_of(part) for part in parts]
    return tuple(bytes(HEADER_BYTES) + value for value in values)


def _bytes_of(value: Any) -> bytes:
    if isinstance(value, int | float):
        return struct.pack("<q" if isinstance(value, int) else "<d", value)
    return value.encode() if isinstance(value, str) else value


class _Grid:
    """A grid of clients in this process; some fall silent at a stage, and from then on."""

    def __init__(self, clients: Mapping[int, Client], silent: Mapping[int, str]) -> None:
        self._clients = clients
        self._silent = silent
        self._gone: set[int] = set()

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Deliver each message; a client that raises answers with an error, as Flower's runtime has it."""
        replies = []
        for message in messages:
            node_id = message.metadata.dst_node_id
            stage = message.content.config_records[RECORD_KEY_CONFIGS][Key.STAGE]
            if self._silent.get(node_id) == stage:
                self._gone.add(node_id)
            if node_id in self._gone:
                continue
            arrived = (
                Message(  # a copy, as after a network: the modifier takes values out of what it is given
                    copy.deepcopy(message.content),
                    dst_node_id=node_id,
                    message_type=message.metadata.message_type,
                    group_id=message.metadata.group_id,
                )
            )
            try:
                replies.append(self._clients[node_id].handle(arrived))
            except Exception as error:
                replies.append(Message(Error(code=0, reason=type(error).__name__), reply_to=arrived))
        return replies


class _Strategy:
    """Selects everyone; keeps what the workflow hands it."""

    def __init__(self, clients: Mapping[int, Client]) -> None:
        self._clients = clients
        self.aggregate: Parameters | None = None

    def configure_fit(self, server_round: int, parameters: Parameters, client_manager: Any) -> list[Any]:
        return [(SimpleNamespace(node_id=v), FitIns(parameters, {})) for v in self._clients]

    def aggregate_fit(self, server_round: int, results: list[Any], failures: list[Any]) -> tuple[Any, Any]:
        self.aggregate = results[0][1].parameters
        return self.aggregate, {}


def run_workflow(
    clients: Mapping[int, Client], threshold: int, silent: Mapping[int, str]
) -> npt.NDArray[np.float64] | None:
    """Run the library's own `SecAggPlusWorkflow`; return the aggregate, None if it halts."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 1
    strategy = _Strategy(clients)
    state = RecordDict(
        {
            MAIN_CONFIGS_RECORD: ConfigRecord({WorkflowKey.CURRENT_ROUND: 1}),
            MAIN_PARAMS_RECORD: recorddict_compat.parameters_to_arrayrecord(
                ndarrays_to_parameters([np.zeros(1)]), False
            ),
        }
    )
    context = LegacyContext(
        Context(run_id=1, node_id=0, node_config={}, state=state, run_config={}),
        strategy=strategy,
        client_manager=SimpleNamespace(num_available=lambda: len(clients)),
    )
    workflow = SecAggPlusWorkflow(num_shares=len(clients), reconstruction_threshold=threshold)
    workflow(_Grid(clients, silent), context)
    return None if strategy.aggregate is None else parameters_to_ndarrays(strategy.aggregate)[0]
