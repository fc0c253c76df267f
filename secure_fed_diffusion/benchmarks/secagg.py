"""How fast secure aggregation is, beside the bare cipher and Flower's SecAgg+ (where it is installed).

Seconds are medians of `repetitions` (at least 5) on one thread; ratios come from one run on one
machine, so they carry over better than seconds do.  The peer is called through its own functions;
without it the ratios say so instead of guessing.

Not measured here: the network, and several processes at once.

    >>> from secure_fed_diffusion.benchmarks import secagg
    >>> secagg.run()["ratios"]["masking_over_cipher_ceiling"]    # doctest: +SKIP
    0.84
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
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


def run(*, repetitions: int = MIN_REPETITIONS) -> dict[str, Any]:
    """Return {"seconds", "bytes", "ratios", "sizes", "repetitions"}; every leaf a number or a reason.

    Raises:
        ConfigError: fewer than five repetitions.
    """
    if repetitions < MIN_REPETITIONS:
        raise ConfigError(f"expected repetitions >= {MIN_REPETITIONS}, got {repetitions}", key="repetitions")
    seconds: dict[str, Any] = {}
    seconds["masking"], seconds["cipher_ceiling"] = _masking(repetitions)
    seconds["shamir_split"], seconds["shamir_combine"] = _sharing(repetitions)
    seconds["round"], seconds["round_server"], frame_bytes = _round(repetitions)
    ratios: dict[str, Any] = {
        "masking_over_cipher_ceiling": seconds["cipher_ceiling"] / seconds["masking"],
        "masked_frame_over_plain_vector": frame_bytes / (4 * ROUND_DIMENSION),
    }
    for name, measure in (
        ("masking", _flower_masking),
        ("shamir_split", _flower_split),
        ("shamir_combine", _flower_combine),
    ):
        peer = measure(repetitions)
        seconds[f"flower_{name}"] = NOT_MEASURED if peer is None else peer
        ratios[f"flower_over_ours_{name}"] = NOT_MEASURED if peer is None else peer / seconds[name]
    sizes = {
        "masking": f"{N_VALUES} values of 32 bits, {N_PEERS} neighbours and the self mask",
        "shamir": f"n={SHAMIR_HOLDERS}, t={SHAMIR_THRESHOLD}, one 32-byte secret",
        "round": f"n={ROUND_CLIENTS}, complete graph, {ROUND_DROPOUTS} dropouts, d={ROUND_DIMENSION}",
    }
    return {
        "seconds": seconds,
        "bytes": {"masked_frame": frame_bytes},
        "ratios": ratios,
        "sizes": sizes,
        "repetitions": repetitions,
    }


def _median_seconds(action: Callable[[], object], repetitions: int) -> float:
    action()  # the first call pays for caches and lazy imports
    taken = []
    for _ in range(repetitions):
        start = time.perf_counter()
        action()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def _masking(repetitions: int) -> tuple[float, float]:
    """Masking, and its ceiling: the same streams into one reused buffer, then one add of a vector."""
    key_list = [entropy.system(entropy.KEY_BYTES) for _ in range(N_PEERS + 1)]
    half = len(key_list) // 2
    vector = np.zeros(N_VALUES, dtype="<u4")
    other = np.ones(N_VALUES, dtype="<u4")
    zeros, buffer = bytes(masks.CHUNK_BYTES), memoryview(bytearray(masks.CHUNK_BYTES))

    def ceiling() -> None:
        for key in key_list:
            encryptor = Cipher(AES256(key), CTR(bytes(16))).encryptor()
            for start in range(0, vector.nbytes, masks.CHUNK_BYTES):
                n_bytes = min(masks.CHUNK_BYTES, vector.nbytes - start)
                encryptor.update_into(memoryview(zeros)[:n_bytes], buffer[:n_bytes])
        np.add(vector, other, out=vector)

    def ours() -> None:
        masks.apply(vector, plus=key_list[:half], minus=key_list[half:])

    return _median_seconds(ours, repetitions), _median_seconds(ceiling, repetitions)


def _sharing(repetitions: int) -> tuple[float, float]:
    secret = int.from_bytes(entropy.system(32), "little")
    holders = tuple(range(SHAMIR_HOLDERS))
    shares = shamir.split(secret, holders, threshold=SHAMIR_THRESHOLD)
    enough = {v: shares[v] for v in holders[:SHAMIR_THRESHOLD]}
    return (
        _median_seconds(lambda: shamir.split(secret, holders, threshold=SHAMIR_THRESHOLD), repetitions),
        _median_seconds(lambda: shamir.combine(enough, threshold=SHAMIR_THRESHOLD), repetitions),
    )


def _round(repetitions: int) -> tuple[float, float, int]:
    """The whole round of all parties, the server's part of it, and the bytes of a masked frame."""
    params = secagg.SecAggParams(
        n_clients=ROUND_CLIENTS,
        threshold=ROUND_CLIENTS // 2 + 1,
        dimension=ROUND_DIMENSION,
        modulus_bits=32,
    )
    vectors = {v: np.full(ROUND_DIMENSION, v, dtype=np.uint32) for v in range(ROUND_CLIENTS)}
    dropouts = dict.fromkeys(range(ROUND_DROPOUTS), "masked_input")
    whole = _median_seconds(lambda: secagg.simulate(params, vectors, dropouts=dropouts), repetitions)
    session = secagg.Session(
        run_id=b"benchmark",
        round=0,
        attempt=0,
        cohort=tuple(vectors),
        params=params,
        model_digest=bytes(32),
    )
    result = secagg.simulate(params, vectors, dropouts=dropouts, session=session)
    frames = {
        step.phase: {
            int(entry.sender): entry.frame
            for entry in result.transcript
            if entry.receiver == "server" and entry.phase == step.phase
        }
        for step in PROFILES[params.profile]
    }

    def server_side() -> None:
        server = secagg.Server(session)
        for sent in frames.values():
            for client_id, frame in sent.items():
                server.receive(client_id, frame)
            server.advance()

    frame_bytes = len(frames["masked_input"][ROUND_CLIENTS - 1])
    return whole, _median_seconds(server_side, repetitions), frame_bytes


