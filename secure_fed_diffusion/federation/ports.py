"""What a client of a federation needs from outside: something to compute with, to pay from, to be kept in."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion.federation.plan import Plan
from secure_fed_diffusion.federation.release import Release
from secure_fed_diffusion.secagg import Latch


class Contribution(Protocol):
    """What a client computes from its data; `Contributor` does it."""

    @property
    def client_id(self) -> int:
        """Which client this is."""

    @property
    def plan(self) -> Plan:
        """What its owner agreed to."""

    def vector(
        self, release: Release, weights: npt.NDArray[np.float32], *, number: int, attempt: int
    ) -> npt.NDArray[np.uint64]:
        """Return the contribution to one attempt, modulo 2**64: fresh noise and a fresh sample each time."""


@runtime_checkable
class Deferred(Protocol):
    """A `Contribution` that is made when it is asked for, and may turn out to be impossible here."""

    def prepare(self) -> None:
        """Make it, or raise; called before the charge."""


class Purse(Protocol):
    """The part of a ledger that a client needs."""

    def charge(self, client_id: int, *, round: int, attempt: int, mechanism: str, steps: int = 1) -> None:  # noqa: A002
        """Write a charge, synced, or refuse it before anything is written."""


class Files(Protocol):
    """Where a client is kept between two frames; `state.ClientFiles` keeps it in a folder."""

    @property
    def latch(self) -> Latch:
        """What no second answer to a step gets past."""

    def read(self) -> bytes | None:
        """Return what was last written, or None."""

    def write(self, state: bytes) -> None:
        """Replace it, durably."""
