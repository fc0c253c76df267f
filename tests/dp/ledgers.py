"""Ledgers on disk, and what somebody may do to them."""

from __future__ import annotations

from pathlib import Path

from secure_fed_diffusion.dp import Ledger, chain
from tests.dp.plans import terms


def fill(path: Path, rounds: int = 3, clients: int = 2, **changes: object) -> str:
    """Write a ledger of prototypes in round 0 and gradients afterwards; return its head."""
    with Ledger.create(path, terms(**changes)) as book:
        for client in range(clients):
            book.charge(client, round=0, attempt=0, mechanism="prototypes")
        for number in range(1, rounds + 1):
            for client in range(clients):
                book.charge(client, round=number, attempt=0, mechanism="gradient", steps=2)
        return book.head


def rewrite(path: Path, lines: list[bytes]) -> None:
    path.write_bytes(b"".join(line + b"\n" for line in lines))


def read(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()


def forge(path: Path, line: int, **changes: object) -> None:
    """Change one line and mend the whole chain after it, as somebody does who knows the format."""
    entries, _ = chain.decode(path.read_bytes())
    data, previous = b"", chain.FIRST
    for number, entry in enumerate(entries):
        fields = {**entry.fields, **(changes if entry.line == line else {})}
        written, previous = chain.encode(fields, sequence=number, previous=previous)
        data += written
    path.write_bytes(data)
