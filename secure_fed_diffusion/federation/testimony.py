"""What the signed heads of a run say of its ledger, for the auditor.

Reads the server's `heads.jsonl` and every client's `peers.jsonl`, checks each signature against the
roster and each head against the chain.  A head beyond the ledger's end shows a cut tail; one that is not
in the chain shows a rewrite even where every digest was mended.  Together they bind the ledger up to the
last line that any client signed.  `require_whole` asks that before a run goes on, settles or sums up.

A coordinator's book (`dp.terms`, by_server) is another chain than those that the clients sign: there the
heads are held against the clients' own ledgers, where those lie in the folder, and each charge of theirs must
be in the book.

Not protected against: a cut behind that line (a book's: behind the first charge of its last finished round,
where no client's own ledger lies beside it); a folder whose
roster was replaced together with the rest (compare its root over another channel); a folder that holds the
signing keys, as that of a run with all clients in one process does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secure_fed_diffusion.dp import chain
from secure_fed_diffusion.dp.account import Charge, read_charge
from secure_fed_diffusion.dp.ledger import Ledger, LedgerReport, verify
from secure_fed_diffusion.errors import LedgerError
from secure_fed_diffusion.federation.heads import Chain, SignedHead, read_heads, read_roster

HEADS, ROSTER, CLIENTS, PEERS, KEY = "heads.jsonl", "roster.json", "clients", "peers.jsonl", "signing.key"
LEDGER = "ledger.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Testimony:
    """What was shown: every head is signed and in the chain."""

    signed: Mapping[int, int]  # the last line that each client signed, of those whose chain this is
    n_heads: int
    roster_root: str | None  # None: this run has no signed heads
    keys_beside: bool  # whoever has the folder can sign in the clients' names
    own_ledgers: int | None = None  # how many clients' own were held against a coordinator's book

    @property
    def last(self) -> tuple[int, int] | None:
        """The last signed line, and a client that signed it; None in a book, which nobody signs."""
        if self.own_ledgers is not None:
            return None
        return max(((line, client_id) for client_id, line in self.signed.items()), default=None)

    def statement(self, report: LedgerReport) -> str:
        """Say how far the record is bound, and by whom."""
        if report.truncation_excluded:
            return report.statement
        opening = f"No line was altered, dropped or moved up to the last one ({report.lines});"
        if self.own_ledgers is not None:
            return f"{opening} {_BOOK} {self._of_own_ledgers()}{self._of_keys()}"
        if self.last is None:
            return f"{opening} truncation is not excluded: no client signed a head of it."
        line, client_id = self.last
        text = (
            f"{opening} truncation is not excluded beyond line {line}, the last head signed, by client "
            f"{client_id}."
        )
        return text + self._of_keys()

    def _of_keys(self) -> str:
        if not self.keys_beside:
            return ""
        return (
            " The clients' signing keys lie in this folder, because one machine played all of them: "
            "against whoever can read it the signatures show nothing."
        )

    def _of_own_ledgers(self) -> str:
        if not self.own_ledgers:
            return f"The clients' own ledgers are not here; {self.n_heads} signed heads of them are."
        return (
            f"{self.own_ledgers} clients' own ledgers lie beside it: every head that they signed is in them, "
            "and every charge in them is in the book."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the findings as JSON types."""
        return {
            "last_signed_line": self.last[0] if self.last else None,
            "signed_lines": {str(client_id): line for client_id, line in sorted(self.signed.items())},
            "heads": self.n_heads,
            "roster_root": self.roster_root,
            "keys_beside": self.keys_beside,
        }


_BOOK = "truncation is not excluded: it is the coordinator's book of whom it asked, which no client signs."


def require_whole(directory: Path, ledger: Ledger, finished_round: int) -> None:
    """Refuse a ledger that lacks a line that a client signed, or a round whose sum is in the checkpoint.

    Raises:
        LedgerError: it was rolled back or rewritten; what it shows is less than what was spent.
    """
    try:
        examine(directory, ledger)
        for number in range(1, finished_round + 1):
            if not ledger.paid(number):
                raise LedgerError(
                    f"the checkpoint holds the sum of round {number}, which nobody is charged for"
                )
    except LedgerError as error:
        raise LedgerError(
            f"{directory / LEDGER} was rolled back or altered ({error}): nothing is settled by it, and no ε "
            "is stated; restore the file"
        ) from error


