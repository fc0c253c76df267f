"""Canaries: synthetic records whose presence a fair coin decides, each on a coordinate of its own.

Canary j is a record of client `owners[j]`.  Its per-example gradient is zero on the model's coordinates
and `GRADIENT_NORM` clip norms long on coordinate d + j.  If its coin says so it stands among the client's
records: the real Poisson sampler draws it, the real clip and rounding bring it to the grid, the real
noise and masks cover it, and the server reads its coordinate in the sum.  A real record is zero there, so
canaries change no real record's clip and nothing of the model.

Canaries test the sampler, the clip, the rounding, the noise and the masks; not the gradients, and not
what the model remembers: a bound that they give is one for whoever sees the sums.  Rounds that release
class means carry none.

What the auditor holds (the coins, and which canary was drawn in which round) says nothing of a real
record: its coins are its own.  Whoever holds it knows the canaries only.

Source: Nasr et al. 2023 (Tight auditing of differentially private machine learning) and Steinke, Nasr
and Jagielski 2023 (one run, many independent canaries).

>>> canaries = Canaries.flip(5, clients=2, entropy=lambda n: bytes([0b10110000]) * n)
>>> canaries.owners.tolist(), canaries.included.tolist(), canaries.of(0).tolist()
([0, 1, 0, 1, 0], [True, False, True, True, False], [0, 2])
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion.dp.grid import IntegerGrid
from secure_fed_diffusion.entropy import Entropy, system
from secure_fed_diffusion.errors import ConfigError

GRADIENT_NORM = 4.0
"""Norm of a canary's gradient before the clip, in clip norms: a clip that is missing shows fourfold."""

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Canaries:
    """Who holds each canary, and the secret coins: the auditor's knowledge, and nobody else's."""

    owners: Integers  # (m,) client ids
    included: npt.NDArray[np.bool_] = field(repr=False)  # (m,) fair, independent coins

    def __post_init__(self) -> None:
        if self.owners.ndim != 1 or self.owners.shape != self.included.shape:
            raise ConfigError("expected one coin and one owner a canary", key="audit.canaries")

    @classmethod
    def flip(cls, n_canaries: int, *, clients: int, entropy: Entropy = system) -> Canaries:
        """Deal the canaries to the clients in turn, and toss a coin for each."""
        bits = np.unpackbits(np.frombuffer(entropy(-(-n_canaries // 8)), dtype=np.uint8))
        return cls(
            owners=np.arange(n_canaries, dtype=np.int64) % clients,
            included=bits[:n_canaries].astype(np.bool_),
        )

    def __len__(self) -> int:
        return len(self.owners)

    def of(self, client_id: int) -> npt.NDArray[np.intp]:
        """Return which canaries stand among this client's records."""
        return np.flatnonzero(self.included & (self.owners == client_id))

    def rates(self, rate: float, survivors: Collection[int]) -> npt.NDArray[np.float64]:
        """Return each canary's sampling rate (m,) in a sum of `survivors`, 0 where its client is not."""
        return np.where(np.isin(self.owners, list(survivors)), rate, 0.0)


@dataclass(slots=True)
class SampleNotes:
    """Which canaries each client's sampler drew: what the auditor needs, and what no frame carries."""

    _drawn: dict[tuple[int, int, int], npt.NDArray[np.intp]] = field(default_factory=dict, repr=False)

    def write(self, client_id: int, number: int, attempt: int, drawn: npt.NDArray[np.intp]) -> None:
        """Note the canaries that a client drew in an attempt at a round."""
        self._drawn[number, attempt, client_id] = drawn

    def counts(self, number: int, attempt: int, survivors: Collection[int], n_canaries: int) -> Integers:
        """Return how often each canary (m,) is in the sum of `survivors`, and forget the round."""
        total = np.zeros(n_canaries, dtype=np.int64)
        for client_id in survivors:
            np.add.at(total, self._drawn.get((number, attempt, client_id), np.empty(0, np.intp)), 1)
        for key in [key for key in self._drawn if key[0] <= number]:
            del self._drawn[key]
        return total


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Planted:
    """One client's own canaries, and where it notes which of them it drew."""

    coordinates: npt.NDArray[np.intp]  # which canaries stand among this client's records
    notes: SampleNotes

    def gradients(
        self,
        drawn: npt.NDArray[np.intp],
        *,
        dimension: int,
        n_canaries: int,
        clip_norm: float,
        micro_batch: int,
    ) -> Iterator[npt.NDArray[np.float32]]:
        """Yield per-example gradients of the canaries `drawn`: (<= micro_batch, dimension + n_canaries)."""
        for start in range(0, len(drawn), micro_batch):
            part = drawn[start : start + micro_batch]
            rows = np.zeros((len(part), dimension + n_canaries), dtype=np.float32)
            rows[np.arange(len(part)), dimension + part] = GRADIENT_NORM * clip_norm
            yield rows


def magnitude(grid: IntegerGrid) -> int:
    """Return what a drawn canary must add to its coordinate: the grid's own answer to the clipped gradient.

    It comes from `IntegerGrid.round`, not from the code that a run's gradients pass, so that the two are
    held against each other.
    """
    return int(grid.round(np.array([[GRADIENT_NORM * grid.clip_norm]]))[0, 0])
