"""The coordinator's own record, where each client keeps its own ledger in a process that may be gone.

The server cannot see a client's charge, so it counts what it asks for: a line in its ledger (the terms say
`by_server`) for each client whose contribution the next frames ask for, synced before they leave.  So the
book shows at least what each client spent, and the same where everybody who was asked answered.  It also
notes every attempt that it opens: a number that was opened once, before a kill as well, is not opened again.

Not protected against: a book that is deleted; the clients' own ledgers are what their budgets hold by.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secure_fed_diffusion.dp.ledger import Ledger
from secure_fed_diffusion.errors import PrivacyError, RunError
from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.server import PLAIN, Server


class Book:
    """Which attempts were opened, in `path`, and who was asked, in `ledger`."""

    def __init__(self, ledger: Ledger, path: Path) -> None:
        self._ledger, self._path = ledger, path
        self._opened: dict[int, int] = {}  # round: its last attempt
        whole, newline, _torn = (path.read_bytes() if path.exists() else b"").rpartition(b"\n")
        self._size = len(whole) + len(newline)
        try:
            for line in whole.decode("ascii").splitlines():
                number, attempt = (int(word) for word in line.split())
                self._opened[number] = max(attempt, self._opened.get(number, 0))
        except ValueError:
            raise RunError(f"{path} holds no list of attempts: restore it or start anew") from None

    def attempts(self, round: int) -> int:  # noqa: A002
        """Return the first attempt at `round`, counted from 0, that was never opened."""
        return max(self._ledger.attempts(round), self._opened.get(round, -1) + 1)

    def paid(self, round: int) -> int:  # noqa: A002
        """Return at how many attempts of `round` somebody was asked: one that ended before cost nothing."""
        return self._ledger.paid(round)

    def open(self, number: int, attempt: int) -> None:
        """Note an attempt, synced.

        Raises:
            RunError: it was opened before.
        """
        if attempt < self.attempts(number):
            raise RunError(f"attempt {attempt} at round {number} was opened before")
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            os.ftruncate(descriptor, self._size)  # a line that a kill tore opened nothing
            os.lseek(descriptor, 0, os.SEEK_END)
            self._size += os.write(descriptor, f"{number} {attempt}\n".encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._opened[number] = attempt

    def ask(self, plan: Plan, client_id: int, number: int, attempt: int) -> None:
        """Charge a client that is about to be asked.

        Raises:
            PrivacyError: its budget does not cover it, as far as this book knows.
        """
        release = plan.releases[plan.rounds[number - 1].release]
        self._ledger.charge(
            client_id, round=number, attempt=attempt, mechanism=release.name, steps=release.steps
        )


class BookedServer(Server):
    """A coordinator whose clients are other processes: on disk first, then out."""

    def __init__(self, run_id: str, plan: Plan, *rest: Any, book: Book, **more: Any) -> None:
        super().__init__(run_id, plan, *rest, **more)
        self._agreed, self._book = plan, book
        self._place = (0, 0)

    def open(self, number: int, attempt: int) -> Mapping[int, bytes]:
        """Note the attempt, then open it; see `Server.open`."""
        self._book.open(number, attempt)
        self._place = (number, attempt)
        return self._asked(super().open(number, attempt))

    def take(self, replies: Mapping[int, bytes]) -> Mapping[int, bytes]:
        """Go on; whoever is asked for a contribution is in the book before its frame is handed over."""
        before = self.phase
        frames = super().take(replies)
        return frames if before == self.phase else self._asked(frames)

    def _asked(self, frames: Mapping[int, bytes]) -> Mapping[int, bytes]:
        """Return the frames of those whom their budget, as this book knows it, still covers."""
        if self.phase not in ("masked_input", PLAIN):
            return frames
        refused = set()
        for client_id in frames:
            try:
                self._book.ask(self._agreed, client_id, *self._place)
            except PrivacyError as error:
                self.refused[client_id] = str(error)
                refused.add(client_id)
        if not refused:
            return frames
        return {client_id: frames[client_id] for client_id in frames if client_id not in refused}
