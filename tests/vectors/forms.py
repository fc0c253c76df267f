"""The JSON forms of bytes, numbers, rings and sessions in the vector files.

Bytes are hexadecimal, client ids and sizes are numbers, field elements and ring values are decimal
strings.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from secure_fed_diffusion import entropy, secagg
from secure_fed_diffusion.secagg import encoding

Json = dict[str, Any]
OUT = bytes.fromhex


def drawn_from(randomness: str) -> entropy.Entropy:
    """An entropy that hands out these bytes, and no more."""
    rest = bytearray(OUT(randomness))

    def draw(n_bytes: int) -> bytes:
        if n_bytes > len(rest):
            raise EOFError(f"the operation draws {n_bytes} bytes where {len(rest)} are left")
        taken = bytes(rest[:n_bytes])
        del rest[:n_bytes]
        return taken

    return draw


def ints(values: Mapping[str, Any]) -> dict[int, Any]:
    return {int(key): value for key, value in values.items()}


def named(values: Mapping[int, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in values.items()}


def hexed(values: Mapping[int, bytes]) -> dict[str, str]:
    return {str(key): value.hex() for key, value in values.items()}


def unhexed(values: Mapping[str, str]) -> dict[int, bytes]:
    return {int(key): OUT(value) for key, value in values.items()}


def ring(values: list[str], modulus_bits: int) -> np.ndarray:
    return np.array([int(value) for value in values], dtype=encoding.ring_dtype(modulus_bits))


def decimal(values: np.ndarray) -> list[str]:
    return [str(int(value)) for value in values]


def params_of(given: Json) -> secagg.SecAggParams:
    return secagg.SecAggParams(**given)


def session_of(given: Json) -> secagg.Session:
    roster = given.get("roster")
    return secagg.Session(
        run_id=OUT(given["run_id"]),
        round=given["round"],
        attempt=given["attempt"],
        cohort=tuple(given["cohort"]),
        params=params_of(given["params"]),
        model_digest=OUT(given["model_digest"]),
        roster=secagg.Roster(unhexed(roster)) if roster else None,
    )


def u32(number: int) -> str:
    """Four little-endian bytes."""
    return struct.pack("<I", number).hex()
