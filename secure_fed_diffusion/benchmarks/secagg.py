"""How fast secure aggregation is, beside the bare cipher and Flower's SecAgg+ (where it is installed).

What is compared runs in turns in one process, ours on one thread; seconds are medians of `repetitions`
(at least 5), and a ratio is the median of the ratios of the turns, so that a busy machine slows both
sides alike.  The peer is called through its own functions; without it the ratio is a sentence that
says so.

Not measured here: the network, several processes at once, and the peer's whole round.

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
from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.secagg import masks, shamir
from secure_fed_diffusion.secagg.phases import PROFILES

MIN_REPETITIONS = 5
N_VALUES, N_PEERS = 1_000_000, 50
SHAMIR_HOLDERS, SHAMIR_THRESHOLD = 100, 51
ROUND_CLIENTS, ROUND_DROPOUTS, ROUND_DIMENSION = 40, 4, 100_000
NOT_MEASURED = "not measured: flwr is not installed"

Action = Callable[[], object]
Samples = Mapping[str, list[float]]


def run(*, repetitions: int = MIN_REPETITIONS) -> dict[str, Any]:
    """Return {"ratios", "seconds", "bytes", "sizes", "repetitions"}; a leaf is a number or a reason.

    A ratio above 1 of `flower_over_ours_*` says how many times faster ours is;
    `masking_over_cipher_ceiling` is the share of the bare cipher's throughput that masking reaches.

    Raises:
        ConfigError: fewer than five repetitions.
    """
    if repetitions < MIN_REPETITIONS:
        raise ConfigError(f"expected repetitions >= {MIN_REPETITIONS}, got {repetitions}", key="repetitions")
    flower = _flower_actions()
    masking = _in_turns({**_masking_actions(), **_named(flower, "masking")}, repetitions)
    split, combine = _sharing_actions()
    splitting = _in_turns({"shamir_split": split, **_named(flower, "shamir_split")}, repetitions)
    combining = _in_turns({"shamir_combine": combine, **_named(flower, "shamir_combine")}, repetitions)
    round_actions, frame_bytes = _round_actions()
    whole_round = _in_turns(round_actions, repetitions)
    groups = (masking, splitting, combining, whole_round)
    ratios: dict[str, Any] = {
        "masking_over_cipher_ceiling": _ratio(masking, "cipher_ceiling", "masking"),
        "masked_frame_over_plain_vector": frame_bytes / (4 * ROUND_DIMENSION),
    }
    for name, samples in (("masking", masking), ("shamir_split", splitting), ("shamir_combine", combining)):
        peer = f"flower_{name}"
        ratios[f"flower_over_ours_{name}"] = _ratio(samples, peer, name) if peer in samples else NOT_MEASURED
    return {
        "ratios": ratios,
        "seconds": {name: statistics.median(taken) for group in groups for name, taken in group.items()},
        "bytes": {"masked_frame": frame_bytes},
        "sizes": {
            "masking": f"{N_VALUES} values of 32 bits, {N_PEERS} neighbours and the self mask",
            "shamir": f"n={SHAMIR_HOLDERS}, t={SHAMIR_THRESHOLD}; 32 bytes, at Flower a key as PEM",
            "round": f"n={ROUND_CLIENTS}, complete graph, {ROUND_DROPOUTS} dropouts, d={ROUND_DIMENSION}",
        },
        "repetitions": repetitions,
    }


def _in_turns(actions: Mapping[str, Action], repetitions: int) -> dict[str, list[float]]:
    """Time each action once per turn; the first turn pays for caches and is not counted."""
    samples: dict[str, list[float]] = {name: [] for name in actions}
    for turn in range(repetitions + 1):
        for name, action in actions.items():
            start = time.perf_counter()
            action()
            if turn:
                samples[name].append(time.perf_counter() - start)
    return samples


def _ratio(samples: Samples, over: str, under: str) -> float:
    return statistics.median(a / b for a, b in zip(samples[over], samples[under], strict=True))


def _named(flower: Mapping[str, Action] | None, name: str) -> dict[str, Action]:
    return {} if flower is None else {f"flower_{name}": flower[name]}


def _masking_actions() -> dict[str, Action]:
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


def _sharing_actions() -> tuple[Action, Action]:
    secret = int.from_bytes(entropy.system(32), "little")
    holders = tuple(range(SHAMIR_HOLDERS))
    shares = shamir.split(secret, holders, threshold=SHAMIR_THRESHOLD)
    enough = {v: shares[v] for v in holders[:SHAMIR_THRESHOLD]}
    return (
        lambda: shamir.split(secret, holders, threshold=SHAMIR_THRESHOLD),
        lambda: shamir.combine(enough, threshold=SHAMIR_THRESHOLD),
    )


def _round_actions() -> tuple[dict[str, Action], int]:
    """The whole round of all parties, the server's part of it, and the bytes of a masked frame."""
    params = secagg.SecAggParams(
        n_clients=ROUND_CLIENTS,
        threshold=ROUND_CLIENTS // 2 + 1,
        dimension=ROUND_DIMENSION,
        modulus_bits=32,
    )
    vectors = {v: np.full(ROUND_DIMENSION, v, dtype=np.uint32) for v in range(ROUND_CLIENTS)}
    dropouts = dict.fromkeys(range(ROUND_DROPOUTS), "masked_input")
    session = secagg.Session(
        run_id=b"benchmark",
        round=0,
        attempt=0,
        cohort=tuple(vectors),
        params=params,
        model_digest=bytes(32),
    )
    transcript = secagg.simulate(params, vectors, dropouts=dropouts, session=session).transcript
    sent = {
        step.phase: {
            int(entry.sender): entry.frame
            for entry in transcript
            if entry.receiver == "server" and entry.phase == step.phase
        }
        for step in PROFILES[params.profile]
    }

    def server_side() -> None:
        server = secagg.Server(session)
        for frames in sent.values():
            for client_id, frame in frames.items():
                server.receive(client_id, frame)
            server.advance()

    actions: dict[str, Action] = {
        "round": lambda: secagg.simulate(params, vectors, dropouts=dropouts),
        "round_server": server_side,
    }
    return actions, len(sent["masked_input"][ROUND_CLIENTS - 1])


def _flower_actions() -> dict[str, Action] | None:
    """Flower's mask generation and addition as its client does them, and its secret sharing; or None."""
    try:
        from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
        from flwr.common.secure_aggregation.ndarrays_arithmetic import (
            parameters_addition,
            parameters_mod,
            parameters_subtraction,
        )
        from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
        from flwr.supercore.primitives.asymmetric import generate_key_pairs, private_key_to_bytes
    except ImportError:
        return None
    seeds = [entropy.system(32) for _ in range(N_PEERS + 1)]
    secret = private_key_to_bytes(generate_key_pairs()[0])
    enough = create_shares(secret, SHAMIR_THRESHOLD, SHAMIR_HOLDERS)[:SHAMIR_THRESHOLD]

    def masking() -> None:
        vector = [np.zeros(N_VALUES, dtype=np.int64)]
        for index, seed in enumerate(seeds):
            mask = pseudo_rand_gen(seed, 1 << 32, [(N_VALUES,)])
            vector = (parameters_addition if index % 2 else parameters_subtraction)(vector, mask)
        parameters_mod(vector, 1 << 32)

    return {
        "masking": masking,
        "shamir_split": lambda: create_shares(secret, SHAMIR_THRESHOLD, SHAMIR_HOLDERS),
        "shamir_combine": lambda: combine_shares(enough),
    }
