"""What one client keeps on disk between two frames, so that each frame may meet a new process.

Two files in the client's own folder.  `state.bin`, replaced whole and readable by its owner alone, holds
where the client stands: as secret as a private key.  `latch.txt` grows by one line for each answer, synced
before the answer leaves, and is the memory that a restored copy of `state.bin` cannot rewind: the step
that it names is never answered in another way.  `state.bin` begins with the digest of the latch as it then
was: a latch that was cut or lost since is noticed, and the state refused.

The order is: the charge on disk, the contribution computed, the latch, the state on disk, the answer.  A
process killed at any point meets the same frame again with the same bytes, or with an error.

Not protected against: somebody who puts back BOTH files, and the ledger with them (the server's copy of
the client's signed head shows that, at the next announcement that carries it); bytes that a file system
keeps of a file that was replaced.

>>> import tempfile
>>> with tempfile.TemporaryDirectory() as folder, ClientFiles(Path(folder)) as files:
...     files.latch(b"step", b"one"), files.latch(b"step", b"two"), files.latch(b"step", b"one")
(True, False, True)
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from secure_fed_diffusion.dp import chain
from secure_fed_diffusion.errors import RunError
from secure_fed_diffusion.federation.messages import Announcement, SetupCall

STATE, LATCH = "state.bin", "latch.txt"
_FRESH = "state.new"
_VERSION = 1
_DIGEST_BYTES = 32
_LENGTH = struct.Struct("<I")


class FileLatch:
    """A file of what was answered, one synced line a step; `secagg.Client` asks it before a frame leaves.

    One process holds it at a time.  A torn last line, whose answer never left, is cut away.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = chain.open_locked(path, os.O_RDWR | os.O_CREAT)
        try:
            whole, newline, torn = path.read_bytes().rpartition(b"\n")
            if torn:
                os.ftruncate(self._descriptor, len(whole) + len(newline))
                os.fsync(self._descriptor)
            os.lseek(self._descriptor, 0, os.SEEK_END)
            lines = whole.split(b"\n") if whole else []
            self._said = dict(_read_line(line) for line in lines)
            self._so_far = sha256()
            self._marks = {self.mark}
            for line in lines:
                self._count(line)
            chain.sync_folder(path.parent)
        except BaseException:
            self.close()
            raise

    def __call__(self, key: bytes, value: bytes) -> bool:
        """Write `value` under `key`, durably, unless one is there; return whether `value` is there.

        Raises:
            RunError: it cannot be written, so nothing may leave.
        """
        if self._descriptor < 0:
            raise RunError(f"{self._path.name} is closed, or an earlier write to it failed")
        if key in self._said:
            return self._said[key] == value
        try:
            chain.append(self._descriptor, f"{key.hex()} {value.hex()}\n".encode())
        except OSError as error:
            self.close()  # what it left on disk is for the next process to judge
            raise RunError(f"{self._path.name} cannot be written: {error.strerror}") from None
        self._said[key] = value
        self._count(f"{key.hex()} {value.hex()}".encode())
        return True

    @property
    def mark(self) -> bytes:
        """SHA-256 of all that was answered so far."""
        return self._so_far.digest()

    def reached(self, mark: bytes) -> bool:
        """Tell whether `mark` is of these lines, or of the first of them."""
        return mark in self._marks

    def _count(self, line: bytes) -> None:
        self._so_far.update(line + b"\n")
        self._marks.add(self.mark)

    def close(self) -> None:
        """Let another process in; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _read_line(line: bytes) -> tuple[bytes, bytes]:
    try:
        key, value = line.decode("ascii").split(" ")
        return bytes.fromhex(key), bytes.fromhex(value)
    except ValueError:
        raise RunError(f"{LATCH} was altered: restore it, or begin with new keys") from None


def forget(folder: Path) -> None:
    """Delete the state, with the keys in it, of a client whose run is over; the latch stays.

    Raises:
        RunError: it cannot be deleted.
    """
    try:
        for name in (STATE, _FRESH):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"{STATE} cannot be deleted: {error.strerror}") from None


class ClientFiles:
    """The files of one client in one run; use it as a context manager, or `close` it.

    Raises:
        RunError: another process answers for this client, or a file was altered.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / STATE
        self.latch = FileLatch(folder / LATCH)

    def read(self) -> bytes | None:
        """Return what was last written, or None.

        Raises:
            RunError: it cannot be read, or the latch has lost what was answered before it was written.
        """
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RunError(f"{STATE} cannot be read: {error.strerror}") from None
        if not self.latch.reached(data[:_DIGEST_BYTES]):
            raise RunError(
                f"{STATE} was cut or damaged, or {LATCH} lacks what was answered before it was written: "
                "without both this client joins the next set-up anew"
            )
        return data[_DIGEST_BYTES:]

    def write(self, state: bytes) -> None:
        """Replace the state: on disk on return, readable by its owner alone from its first byte on.

        Raises:
            RunError: it cannot be written, so nothing may leave.
        """
        fresh = self._path.with_name(_FRESH)
        try:
            fresh.unlink(missing_ok=True)
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                chain.append(descriptor, self.latch.mark + state)
            finally:
                os.close(descriptor)
            os.replace(fresh, self._path)
            chain.sync_folder(self._path.parent)
        except OSError as error:
            raise RunError(f"{STATE} cannot be written: {error.strerror}") from None

    def close(self) -> None:
        """Let another process in."""
        self.latch.close()

    def __enter__(self) -> ClientFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(slots=True, kw_only=True, repr=False)
