"""Every error that this package raises on purpose, in one tree.

A message names the value, the bound and who is to blame; it never holds the content of a key, a
share or a vector.  Catch `SecureFedDiffusionError` to catch them all, or one family:

    SecureFedDiffusionError
    ├── ConfigError              a setting, alone or with another, cannot be honoured
    │   ├── WrongFolderError     the folder that was named holds no run, or is taken (a RunError too)
    │   ├── MissingDataError     the data that were named are not there (a DataError too)
    │   └── HopelessBudgetError  no run within this budget is possible (a BudgetExceededError too)
    ├── DataError                a data file is missing, altered or of the wrong form
    ├── RunError                 a run's folder or a step of a run cannot be used
    ├── PrivacyError             going on would cost more privacy than was promised
    │   ├── BudgetExceededError  the ledger does not cover the next charge
    │   └── UnderNoisedError     fewer noise shares than the plan calls for
    ├── LedgerError              the record of what was spent was altered
    └── SecureAggregationError   the protocol cannot go on
        ├── FrameError           bytes that are no valid frame of this session
        ├── PhaseError           a step out of order, or a machine that already failed
        ├── PolicyError          the server proposes what this client's own policy refuses
        ├── RecoveryError        a secret does not match what its owner advertised
        ├── TooFewClientsError   below the threshold: the sum stays hidden for good
        └── VerificationError    the sum that is shown is not the sum of the announced inputs
"""

from __future__ import annotations

from pathlib import Path


class SecureFedDiffusionError(Exception):
    """Base of every error raised on purpose by this package."""


class ConfigError(SecureFedDiffusionError):
    """A setting cannot be honoured; `key` is its dotted name, where one is to blame, `reason` the rest."""

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(f"{key}: {message}" if key else message)
        self.key = key
        self.reason = message


class DataError(SecureFedDiffusionError):
    """A data file is missing, altered or of the wrong form."""


class RunError(SecureFedDiffusionError):
    """A run's folder, or a step of a run, cannot be used as asked."""


class PrivacyError(SecureFedDiffusionError):
    """Going on would cost more privacy than was promised."""


class BudgetExceededError(PrivacyError):
    """The budget does not cover the next charge; nothing was charged and nothing left."""


class WrongFolderError(ConfigError, RunError):
    """The folder that was named holds no run, or something that a new run must not touch."""


class MissingDataError(ConfigError, DataError):
    """The data set that was named is not where it was looked for."""


class HopelessBudgetError(ConfigError, BudgetExceededError):
    """The settings ask for more than their own budget, whatever was spent before."""


class UnderNoisedError(PrivacyError):
    """The sum would carry fewer noise shares than the plan was calibrated to."""


class LedgerError(SecureFedDiffusionError):
    """The record of what was spent was altered; `line` is the first bad line, counted from 1.

    `path` is the file that holds it, where whoever raised this knew; `peer` the other client whose signed
    word it is about, None: it is about one's own record; `reason` is the message without the place.
    """

    def __init__(
        self, message: str, *, line: int | None = None, peer: int | None = None, path: Path | None = None
    ) -> None:
        place = [*([str(path)] if path else []), *([f"line {line}"] if line is not None else [])]
        super().__init__(f"{', '.join(place)}: {message}" if place else message)
        self.line = line
        self.peer = peer
        self.path = path
        self.reason = message

    def within(self, path: Path) -> LedgerError:
        """Return the same finding with the file that it was found in."""
        return LedgerError(self.reason, line=self.line, peer=self.peer, path=path)


class SecureAggregationError(SecureFedDiffusionError):
    """The protocol cannot go on; `culprits` are the clients that the frames at fault name.

    That is where to look, not a proof: what came over the server may have been altered by it or by the
    channel, and a frame under a client's name may be a stranger's.
    """

    def __init__(self, message: str, *, culprits: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.culprits = culprits


class FrameError(SecureAggregationError):
    """Bytes that are no valid frame of this session."""


class PhaseError(SecureAggregationError):
    """A step out of order, or a machine that already failed and stays so."""


class PolicyError(SecureAggregationError):
    """The server proposes what this client's own policy refuses."""


class RecoveryError(SecureAggregationError):
    """A reconstructed secret does not match what its owner advertised."""


class TooFewClientsError(SecureAggregationError):
    """Fewer clients than the threshold are left; the sum stays hidden for good."""


class VerificationError(SecureAggregationError):
    """The sum that the server shows is not the sum of the announced survivors' inputs."""


BY_NAME: dict[str, type[SecureFedDiffusionError]] = {
    kind.__name__: kind
    for kind in list(globals().values())
    if isinstance(kind, type) and issubclass(kind, SecureFedDiffusionError)
}
"""Every error above by its name, as it comes over a wire or out of another process."""
