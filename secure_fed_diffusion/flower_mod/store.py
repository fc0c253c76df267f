"""A client's state on its own disk: Flower starts a process for each message.

One folder for each run and client (by its signing key; without one by its node), mode 0700, files 0600: of
each set-up in progress the client's snapshot and the terms that it was made under; and the latch, one file a
step, which keeps a step from being answered in two ways.

A process writes a set-up only while it is the version that this process read, so one that was slow brings
nothing back that another one has used up.  The folder stays on the node: what an app puts into Flower's
`context.state` crosses the channel between SuperNode and ClientApp, plain http unless it is given
certificates.

Not protected against: whoever reads the folder is the client; a folder that is rolled back together with its
latch.  Old files are unlinked, not overwritten.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path

from ..errors import RunError

OPEN_SETUPS = 4  # of one run; the oldest is dropped for the next one, and its secrets with it


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A set-up at rest: its terms, this client's number in it, the round it stands in, the snapshot.

    `in_training`: the round's masks are used, and its input has not left.
    """

    terms: str
    client_id: int
    round_number: int
    snapshot: bytes = field(repr=False)
    in_training: bool = False


class Store:
    """The folder of one client in one run.

    Raises:
        RunError: it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[bytes, int] = {}
        try:
            (folder / "latch").mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
        except OSError as error:
            raise RunError(f"the client's state folder cannot be used: {error.strerror}") from None

    def save(self, session_id: bytes, saved: Saved) -> None:
        """Write what a set-up goes on from in place of what was there, whole or not at all.

        Raises:
            RunError: another process has written or dropped it since this object read it.
        """
        body = {**asdict(saved), "snapshot": saved.snapshot.hex()}
        with self._locked():
            version = self._require_unchanged(session_id) + 1
            _replace(self._path(session_id), json.dumps({**body, "version": version}).encode())
            self._seen[session_id] = version
            written = sorted(self._folder.glob("*.setup"), key=lambda path: path.stat().st_mtime_ns)
            left_by_a_kill = self._folder.glob("*.pending")
            for path in (*written[:-OPEN_SETUPS], *left_by_a_kill):
                path.unlink(missing_ok=True)

    def load(self, session_id: bytes) -> Saved:
        """Return what was saved last.

        Raises:
            RunError: no such set-up, or a damaged file.
        """
        try:
            held = json.loads(self._path(session_id).read_bytes())
            version = int(held.pop("version"))
            saved = Saved(**{**held, "snapshot": bytes.fromhex(held["snapshot"])})
        except (OSError, AttributeError, KeyError, TypeError, ValueError):
            raise RunError("this client has no such set-up to go on with") from None
        self._seen[session_id] = version
        return saved

    def holds(self, session_id: bytes) -> bool:
        """Tell whether the set-up is under way."""
        return self._path(session_id).exists()

    def forget(self, session_id: bytes) -> None:
        """Unlink the secrets of a set-up, unless another process has gone on with it."""
        with self._locked():
            try:
                self._require_unchanged(session_id)
            except RunError:
                return
            for path in (self._path(session_id), *self._folder.glob("*.pending")):
                path.unlink(missing_ok=True)

    def latch(self, key: bytes, value: bytes) -> bool:
        """Write `value` under `key`, durably, unless one is there; tell whether `value` is there."""
        path = self._folder / "latch" / sha256(key).hexdigest()
        try:
            _fill(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), value)
        except FileExistsError:
            return path.read_bytes() == value
        _sync(path.parent)
        return True

    def _require_unchanged(self, session_id: bytes) -> int:
        """Return the version on disk, 0 for none."""
        try:
            there = int(json.loads(self._path(session_id).read_bytes())["version"])
        except FileNotFoundError:
            there = 0
        except (KeyError, TypeError, ValueError):
            there = -1
        if there != self._seen.get(session_id, 0):
            raise RunError("another process has gone on with this set-up")
        return there

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _path(self, session_id: bytes) -> Path:
        return self._folder / f"{sha256(session_id).hexdigest()}.setup"


def _replace(path: Path, body: bytes) -> None:
    pending = path.with_suffix(".pending")  # one name, so that the next write takes what a kill left behind
    pending.unlink(missing_ok=True)
    try:
        _fill(os.open(pending, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), body)
        pending.replace(path)
    except BaseException:
        pending.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _fill(descriptor: int, body: bytes) -> None:
    with os.fdopen(descriptor, "wb") as file:
        file.write(body)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