class Standing:
    """Where a client stands between two frames; `machine` is the secure sum's own snapshot."""

    setup: SetupCall | None = None  # the set-up for several rounds that it is in
    attempt: tuple[int, int, bytes] | None = None  # round, attempt, H(model): of a set-up for one
    pending: Announcement | None = None  # announced, and not yet contributed to
    machine: bytes = b""
    answered: bytes = b""  # the digest of the last frame
    answer: bytes = b""

    def encode(self, owner: Mapping[str, Any]) -> bytes:
        """Return it as one row of bytes, its checksum first; `owner` says whose it is."""
        setup, attempt, pending = self.setup, self.attempt, self.pending
        fields = {
            "setup": None if setup is None else [setup.release, setup.nonce.hex()],
            "attempt": None if attempt is None else [*attempt[:2], attempt[2].hex()],
            "pending": None if pending is None else [pending.round, pending.attempt],
            "answered": self.answered.hex(),
        }
        weights = b"" if pending is None else pending.weights.astype("<f4").tobytes()
        parts = (weights, self.machine, self.answer)
        head = {"version": _VERSION, "owner": owner, **fields, "lengths": [len(part) for part in parts]}
        text = json.dumps(head, separators=(",", ":")).encode()
        body = b"".join((_LENGTH.pack(len(text)), text, *parts))
        return sha256(body).digest() + body

    @classmethod
    def decode(cls, data: bytes, owner: Mapping[str, Any]) -> Standing:
        """Return what `encode` was called on.

        Raises:
            RunError: cut or damaged, or somebody else's: refused as a whole.
        """
        checksum, body = data[:_DIGEST_BYTES], memoryview(data)[_DIGEST_BYTES:]
        if checksum != sha256(body).digest():
            raise RunError(f"{STATE} was cut or damaged: without it this client joins the next set-up anew")
        (length,) = _LENGTH.unpack_from(body)
        start = _LENGTH.size + length
        head = json.loads(bytes(body[_LENGTH.size : start]))
        if (head["version"], head["owner"]) != (_VERSION, dict(owner)):
            raise RunError(f"{STATE} is of another run, plan, client or version")
        parts = []
        for n_bytes in head["lengths"]:
            parts.append(body[start : start + n_bytes])
            start += n_bytes
        setup, attempt, pending = head["setup"], head["attempt"], head["pending"]
        weights = np.frombuffer(parts[0], dtype="<f4").astype(np.float32)
        return cls(
            setup=None if setup is None else SetupCall(setup[0], bytes.fromhex(setup[1])),
            attempt=None if attempt is None else (attempt[0], attempt[1], bytes.fromhex(attempt[2])),
            pending=None if pending is None else Announcement(pending[0], pending[1], weights),
            machine=bytes(parts[1]),
            answered=bytes.fromhex(head["answered"]),
            answer=bytes(parts[2]),
        )
