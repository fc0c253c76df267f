"""Lines of JSON, each of which carries the digest of the one before: the form of a ledger on disk.

Read, written and locked here; what the lines mean is for `ledger` and `shared` to say.

A line is a JSON object with `sequence` (from 0), `previous` (the digest of the line before, zeros for the
first), its own fields, and `digest`, the SHA-256 of all that in canonical form.  A line counts from its
newline on; bytes after the last newline are a torn write.

Not protected against: somebody who rewrites every line, or cuts the tail: the chain has no key.  Against
those, keep the digest of the last line (an anchor) somewhere else.

>>> line, digest = encode({"kind": "terms"}, sequence=0, previous=FIRST)
>>> [entry.fields["kind"] for entry in decode(line)[0]]
['terms']
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secure_fed_diffusion.errors import LedgerError, RunError

FIRST = "0" * 64
_DOMAIN = b"secure_fed_diffusion/ledger/1\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line, its place and its digest checked."""

    line: int  # counted from 1
    fields: Mapping[str, Any]  # without sequence, previous and digest
    digest: str


def _canonical(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def encode(fields: Mapping[str, Any], *, sequence: int, previous: str) -> tuple[bytes, str]:
    """Return the line, newline included, that carries `fields` after `previous`, and its digest."""
    chained = {**fields, "sequence": sequence, "previous": previous}
    digest = hashlib.sha256(_DOMAIN + _canonical(chained)).hexdigest()
    return _canonical({**chained, "digest": digest}) + b"\n", digest


def decode(data: bytes) -> tuple[list[Entry], int]:
    """Return the entries of a ledger's bytes and how many bytes of a torn line follow them.

    Raises:
        LedgerError: the first line that was altered, dropped, repeated or moved.
    """
    complete, newline, torn = data.rpartition(b"\n")
    entries: list[Entry] = []
    previous = FIRST
    for number, raw in enumerate(complete.split(b"\n") if newline else [], start=1):
        try:
            fields = json.loads(raw)
            sequence, named, digest = fields.pop("sequence"), fields.pop("previous"), fields.pop("digest")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LedgerError("not a ledger line", line=number) from error
        # The bytes themselves, not only their meaning: one line has one form.
        if encode(fields, sequence=sequence, previous=named) != (raw + b"\n", digest):
            raise LedgerError("its content does not have the digest that it carries", line=number)
        if sequence != number - 1:
            raise LedgerError(f"expected line number {number - 1} of the chain, got {sequence}", line=number)
        if named != previous:
            raise LedgerError("it does not follow the line before it", line=number)
        entries.append(Entry(line=number, fields=fields, digest=digest))
        previous = digest
    return entries, len(torn)


def open_locked(path: Path, flags: int, *, wait: bool = False) -> int:
    """Open `path` for this process alone; the lock goes with the descriptor, so a killed process frees it.

    Raises:
        RunError: there is no such file, or another process holds it and `wait` is false.
    """
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC, 0o644)
    except FileNotFoundError:
        raise RunError(f"no ledger at {path}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(descriptor)
        raise RunError(f"{path.name} is in use by another process: a run has one writer") from None
    return descriptor


def append(descriptor: int, line: bytes) -> None:
    """Write `line` where the descriptor stands; it is on disk on return."""
    rest = memoryview(line)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Bring the names of a folder's files to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
