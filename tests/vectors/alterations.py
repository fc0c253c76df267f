"""Cases of a vector file: an operation, its inputs, what comes out, and the inputs that must not give it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .forms import Json
from .operations import perform

MISMATCH = "mismatch"
MIN_BAD = 5


def flipped(data: str, byte: int, bit: int = 0) -> str:
    """Flip one bit; a negative byte counts from the end."""
    raw = bytearray.fromhex(data)
    raw[byte] ^= 1 << bit
    return raw.hex()


def cut(data: str, n_bytes: int = 1) -> str:
    return data[: len(data) - 2 * n_bytes]


def extended(data: str, tail: str = "01") -> str:
    return data + tail


def spoilt(field: str, data: str, error: str, *, bits_too: bool = True) -> list[tuple[str, Json, str]]:
    """A field of bytes, altered in the ways that every field of bytes is."""
    bad = [
        (f"{field} cut by one byte", {field: cut(data)}, error),
        (f"{field} longer by one byte", {field: extended(data)}, error),
        (f"{field} empty", {field: ""}, error),
    ]
    if bits_too:
        bad += [
            (f"a bit of {field} flipped at its start", {field: flipped(data, 0, 3)}, error),
            (f"a bit of {field} flipped at its end", {field: flipped(data, -1, 3)}, error),
        ]
    return bad


def case(operation: str, name: str, inputs: Json, bad: Iterable[tuple[str, Json, str]]) -> Json:
    """A case with its output; each bad one is a name, the inputs that differ, and the error that is due.

    `mismatch` stands for an output other than the good one.  A bad case that ends in any other way than
    is said is an error in this generator or in the package.
    """
    output, error = perform(operation, inputs)
    if error is not None:
        raise AssertionError(f"{operation}, {name}: {error}")
    recorded = []
    for what, changed, expected in bad:
        found, error = perform(operation, {**inputs, **changed})
        ending = error or (MISMATCH if found != output else "the good output")
        if ending != expected:
            raise AssertionError(f"{operation}, {name}, {what}: expected {expected}, got {ending}")
        recorded.append({"name": what, "inputs": changed, "error": expected})
    if len(recorded) < MIN_BAD:
        raise AssertionError(f"{operation}, {name}: {len(recorded)} bad cases, expected at least {MIN_BAD}")
    return {"operation": operation, "name": name, "inputs": inputs, "output": output, "bad": recorded}


def numbers(
    field: str, value: int, others: Iterable[int], error: str = MISMATCH
) -> list[tuple[str, Json, str]]:
    """A number, replaced."""
    return [(f"{field} {other} in place of {value}", {field: other}, error) for other in others]


def replaced(field: str, values: dict[str, Any], error: str) -> list[tuple[str, Json, str]]:
    """A field, replaced by each of these values."""
    return [(f"{field}: {name}", {field: value}, error) for name, value in values.items()]