def _flower_masking(repetitions: int) -> float | None:
    """Flower's mask generation and addition for as many neighbours, as its client does them."""
    try:
        from flwr.common.secure_aggregation.ndarrays_arithmetic import (
            parameters_addition,
            parameters_mod,
            parameters_subtraction,
        )
        from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
    except ImportError:
        return None
    seeds = [entropy.system(32) for _ in range(N_PEERS + 1)]
    modulus = 1 << 32

    def flower() -> None:
        vector = [np.zeros(N_VALUES, dtype=np.int64)]
        for index, seed in enumerate(seeds):
            mask = pseudo_rand_gen(seed, modulus, [(N_VALUES,)])
            combine = parameters_addition if index % 2 else parameters_subtraction
            vector = combine(vector, mask)
        parameters_mod(vector, modulus)

    return _median_seconds(flower, repetitions)


def _flower_secret() -> bytes:
    """What Flower's client shares: the private half of a key pair, as PEM."""
    from flwr.supercore.primitives.asymmetric import generate_key_pairs, private_key_to_bytes

    return bytes(private_key_to_bytes(generate_key_pairs()[0]))


def _flower_split(repetitions: int) -> float | None:
    try:
        from flwr.common.secure_aggregation.crypto.shamir import create_shares
    except ImportError:
        return None
    secret = _flower_secret()
    return _median_seconds(lambda: create_shares(secret, SHAMIR_THRESHOLD, SHAMIR_HOLDERS), repetitions)


def _flower_combine(repetitions: int) -> float | None:
    try:
        from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
    except ImportError:
        return None
    shares = create_shares(_flower_secret(), SHAMIR_THRESHOLD, SHAMIR_HOLDERS)[:SHAMIR_THRESHOLD]
    return _median_seconds(lambda: combine_shares(shares), repetitions)
