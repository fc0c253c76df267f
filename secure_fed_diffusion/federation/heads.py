"""Signed heads: what each client last said of its own ledger, kept by those who cannot change it.

A hash chain without a key shows no cut tail.  So a client signs (label, run, client, line, head) after
each charge is on disk and puts that into the frame that the charge pays for; the server keeps all of
them and shows the latest to the client itself and to its `WITNESSES`: everybody in a small run, and in a
large one so many peers, whom the roster decides.  Each client keeps what it is shown.  Whoever is shown a
head that goes backwards, or another head of the same line, refuses it.  A client that is shown its own head
from beyond its ledger's end learns that its ledger was rolled back, and stops.

Not protected against: a cut behind the last signed head (a charge whose frame never left leaves none);
whoever holds the signing keys; a server that shows different clients different heads of one client that
signs two histories, until two of the witnesses' files are compared (`sfd audit` does that).

>>> key = SigningKey(bytes(range(32)))
>>> head = SignedHead.sign(key, run_id="a", client_id=3, line=2, head="ab" * 32)
>>> SignedHead.decode(head.encode()) == head, head.is_genuine("a", Roster({3: key.public}))
(True, True)
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from secure_fed_diffusion.errors import FrameError, LedgerError
from secure_fed_diffusion.secagg.signing import Roster, SigningKey

LABEL_HEAD = b"secure_fed_diffusion ledger head v1"
LABEL_RING = b"secure_fed_diffusion ring of witnesses v1"
_FORM = struct.Struct("<II32s64s")
HEAD_BYTES = _FORM.size
WITNESSES = 32  # how many peers each client's head is shown to


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedHead:
    """One client's word: the ledger of my charges has `head` (SHA-256) at `line`, counted from 1."""

    client_id: int
    line: int
    head: bytes
    signature: bytes

    @classmethod
    def sign(cls, key: SigningKey, *, run_id: str, client_id: int, line: int, head: str) -> SignedHead:
        """Sign a ledger's head, which is hexadecimal there."""
        digest = bytes.fromhex(head)
        signature = key.sign(_statement(run_id, client_id, line, digest))
        return cls(client_id=client_id, line=line, head=digest, signature=signature)

    def is_genuine(self, run_id: str, roster: Roster) -> bool:
        """Tell whether the client signed this, in this run."""
        statement = _statement(run_id, self.client_id, self.line, self.head)
        return roster.verify(self.client_id, statement, self.signature)

    def encode(self) -> bytes:
        """Return its `HEAD_BYTES` bytes."""
        return _FORM.pack(self.client_id, self.line, self.head, self.signature)

    @classmethod
    def decode(cls, data: bytes) -> SignedHead:
        """Read `HEAD_BYTES` bytes.

        Raises:
            FrameError: another length.
        """
        if len(data) != HEAD_BYTES:
            raise FrameError(f"expected a signed head of {HEAD_BYTES} bytes, got {len(data)}")
        client_id, line, head, signature = _FORM.unpack(data)
        return cls(client_id=client_id, line=line, head=head, signature=signature)


def _rank(roster: Roster, client_id: int) -> bytes:
    return sha256(LABEL_RING + roster.root + struct.pack("<I", client_id)).digest()


def _statement(run_id: str, client_id: int, line: int, head: bytes) -> bytes:
    run = run_id.encode()
    return LABEL_HEAD + struct.pack("<I", len(run)) + run + struct.pack("<II", client_id, line) + head


