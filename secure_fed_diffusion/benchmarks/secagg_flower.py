"""Flower's SecAgg+ (flwr 1.41) as the peer of the benchmark: its own functions, its own workflow.

Masking is the streams and the additions of its client mod; a client's step adds what else the mod does
between the shares and the frame, in its order, but for the training result's quantisation.  The server's
round is its `SecAggPlusWorkflow` itself: the replies are its own clients' (`secaggplus_mod`), recorded once
and played back by a grid that hands them over at once.

Not measured: its network, its serialisation to protocol buffers, its clients' work in a server's round.

    >>> from secure_fed_diffusion.benchmarks import secagg_flower
    >>> secagg_flower.available()    # doctest: +SKIP
    True
"""

from __future__ import annotations

import copy
import importlib.util
import logging
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np

from secure_fed_diffusion import entropy

Action = Callable[[], object]
RING = 1 << 32


def available() -> bool:
    """Tell whether Flower is installed."""
    try:
        return importlib.util.find_spec("flwr") is not None
    except ValueError:  # a module that was loaded without a specification
        return False


def masking(n_values: int, n_peers: int) -> Action:
    """Return the masks of a client with `n_peers` neighbours and its own, made and added to a vector."""
    from flwr.common.secure_aggregation.ndarrays_arithmetic import parameters_mod

    seeds = [entropy.system(32) for _ in range(n_peers + 1)]
    return lambda: parameters_mod(_masked([np.zeros(n_values, dtype=np.int64)], seeds), RING)