def examine(directory: Path, record: Ledger | LedgerReport) -> Testimony:
    """Check every signed head in a run's folder against its roster and its ledger.

    Raises:
        LedgerError: a head that nobody on the roster signed; two heads of one line by one client; or the
            first line of the ledger that a client had signed otherwise, or that is missing.
    """
    files = [path for path in (directory / HEADS,) if path.exists()]
    files += sorted((directory / CLIENTS).glob(f"*/{PEERS}"))
    heads = _places(files)
    if not (directory / ROSTER).exists():
        if heads:
            raise LedgerError(
                f"there are signed heads, and no {ROSTER} to check them against",
                path=next(iter(heads.values()))[0],
            )
        return Testimony(signed={}, n_heads=0, roster_root=None, keys_beside=False)
    roster = read_roster(directory / ROSTER)
    said: dict[tuple[int, int], bytes] = {}
    for head in sorted(heads, key=lambda head: (head.line, head.client_id)):
        if not head.is_genuine(record.terms.run_id, roster):
            path, number = heads[head]
            raise LedgerError(
                f"client {head.client_id} did not sign the head of line {head.line} that bears its name",
                line=number,
                path=path,
            )
        if said.setdefault((head.client_id, head.line), head.head) != head.head:
            raise LedgerError(f"client {head.client_id} signed two different heads of it", line=head.line)
        if record.terms.owner in (None, head.client_id) and not record.terms.by_server:
            _require_head(head.client_id, head.line, head.head.hex(), record)
    own = _examine_own(directory, record, said) if record.terms.by_server else None
    signed: dict[int, int] = {}
    for client_id, line in said:
        if record.terms.owner in (None, client_id):
            signed[client_id] = max(line, signed.get(client_id, 0))
    return Testimony(
        signed=signed,
        n_heads=len(heads),
        roster_root=roster.root.hex(),
        keys_beside=any((directory / CLIENTS).glob(f"*/{KEY}")),
        own_ledgers=own,
    )


def _places(files: Iterable[Path]) -> dict[SignedHead, tuple[Path, int]]:
    """Return every head of the files, with the first file that holds it and its line there."""
    places: dict[SignedHead, tuple[Path, int]] = {}
    for path in files:
        try:
            for number, head in enumerate(read_heads(path), start=1):
                places.setdefault(head, (path, number))
        except LedgerError as error:
            raise error.within(path) from error
    return places


def _examine_own(directory: Path, book: Ledger | LedgerReport, said: Mapping[tuple[int, int], bytes]) -> int:
    """Check the clients' own ledgers in a coordinator's folder; return how many there are."""
    asked = _charges(directory / LEDGER)
    signed = {client_id for client_id, _ in said}
    paths = [
        path
        for path in sorted((directory / CLIENTS).glob(f"*/{LEDGER}"))
        # one that a kill left without its first line was never begun, unless its owner signed a head of it
        if b"\n" in path.read_bytes() or int(path.parent.name) in signed
    ]
    for path in paths:
        try:
            own = verify(path)
            if own.terms.run_id != book.terms.run_id or own.terms.owner is None:
                raise LedgerError("the terms are another run's, or no client's own", line=1)
            for (client_id, line), head in said.items():
                if client_id == own.terms.owner:
                    _require_head(client_id, line, head.hex(), own)
            for number, charge in enumerate(_charges(path), start=2):
                if charge not in asked:
                    raise LedgerError(
                        "the coordinator's book has no such charge: its tail was cut", line=number
                    )
        except LedgerError as error:
            raise error.within(path) from error
    return len(paths)


def _charges(path: Path) -> dict[Charge, None]:
    """Return the charges of a ledger whose lines were verified, in order."""
    entries, _ = chain.decode(path.read_bytes())
    return dict.fromkeys(read_charge(entry)[0] for entry in entries[1:])


def _require_head(client_id: int, line: int, head: str, record: Chain) -> None:
    if line > record.lines:
        raise LedgerError(
            f"it is missing: client {client_id} signed line {line}, the tail was cut",
            line=record.lines + 1,
        )
    if record.digest_at(line) != head:
        raise LedgerError(
            f"client {client_id} signed another head: this line, or one before it, was rewritten",
            line=line,
        )
