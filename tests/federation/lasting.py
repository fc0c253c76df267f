"""Clients that live in files: taken up for each frame and put down after it, here or in a child process."""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from secure_fed_diffusion import secagg
from secure_fed_diffusion.dp.ledger import Ledger
from secure_fed_diffusion.errors import SecureFedDiffusionError
from secure_fed_diffusion.federation.client import Client, Contribution
from secure_fed_diffusion.federation.heads import HeadBook, Witness
from secure_fed_diffusion.federation.state import ClientFiles
from tests.federation.small import Federation


@dataclass
class Institution:
    """One client's folder, and what a process needs to answer a frame for it."""

    folder: Path
    contributor: Contribution
    roster: secagg.Roster
    key: secagg.SigningKey
    purse: Any = None  # default: the ledger in its folder
    heads: bool = False

    def handle(self, frame: bytes) -> bytes:
        """Take the client up, answer, put it down."""
        with ClientFiles(self.folder) as files, self._ledger() as purse:
            client_id = self.contributor.client_id
            book = HeadBook("run", self.roster, self.folder / "peers.jsonl")
            witness = Witness(client_id, "run", self.key, purse, book) if self.heads else None
            client = Client.taken_up(
                files,
                "run",
                self.contributor,
                purse,
                witness=witness,
                roster=self.roster,
                signer=self.key,
            )
            return client.handle(frame)

    @contextmanager
    def _ledger(self) -> Iterator[Any]:
        if self.purse is not None:
            yield self.purse
            return
        path = self.folder / "ledger.jsonl"
        if path.exists() and b"\n" in path.read_bytes():
            ledger = Ledger.open(path)
        else:  # also where a kill left half of its first line
            ledger = Ledger.create(path, self.contributor.plan.terms("run", ""))
        with ledger:
            yield ledger


def with_folders(
    it: Federation, root: Path, *, purse: Any = None, heads: bool = False
) -> dict[int, Institution]:
    """Let every client of a federation live in a folder of its own."""
    them = {
        c: Institution(root / str(c), it.contributors[c], client._roster, client._signer, purse, heads)
        for c, client in it.clients.items()
    }
    it.engine.handlers = {c: institution.handle for c, institution in them.items()}
    return them


@dataclass
class Child:
    """Answers in a forked process, which SIGKILL ends at event number `last`: a write, sync or rename."""

    handle: Callable[[bytes], bytes]
    last: int | None = None
    events: list[int] = field(default_factory=list)

    def __call__(self, frame: bytes) -> bytes | str | None:
        """Return the answer, the name of our own error, or None where the process was killed."""
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(reading)
                self._answer(frame, writing)
            finally:
                os._exit(1)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            said = pipe.read()
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            assert not said
            return None
        assert os.WIFEXITED(status)
        assert os.WEXITSTATUS(status) == 0
        (n_events,) = struct.unpack_from("<I", said)
        self.events.append(n_events)
        return said[5:] if said[4:5] == b"+" else said[5:].decode()

    def _answer(self, frame: bytes, writing: int) -> None:
        count, write = 0, os.write

        def tick() -> None:
            nonlocal count
            count += 1
            if count == self.last:
                os.kill(os.getpid(), signal.SIGKILL)

        def torn(descriptor: int, data: Any) -> int:
            nonlocal count
            count += 1
            if count == self.last:
                write(descriptor, bytes(data)[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return write(descriptor, data)

        def around(call: Callable[..., Any]) -> Callable[..., Any]:
            def watched(*args: Any, **kwargs: Any) -> Any:
                tick()
                answer = call(*args, **kwargs)
                tick()
                return answer

            return watched

        os.write = torn
        for name in ("fsync", "replace"):
            setattr(os, name, around(getattr(os, name)))
        try:
            answer = b"+" + self.handle(frame)
            tick()  # just before it leaves
        except SecureFedDiffusionError as error:
            answer = f"-{type(error).__name__}: {error}".encode()
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(struct.pack("<I", count) + answer)
        os._exit(0)
