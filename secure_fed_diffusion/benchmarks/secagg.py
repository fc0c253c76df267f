"""How fast secure aggregation is and how much it sends, beside the bare cipher and Flower's SecAgg+.

What is compared runs in turns in one process on one thread; seconds are medians of `repetitions` (at
least 5) of the processor's time, and a ratio is the median of the ratios of the turns, so that a busy
machine slows both sides alike.  Flower is called through its own functions (`secagg_flower`); where it
is not installed its ratios are a sentence that says so.

Not measured here: the network, several processes at once, thousands of clients
(`experiments/secagg_scale`).

    >>> from secure_fed_diffusion.benchmarks import secagg
    >>> secagg.run()["ratios"]["masking_over_cipher_ceiling"]    # doctest: +SKIP
    0.86
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR

from secure_fed_diffusion import entropy, secagg
from secure_fed_diffusion.benchmarks import secagg_flower, secagg_round
from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.secagg import masks, population, shamir
from secure_fed_diffusion.secagg.phases import PROFILES

MIN_REPETITIONS = 5
N_VALUES, N_PEERS = 1_000_000, 50
SHAMIR_HOLDERS, SHAMIR_THRESHOLD = 100, 51
ROUND_CLIENTS, ROUND_DROPOUTS, ROUND_DIMENSION = 40, 4, 100_000
WIRE_CLIENTS, WIRE_DIMENSION, WIRE_VALUE_BITS = 1 << 10, 1 << 20, 16
WIRE_CORRUPT, WIRE_DROPOUT = 0.05, 0.05
NOT_MEASURED = "not measured: flwr is not installed"

Action = Callable[[], object]
Samples = Mapping[str, list[float]]


def run(*, repetitions: int = MIN_REPETITIONS) -> dict[str, Any]:
    """Return {"ratios", "seconds", "bytes", "sizes", "repetitions"}; a leaf is a number or a reason.

    A ratio above 1 of `flower_over_ours_*` says how many times faster ours is;
    `masking_over_cipher_ceiling` is the share of the bare cipher's throughput that masking reaches;
    `sent_over_plain_vector` and `traffic_over_plain_vector` are a client's bytes up, and up and down,
    over those of its vector as plain values.

    Raises:
        ConfigError: fewer than five repetitions.
    """
    if repetitions < MIN_REPETITIONS:
        raise ConfigError(f"expected repetitions >= {MIN_REPETITIONS}, got {repetitions}", key="repetitions")
    groups = [_in_turns(actions, repetitions) for actions in _groups(repetitions)]
    samples = {name: taken for group in groups for name, taken in group.items()}
    wire = wire_bytes()
    ratios: dict[str, Any] = {"masking_over_cipher_ceiling": _ratio(samples, "cipher_ceiling", "masking")}
    for name in ("masking", "client_step", "shamir_split", "shamir_combine", "round_server"):
        peer = f"flower_{name}"
        ratios[f"flower_over_ours_{name}"] = _ratio(samples, peer, name) if peer in samples else NOT_MEASURED
    plain = wire["plain_vector"]
    ratios["sent_over_plain_vector"] = wire["client_up"] / plain
    ratios["traffic_over_plain_vector"] = (wire["client_up"] + wire["client_down"]) / plain
    return {
        "ratios": ratios,
        "seconds": {name: statistics.median(taken) for name, taken in samples.items()},
        "bytes": wire,
        "sizes": _sizes(),
        "repetitions": repetitions,
    }


def wire_bytes() -> dict[str, int]:
    """Return what a client of a large sparse round sends and is sent, by the frames of a real round.

    The round is run with a vector of one value; the rest of the vector is then added at its packed size,
    which is exact, since no other part of a frame depends on the dimension.
    """
    k, threshold = _wire_graph()
    ring_bits = WIRE_VALUE_BITS + (WIRE_CLIENTS - 1).bit_length()  # the sum of all must not wrap
    narrow, full = (
        secagg.SecAggParams(
            n_clients=WIRE_CLIENTS,
            threshold=threshold,
            dimension=dimension,
            modulus_bits=ring_bits,
            n_neighbours=k,
        )
        for dimension in (1, WIRE_DIMENSION)
    )
    cost = secagg_round.measure(narrow)
    rest = full.frame_vector_bytes - narrow.frame_vector_bytes
    return {
        "plain_vector": WIRE_DIMENSION * WIRE_VALUE_BITS // 8,
        "masked_frame": cost.masked_frame_bytes + rest,
        "client_up": round(cost.bytes_up) + rest,
        "client_down": round(cost.bytes_down),
    }


def _wire_graph() -> tuple[int, int]:
    return population.neighbours_and_threshold(
        WIRE_CLIENTS, corrupt=WIRE_CORRUPT, dropout=WIRE_DROPOUT, adversary="curious"
    )


def _sizes() -> dict[str, str]:
    k, threshold = _wire_graph()
    return {
        "masking": f"{N_VALUES} values of 32 bits, {N_PEERS} neighbours and the self mask",
        "client_step": "masking, and from the sealed shares to the frame; no rounding on either side",
        "shamir": f"n={SHAMIR_HOLDERS}, t={SHAMIR_THRESHOLD}; 32 bytes, at Flower a key as PEM",
        "round_server": (
            f"n={ROUND_CLIENTS}, t={_round_threshold()}, complete graph, {ROUND_DROPOUTS} dropouts, "
            f"d={ROUND_DIMENSION}; Flower's own workflow, its clients' replies from memory"
        ),
        "bytes": (
            f"n={WIRE_CLIENTS}, d={WIRE_DIMENSION} values of {WIRE_VALUE_BITS} bits, semi_honest, k={k}, "
            f"t={threshold}: {WIRE_CORRUPT:.0%} corrupt, {WIRE_DROPOUT:.0%} drop, curious server"
        ),
        "seconds": "of the processor, medians",
    }


def _in_turns(actions: Mapping[str, Action], repetitions: int) -> dict[str, list[float]]:
    """Time each action once per turn; the first turn pays for caches and is not counted."""
    samples: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(repetitions + 1):
        for name, action in actions.items():
            start = time.process_time()
            action()
            if turn:
                samples[name].append(time.process_time() - start)
    return samples


def _ratio(samples: Samples, over: str, under: str) -> float:
    return statistics.median(a / b for a, b in zip(samples[over], samples[under], strict=True))


def _groups(repetitions: int) -> list[dict[str, Action]]:
    """Return what runs in turns with what: ours, its ceiling, and the peer's where it is installed."""
    split, combine = _sharing()
    masking = _masking()
    step = {"client_step": _client_step(repetitions + 1)}
    splitting, combining, server = {"shamir_split": split}, {"shamir_combine": combine}, _server_round()
    if secagg_flower.available():
        masking["flower_masking"] = secagg_flower.masking(N_VALUES, N_PEERS)
        step["flower_client_step"] = secagg_flower.client_step(N_VALUES, N_PEERS)
        peer_split, peer_combine = secagg_flower.sharing(SHAMIR_HOLDERS, SHAMIR_THRESHOLD)
        splitting["flower_shamir_split"], combining["flower_shamir_combine"] = peer_split, peer_combine
        server["flower_round_server"] = secagg_flower.server_round(
            ROUND_CLIENTS, _round_threshold(), range(ROUND_DROPOUTS), ROUND_DIMENSION
        )
    return [masking, step, splitting, combining, server]