def client_step(n_values: int, n_peers: int) -> Action:
    """Return what its client does between the sealed shares and the masked frame, less the quantisation."""
    from flwr.common import ndarray_to_bytes
    from flwr.common.secure_aggregation.crypto.symmetric_encryption import (
        decrypt,
        encrypt,
        generate_shared_key,
    )
    from flwr.common.secure_aggregation.ndarrays_arithmetic import factor_combine, parameters_mod
    from flwr.common.secure_aggregation.secaggplus_utils import (
        share_keys_plaintext_concat,
        share_keys_plaintext_separate,
    )
    from flwr.supercore.primitives.asymmetric import (
        bytes_to_private_key,
        bytes_to_public_key,
        generate_key_pairs,
        private_key_to_bytes,
        public_key_to_bytes,
    )

    own_private, own_public = generate_key_pairs()
    own_secret = private_key_to_bytes(own_private)
    peers = [generate_key_pairs() for _ in range(n_peers)]
    public_keys = [public_key_to_bytes(public) for _, public in peers]
    sealing_keys = [generate_shared_key(private, own_public) for private, _ in peers]
    seed_share, key_share = bytes(4 + 48), bytes(4 + 16 * (len(own_secret) // 16 + 1))
    sealed = [
        encrypt(key, share_keys_plaintext_concat(index + 1, 0, seed_share, key_share))
        for index, key in enumerate(sealing_keys)
    ]
    seed = entropy.system(32)

    def step() -> list[bytes]:
        for key, ciphertext in zip(sealing_keys, sealed, strict=True):
            share_keys_plaintext_separate(decrypt(key, ciphertext))
        vector = factor_combine(1, [np.zeros(n_values, dtype=np.int64)])
        pairs = (
            generate_shared_key(bytes_to_private_key(own_secret), bytes_to_public_key(public))
            for public in public_keys
        )
        masked = parameters_mod(_masked(vector, (seed, *pairs)), RING)
        return [ndarray_to_bytes(array) for array in masked]

    return step


def sharing(n_holders: int, threshold: int) -> tuple[Action, Action]:
    """Return splitting a private key of its own, and combining it from `threshold` shares."""
    from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
    from flwr.supercore.primitives.asymmetric import generate_key_pairs, private_key_to_bytes

    secret = private_key_to_bytes(generate_key_pairs()[0])
    enough = create_shares(secret, threshold, n_holders)[:threshold]
    return lambda: create_shares(secret, threshold, n_holders), lambda: combine_shares(enough)


def server_round(n_clients: int, threshold: int, dropouts: Iterable[int], dimension: int) -> Action:
    """Return the server's whole side of a round; `dropouts` vanish before they send their vector.

    The action returns the aggregated array, shape (dimension,): client v's values are all v / n_clients.
    """
    from flwr.app import ArrayRecord, ConfigRecord, Context, RecordDict
    from flwr.common import FitIns, Parameters, parameters_to_ndarrays
    from flwr.server.compat.legacy_context import LegacyContext
    from flwr.server.workflow import SecAggPlusWorkflow
    from flwr.supercore.task_identity import TaskIdentity

    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    # A message states whose run it belongs to; here there is none.
    TaskIdentity._run_id, TaskIdentity._node_id, TaskIdentity._task_id = 0, 0, 0
    workflow = SecAggPlusWorkflow(1.0, threshold / n_clients)
    no_parameters = Parameters(tensors=[], tensor_type="numpy.ndarray")
    proxies = [SimpleNamespace(node_id=v) for v in range(n_clients)]
    aggregated: list[np.ndarray] = []

    def aggregate(_: int, results: list[Any], __: list[Any]) -> tuple[None, dict[str, Any]]:
        aggregated[:] = parameters_to_ndarrays(results[0][1].parameters)
        return None, {}

    strategy = SimpleNamespace(
        configure_fit=lambda *_: [(proxy, FitIns(no_parameters, {})) for proxy in proxies],
        aggregate_fit=aggregate,
    )
    grid = _Playback(n_clients, frozenset(dropouts), dimension)

    def run() -> np.ndarray:
        state = RecordDict({"config": ConfigRecord({"current_round": 1}), "parameters": ArrayRecord()})
        context = LegacyContext(
            Context(0, 0, {}, state, {}),
            strategy=strategy,  # type: ignore[arg-type]
            client_manager=SimpleNamespace(num_available=lambda: n_clients),  # type: ignore[arg-type]
        )
        aggregated.clear()
        workflow(grid, context)  # type: ignore[arg-type]
        return aggregated[0]

    run()  # records the clients' replies
    return run


def _masked(vector: list[np.ndarray], seeds: Iterable[bytes]) -> list[np.ndarray]:
    from flwr.common.secure_aggregation.ndarrays_arithmetic import (
        get_parameters_shape,
        parameters_addition,
        parameters_subtraction,
    )
    from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

    shape = get_parameters_shape(vector)
    for index, seed in enumerate(seeds):
        combine = parameters_addition if index % 2 else parameters_subtraction
        vector = combine(vector, pseudo_rand_gen(seed, RING, shape))
    return vector


class _Playback:
    """A grid whose clients answer once with Flower's client mod and from then on from memory."""

    def __init__(self, n_clients: int, dropouts: frozenset[int], dimension: int) -> None:
        from flwr.app import Context, RecordDict

        self._contexts = {v: Context(0, v, {}, RecordDict(), {}) for v in range(n_clients)}
        self._vectors = {v: np.full(dimension, v / n_clients, dtype=np.float32) for v in range(n_clients)}
        self._dropouts = dropouts
        self._replies: dict[tuple[str, int], Any] = {}

    def send_and_receive(self, messages: Iterable[Any], *, timeout: float | None = None) -> list[Any]:
        """Answer for every client that is still there."""
        replies = []
        for message in messages:
            client_id = message.metadata.dst_node_id
            stage = message.content.config_records["secaggplus_configs"]["stage"]
            if client_id in self._dropouts and stage in ("collect_masked_vectors", "unmask"):
                continue
            if (stage, client_id) not in self._replies:
                # A copy: the mod takes the message apart, as it may where it came over the wire.
                self._replies[stage, client_id] = self._answer(client_id, copy.deepcopy(message))
            replies.append(self._replies[stage, client_id])
        return replies

    def _answer(self, client_id: int, message: Any) -> Any:
        import flwr.compat.common.recorddict_compat as compat
        from flwr.app import Message
        from flwr.client.mod import secaggplus_mod
        from flwr.common import Code, FitRes, Status, ndarrays_to_parameters

        def train(received: Any, _: Any) -> Any:
            parameters = ndarrays_to_parameters([self._vectors[client_id]])
            result = FitRes(Status(Code.OK, ""), parameters, num_examples=1000, metrics={})
            return Message(compat.fitres_to_recorddict(result, True), reply_to=received)

        return secaggplus_mod(message, self._contexts[client_id], train)
