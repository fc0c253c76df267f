"""What the signed heads of a run say of its ledger, for the auditor.

Reads the server's `heads.jsonl` and every client's `peers.jsonl`, checks each signature against the
roster and each head against the chain.  A head beyond the ledger's end shows a cut tail; one that is not
in the chain shows a rewrite even where every digest was mended.  Together they bind the ledger up to the
last line that any client signed.

Not protected against: a cut behind that line; a folder whose roster was replaced together with the rest
(compare its root over another channel); a folder that holds the signing keys, as that of a run with all
clients in one process does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secure_fed_diffusion.dp.ledger import LedgerReport
from secure_fed_diffusion.errors import LedgerError
from secure_fed_diffusion.federation.heads import SignedHead, read_heads, read_roster

HEADS, ROSTER, CLIENTS, PEERS, KEY = "heads.jsonl", "roster.json", "clients", "peers.jsonl", "signing.key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Testimony:
    """What was shown: every head is signed and in the chain."""

    signed: Mapping[int, int]  # the last line that each client signed, of those whose chain this is
    n_heads: int
    roster_root: str | None  # None: this run has no signed heads
    keys_beside: bool  # whoever has the folder can sign in the clients' names

    @property
    def last(self) -> tuple[int, int] | None:
        """The last signed line, and a client that signed it."""
        return max(((line, client_id) for client_id, line in self.signed.items()), default=None)

    def statement(self, report: LedgerReport) -> str:
        """Say how far the record is bound, and by whom."""
        if report.truncation_excluded:
            return report.statement
        opening = f"No line was altered, dropped or moved up to the last one ({report.lines});"
        if self.last is None:
            return f"{opening} truncation is not excluded: no client signed a head of it."
        line, client_id = self.last
        text = (
            f"{opening} truncation is not excluded beyond line {line}, the last head signed, by client "
            f"{client_id}."
        )
        if self.keys_beside:
            text += (
                " The clients' signing keys lie in this folder, because one process played all of them: "
                "against whoever can read it the signatures show nothing."
            )
        return text

    def to_dict(self) -> dict[str, Any]:
        """Return the findings as JSON types."""
        return {
            "last_signed_line": self.last[0] if self.last else None,
            "signed_lines": {str(client_id): line for client_id, line in sorted(self.signed.items())},
            "heads": self.n_heads,
            "roster_root": self.roster_root,
            "keys_beside": self.keys_beside,
        }


def examine(directory: Path, report: LedgerReport) -> Testimony:
    """Check every signed head in a run's folder against its roster and its ledger.

    Raises:
        LedgerError: a head that nobody on the roster signed; two heads of one line by one client; or the
            first line of the ledger that a client had signed otherwise, or that is missing.
    """
    files = [path for path in (directory / HEADS,) if path.exists()]
    files += sorted((directory / CLIENTS).glob(f"*/{PEERS}"))
    heads = {head for path in files for head in read_heads(path)}
    if not (directory / ROSTER).exists():
        if heads:
            raise LedgerError(f"there are signed heads, and no {ROSTER} to check them against")
        return Testimony(signed={}, n_heads=0, roster_root=None, keys_beside=False)
    roster = read_roster(directory / ROSTER)
    said: dict[tuple[int, int], bytes] = {}
    for head in sorted(heads, key=lambda head: (head.line, head.client_id)):
        if not head.is_genuine(report.terms.run_id, roster):
            raise LedgerError(
                f"client {head.client_id} did not sign the head that bears its name", line=head.line
            )
        if said.setdefault((head.client_id, head.line), head.head) != head.head:
            raise LedgerError(f"client {head.client_id} signed two different heads of it", line=head.line)
        if report.terms.owner in (None, head.client_id):
            _require_in_chain(head, report)
    signed: dict[int, int] = {}
    for client_id, line in said:
        if report.terms.owner in (None, client_id):
            signed[client_id] = max(line, signed.get(client_id, 0))
    return Testimony(
        signed=signed,
        n_heads=len(heads),
        roster_root=roster.root.hex(),
        keys_beside=any((directory / CLIENTS).glob(f"*/{KEY}")),
    )


def _require_in_chain(head: SignedHead, report: LedgerReport) -> None:
    if head.line > report.lines:
        raise LedgerError(
            f"it is missing: client {head.client_id} signed line {head.line}, the tail was cut",
            line=report.lines + 1,
        )
    if report.digests[head.line - 1] != head.head.hex():
        raise LedgerError(
            f"client {head.client_id} signed another head: this line, or one before it, was rewritten",
            line=head.line,
        )