def _masking() -> dict[str, Action]:
    """Masking, and its ceiling: the same streams into one reused buffer, then one add of a vector."""
    key_list = [entropy.system(entropy.KEY_BYTES) for _ in range(N_PEERS + 1)]
    half = len(key_list) // 2
    vector = np.zeros(N_VALUES, dtype="<u4")
    other = np.ones(N_VALUES, dtype="<u4")
    zeros, buffer = memoryview(bytes(masks.CHUNK_BYTES)), memoryview(bytearray(masks.CHUNK_BYTES))

    def ceiling() -> None:
        for key in key_list:
            encryptor = Cipher(AES256(key), CTR(bytes(16))).encryptor()
            for start in range(0, vector.nbytes, masks.CHUNK_BYTES):
                n_bytes = min(masks.CHUNK_BYTES, vector.nbytes - start)
                encryptor.update_into(zeros[:n_bytes], buffer[:n_bytes])
        np.add(vector, other, out=vector)

    def masking() -> None:
        masks.apply(vector, plus=key_list[:half], minus=key_list[half:])

    return {"masking": masking, "cipher_ceiling": ceiling}


def _client_step(n_runs: int) -> Action:
    """One client's whole `masked_input`, frame to frame, with all its neighbours there; good for `n_runs`."""
    params = secagg.SecAggParams(
        n_clients=N_PEERS + 1, threshold=(N_PEERS + 1) // 2 + 1, dimension=N_VALUES, modulus_bits=32
    )
    session = secagg_round.session_for(params)
    policy = secagg.Policy.accepting(params)
    vector = np.zeros(N_VALUES, dtype=np.uint32)
    ready: list[tuple[secagg.Client, bytes]] = []

    while len(ready) < n_runs:  # a machine takes the step once
        clients = {v: secagg.Client(session, v, policy=policy) for v in session.cohort}
        server = secagg.Server(session)
        for v, client in clients.items():
            server.receive(v, client.advertise())
        for v, frame in server.advance().items():
            server.receive(v, clients[v].share_keys(frame))
        ready.extend((clients[v], frame) for v, frame in server.advance().items())

    def step() -> bytes:
        client, frame = ready.pop()
        return client.masked_input(frame, vector)

    return step


def _sharing() -> tuple[Action, Action]:
    secret = int.from_bytes(entropy.system(32), "little")
    holders = tuple(range(SHAMIR_HOLDERS))
    shares = shamir.split(secret, holders, threshold=SHAMIR_THRESHOLD)
    enough = {v: shares[v] for v in holders[:SHAMIR_THRESHOLD]}
    return (
        lambda: shamir.split(secret, holders, threshold=SHAMIR_THRESHOLD),
        lambda: shamir.combine(enough, threshold=SHAMIR_THRESHOLD),
    )


def _round_threshold() -> int:
    return ROUND_CLIENTS // 2 + 1


def _server_round() -> dict[str, Action]:
    """The server's part of a round, and the round of all parties beside it."""
    params = secagg.SecAggParams(
        n_clients=ROUND_CLIENTS, threshold=_round_threshold(), dimension=ROUND_DIMENSION, modulus_bits=32
    )
    vectors = {v: np.full(ROUND_DIMENSION, v, dtype=np.uint32) for v in range(ROUND_CLIENTS)}
    dropouts = dict.fromkeys(range(ROUND_DROPOUTS), "masked_input")
    session = secagg_round.session_for(params)
    transcript = secagg.simulate(params, vectors, dropouts=dropouts, session=session).transcript
    sent = [
        [
            (int(entry.sender), entry.frame)
            for entry in transcript
            if entry.receiver == "server" and entry.phase == step.phase
        ]
        for step in PROFILES[params.profile]
    ]

    def server_side() -> None:
        server = secagg.Server(session)
        for frames in sent:
            for client_id, frame in frames:
                server.receive(client_id, frame)
            server.advance()

    return {
        "round_server": server_side,
        "round": lambda: secagg.simulate(params, vectors, dropouts=dropouts),
    }
