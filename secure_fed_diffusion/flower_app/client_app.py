"""The ClientApp: one kind of message, whose frame is handed to this node's party, and its answer back.

`app` is what a SuperNode runs: its party is the `Institution` that `institution` in the node's configuration
names.  It is opened once a process; its state is on disk after each frame, so the next message may meet
another process.  Nothing here imports torch, and of this package only what an answer needs.

An error of our tree goes back as a refusal, by name, and with its words only where they are about the frame:
what is wrong at the institution stays in its own log (`reticent`).  Any other is an accident, and Flower's
own to report.

Not protected against: a coordinator whose Flower app bundle brings another ClientApp than this one: where the
node runs that, none of the institution's rules are asked.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from secure_fed_diffusion.engines.flower import ACTION, decode_frame, encode_frame, encode_refusal
from secure_fed_diffusion.errors import (
    BudgetExceededError,
    ConfigError,
    DataError,
    LedgerError,
    RunError,
    SecureFedDiffusionError,
)

log = logging.getLogger(__name__)
INSTITUTION = "institution"  # key of the node's configuration


def _whole(error: SecureFedDiffusionError) -> SecureFedDiffusionError:
    return error


class Party(Protocol):
    """Who answers frames."""

    def handle(self, frame: bytes) -> bytes:
        """Answer one frame; whatever has to outlive this process is on disk when it returns."""


# What the coordinator is told of an error that is about this institution's own files and spending.
_OWN: dict[type[SecureFedDiffusionError], str] = {
    BudgetExceededError: "refused: this institution's own budget",
    ConfigError: "refused: this institution's own settings",
    DataError: "refused: this institution's own data",
    RunError: "refused: this institution's own files or machine",
}


def reticent(error: SecureFedDiffusionError) -> SecureFedDiffusionError:
    """Return what the coordinator is told: the class, and no count, path or figure of this institution's."""
    for kind, text in _OWN.items():
        if isinstance(error, kind):
            return kind(text)
    if isinstance(error, LedgerError) and error.peer is None:
        return LedgerError("refused: this institution's own ledger")
    return error


OpenParty = Callable[[Context], AbstractContextManager[Party]]


def make_client_app(
    open_party: OpenParty, told: Callable[[SecureFedDiffusionError], SecureFedDiffusionError] = _whole
) -> ClientApp:
    """Return the ClientApp whose frames go to the party that `open_party` gives for a node's context.

    `told` makes what the coordinator is told of a refusal; a rehearsal, where it is the owner, is told all.
    """
    app = ClientApp()

    @app.query(ACTION)
    def answer(message: Message, context: Context) -> Message:
        frame, exchange = decode_frame(message.content)
        try:
            with open_party(context) as party:
                content = encode_frame(party.handle(frame), exchange)
        except SecureFedDiffusionError as error:
            log.warning("refused: %s: %s", type(error).__name__, error)
            content = encode_refusal(told(error), exchange)
        return Message(content, reply_to=message)

    return app


_institutions: dict[str, Party] = {}  # by configuration file: they hold the locks of their files


def _institution(context: Context) -> AbstractContextManager[Party]:
    """Return the institution of this node.

    Raises:
        ConfigError: the node's configuration names none.
    """
    named = context.node_config.get(INSTITUTION)
    if not isinstance(named, str):
        raise ConfigError(
            "this node names no institution: start it with "
            "--node-config 'institution=\"/path/to/institution.toml\"'",
            key=INSTITUTION,
        )
    return nullcontext(open_institution(named))


def open_institution(named: str) -> Party:
    """Return the institution of a configuration file, opened once a process, its records read.

    Raises:
        ConfigError, DataError: names the key and what is wrong.
    """
    from secure_fed_diffusion.institution.institution import Institution

    if named not in _institutions:
        _institutions[named] = Institution.open(named)
    return _institutions[named]


app = make_client_app(_institution, reticent)
