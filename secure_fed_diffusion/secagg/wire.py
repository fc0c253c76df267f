"""The wire format and the states as text, generated from the code that runs: for the README and for ports.

    python -m secure_fed_diffusion.secagg.wire     prints both

Not protected against: a docstring that lies.  Names, numbers, senders and states come from `phases`; what
a payload holds and how long it is from the docstrings of `messages`, whose lengths the tests measure.

>>> print(table().splitlines()[2])
| 1 | ADVERT | client | ephemeral public keys, one for sealing and one a round for masks | 32 (1 + R) bytes |
"""

from __future__ import annotations

from inspect import getdoc

from . import messages
from .phases import PROFILES, VERIFY, Kind, diagram

MESSAGES: dict[Kind, type] = {
    Kind.ADVERT: messages.Advert,
    Kind.ADVERT_LIST: messages.AdvertList,
    Kind.SHARES: messages.Shares,
    Kind.SHARE_DELIVERY: messages.ShareDelivery,
    Kind.MASKED_INPUT: messages.MaskedInput,
    Kind.SURVIVORS: messages.Survivors,
    Kind.CONSISTENCY: messages.Consistency,
    Kind.CONSISTENCY_LIST: messages.ConsistencyList,
    Kind.UNMASK_SHARES: messages.UnmaskShares,
    Kind.COMMITMENT: messages.Commitment,
    Kind.CHOICE: messages.Choice,
    Kind.RESULT: messages.Result,
}


def table() -> str:
    """Return the kinds of frames as a Markdown table."""
    sent_by_clients = {step.sends for steps in PROFILES.values() for step in steps}
    lines = ["| kind | name | from | payload | bytes |", "|---|---|---|---|---|"]
    for kind, message in MESSAGES.items():
        _, _, content = _first_line(message).partition(": ")
        sender = "client" if kind in sent_by_clients else "server"
        lines.append(f"| {kind.value} | {kind.name} | {sender} | {content} | {_first_line(message.encode)} |")  # type: ignore[attr-defined]
    return "\n".join(lines)


def diagrams() -> str:
    """Return the states of every profile, and of a verifiable sum, as Mermaid diagrams."""
    steps = {**PROFILES, "active, verifiable": (*PROFILES["active"], VERIFY)}
    return "\n\n".join(f"### {name}\n\n```mermaid\n{diagram(each)}\n```" for name, each in steps.items())


def _first_line(documented: object) -> str:
    return (getdoc(documented) or "").splitlines()[0].rstrip(".")


if __name__ == "__main__":
    print(table(), diagrams(), sep="\n\n")