class HeadBook:
    """The heads that one party has been shown: the latest of each client, and with `keep_all` every one."""

    def __init__(
        self, run_id: str, roster: Roster, path: Path | None = None, *, keep_all: bool = False
    ) -> None:
        self._run_id, self._roster, self._path, self._keep_all = run_id, roster, path, keep_all
        self._latest: dict[int, SignedHead] = {}
        self._unsaved: list[SignedHead] = []
        if path is not None and path.exists():
            whole, newline, torn = path.read_bytes().rpartition(b"\n")
            if torn:
                os.truncate(path, len(whole) + len(newline))
            for head in read_heads(path):
                self._learn(head)

    @property
    def latest(self) -> Mapping[int, SignedHead]:
        """The latest head of each client that was shown one."""
        return MappingProxyType(self._latest)

    def shown_to(self, client_id: int) -> tuple[SignedHead, ...]:
        """Return the latest heads that this client is to see: its own, and those that it is a witness of.

        The clients stand in a ring, in an order that hangs on every key of the roster, so that nobody picks
        its own witnesses; each sees those before it.
        """
        ring, places = self._ring
        place, seen = places[client_id], min(WITNESSES, len(ring) - 1)
        clients = (ring[place - step] for step in range(seen + 1))
        return tuple(self._latest[client] for client in clients if client in self._latest)

    @cached_property
    def _ring(self) -> tuple[list[int], dict[int, int]]:
        """The clients in their ring, and where each stands: made by the server's book, which alone shows."""
        ring = sorted(self._roster, key=lambda client_id: _rank(self._roster, client_id))
        return ring, {client_id: place for place, client_id in enumerate(ring)}

    def learn(self, head: SignedHead) -> None:
        """Take a head, or refuse it.

        Raises:
            LedgerError: not signed by that client; behind, or another than, what it signed before.
        """
        known = self._latest.get(head.client_id)
        if known is not None and (known.line, known.head, known.signature) == (
            head.line,
            head.head,
            head.signature,
        ):
            return
        self._learn(head)
        self._unsaved.append(head)

    def _learn(self, head: SignedHead) -> None:
        if not head.is_genuine(self._run_id, self._roster):
            raise LedgerError(
                f"the head of line {head.line} is not signed by client {head.client_id}", peer=head.client_id
            )
        known = self._latest.get(head.client_id)
        if known is not None and head.line < known.line:
            raise LedgerError(
                f"client {head.client_id} shows the head of line {head.line}, and had shown that of line "
                f"{known.line}: its ledger went backwards",
                peer=head.client_id,
            )
        if known is not None and head.line == known.line and head.head != known.head:
            raise LedgerError(
                f"client {head.client_id} signed two different heads of line {head.line}", peer=head.client_id
            )
        self._latest[head.client_id] = head

    def save(self) -> None:
        """Write what was learned since; a process killed here leaves the file as it was, or a torn line."""
        if self._path is None or not self._unsaved:
            return
        if self._keep_all:
            with self._path.open("ab") as file:
                file.write(b"".join(_line(head) for head in self._unsaved))
        else:
            fresh = self._path.with_suffix(".new")
            fresh.write_bytes(b"".join(_line(self._latest[client]) for client in sorted(self._latest)))
            fresh.replace(self._path)
        self._unsaved.clear()


def _line(head: SignedHead) -> bytes:
    place = {"client_id": head.client_id, "line": head.line}
    return json.dumps({**place, "head": head.head.hex(), "signature": head.signature.hex()}).encode() + b"\n"


def read_heads(path: Path) -> list[SignedHead]:
    """Read a file of heads; nothing about them is checked but their form.

    Raises:
        LedgerError: a line that is no head.
    """
    heads = []
    for number, text in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            fields: dict[str, Any] = json.loads(text)
            head, signature = bytes.fromhex(fields["head"]), bytes.fromhex(fields["signature"])
            client_id, line = fields["client_id"], fields["line"]
            if not (type(client_id) is type(line) is int and len(head) == 32 and len(signature) == 64):
                raise ValueError("wrong type or length")
            if not (0 <= client_id < 1 << 32 and 1 <= line < 1 << 32):
                raise ValueError("out of range")
        except (ValueError, KeyError, TypeError) as error:
            raise LedgerError("no signed head", line=number, path=Path(path.name)) from error
        heads.append(SignedHead(client_id=client_id, line=line, head=head, signature=signature))
    return heads


class Chain(Protocol):
    """The part of a ledger that a witness needs."""

    @property
    def lines(self) -> int:
        """How many lines there are."""

    def digest_at(self, line: int) -> str | None:
        """Return the digest of a line, or None where there is none."""


class Witness:
    """One client's part: it signs the head of its ledger, and holds its peers to theirs."""

    def __init__(self, client_id: int, run_id: str, key: SigningKey, ledger: Chain, peers: HeadBook) -> None:
        self._client_id, self._run_id, self._key = client_id, run_id, key
        self._ledger, self._peers = ledger, peers

    def testify(self) -> SignedHead:
        """Sign the head of this client's ledger as it is on disk, and keep one's own word with the peers'.

        Raises:
            LedgerError: it signed a head before that is not in its ledger.
        """
        require_own_word(self._peers.latest.get(self._client_id), self._ledger)
        line = self._ledger.lines
        head = self._ledger.digest_at(line)
        if head is None:
            raise LedgerError("an empty ledger has no head")
        signed = SignedHead.sign(
            self._key, run_id=self._run_id, client_id=self._client_id, line=line, head=head
        )
        self._peers.learn(signed)
        self._peers.save()
        return signed

    def hear(self, heads: Sequence[SignedHead]) -> None:
        """Take the heads that the server shows.

        Raises:
            LedgerError: a peer's went backwards, contradicts an earlier one or is not signed; or this
                client signed more than its ledger holds.
        """
        for head in heads:
            if head.client_id == self._client_id:
                self._recognise(head)
            else:
                self._peers.learn(head)
        self._peers.save()

    def _recognise(self, head: SignedHead) -> None:
        """Compare one's own word with one's own ledger."""
        if head.signature != self._key.sign(
            _statement(self._run_id, self._client_id, head.line, head.head)
        ):  # Ed25519 is deterministic
            raise LedgerError(f"the head of line {head.line} is not signed by client {self._client_id}")
        require_own_word(head, self._ledger)


def require_own_word(head: SignedHead | None, ledger: Chain) -> None:
    """Hold a ledger to what its own client signed of it; None: it has signed nothing yet.

    Raises:
        LedgerError: the head is not in it.
    """
    if head is not None and ledger.digest_at(head.line) != head.head.hex():
        raise LedgerError(
            f"client {head.client_id} signed a head of line {head.line} that is not in its ledger of "
            f"{ledger.lines} lines: it was rolled back"
        )


def attach(head: SignedHead | None, frame: bytes) -> bytes:
    """Return a contribution's frame with its client's signed head before it."""
    return frame if head is None else head.encode() + frame


def detach(frame: bytes, client_id: int) -> tuple[SignedHead, bytes]:
    """Return the signed head and the frame behind it.

    Raises:
        FrameError: there is none, or it is another client's.
    """
    head = SignedHead.decode(frame[:HEAD_BYTES])
    if head.client_id != client_id:
        raise FrameError(f"client {client_id} shows client {head.client_id}'s head", culprits=(client_id,))
    return head, frame[HEAD_BYTES:]


def write_roster(path: Path, roster: Roster) -> None:
    """Write the public keys, whole or not at all."""
    fresh = path.with_suffix(".new")
    keys = {str(client_id): public.hex() for client_id, public in roster.publics.items()}
    fresh.write_text(json.dumps(keys, indent=1) + "\n", encoding="utf-8")
    fresh.replace(path)


def read_roster(path: Path) -> Roster:
    """Read the public keys of a run's clients.

    Raises:
        LedgerError: the file holds none.
        ConfigError: a key in it is none.
    """
    try:
        keys = json.loads(path.read_text(encoding="utf-8"))
        return Roster({int(client_id): bytes.fromhex(public) for client_id, public in keys.items()})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise LedgerError(f"{path.name} holds no roster") from error
