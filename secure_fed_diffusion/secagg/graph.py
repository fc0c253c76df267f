"""Who masks with whom, and who holds whose shares: the complete graph, a random k-regular one, or chosen.

The k-regular graph is a ring in an order drawn from the session id; each client is joined to the
k/2 before and the k/2 after it.  Every party computes it alone from the session id and the cohort:
a server that follows the protocol has no say in it.  A server that is free to try many session ids
can grind them; that is an active attack, which the profile `semi_honest` does not cover.

In a `ChosenGraph` each client picks k others by its own coins (see `choice`).  Its shares go to those k
alone, so nobody can crowd in among its holders; it masks with them and with those who picked it.

Sources: Bell et al., CCS 2020, section 3.1 and algorithm 1 (randomly permuted Harary graph), section 5.

>>> Graph(seed=bytes(32), cohort=(1, 2, 3, 4), n_neighbours=None).neighbours(3)
(1, 2, 4)
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Set
from hashlib import sha256

import numpy as np
import numpy.typing as npt

LABEL_ORDER = b"secure_fed_diffusion secagg v3 graph order"


class Graph:
    """An undirected graph over the cohort, a function of its arguments alone."""

    __slots__ = ("_complete", "_index", "_position", "_reach", "_ring", "_ring_index")

    def __init__(self, *, seed: bytes, cohort: tuple[int, ...], n_neighbours: int | None) -> None:
        self._complete = n_neighbours is None or n_neighbours == len(cohort) - 1
        self._reach = (n_neighbours or 0) // 2
        if self._complete:
            self._ring = cohort
        else:
            prefix = LABEL_ORDER + seed
            self._ring = tuple(
                sorted(cohort, key=lambda v: (sha256(prefix + struct.pack("<I", v)).digest(), v))
            )
        self._position = {client_id: index for index, client_id in enumerate(self._ring)}
        self._index = {client_id: index for index, client_id in enumerate(cohort)}
        self._ring_index = np.fromiter((self._index[v] for v in self._ring), dtype=np.intp, count=len(cohort))

    def __contains__(self, client_id: object) -> bool:
        return client_id in self._index

    def index(self, client_id: int) -> int:
        """Return a client's place in the cohort."""
        return self._index[client_id]

    def neighbours(self, client_id: int) -> tuple[int, ...]:
        """Return the neighbours of a client in ascending order; it is not its own neighbour."""
        here = self._position[client_id]
        if self._complete:
            return self._ring[:here] + self._ring[here + 1 :]
        offsets = (step for step in range(-self._reach, self._reach + 1) if step)
        return tuple(sorted(self._ring[(here + step) % len(self._ring)] for step in offsets))

    def holders(self, client_id: int) -> tuple[int, ...]:
        """Return who holds a share of the client's secrets, itself first."""
        return (client_id, *self.neighbours(client_id))

    def wards(self, client_id: int) -> tuple[int, ...]:
        """Return whose secrets the client holds a share of, its own first."""
        return self.holders(client_id)

    def n_holders(self, client_id: int, present: Set[int]) -> int:
        """Count those of `present` that hold a share of the client's secrets, itself included."""
        if self._complete:
            return len(present)
        return sum(holder in present for holder in self.holders(client_id))

    def is_connected(self, present: npt.NDArray[np.bool_]) -> bool:
        """Tell whether the clients in `present`, shape (cohort,), form one piece of the graph.

        Guarantees: if they do not, the sum of each piece would be readable by itself.
        """
        if self._complete or not present.any():
            return True
        places = np.flatnonzero(present[self._ring_index])
        gaps = np.diff(places, append=places[0] + len(self._ring))
        # On a ring, one gap wider than the reach leaves a path; two cut it into pieces.
        return int(np.count_nonzero(gaps > self._reach)) <= 1


class ChosenGraph:
    """The graph of the clients' own choices; `choices` maps each client to whom it picked."""

    __slots__ = ("_choices", "_cohort", "_pickers")

    def __init__(self, *, cohort: tuple[int, ...], choices: Mapping[int, tuple[int, ...]]) -> None:
        self._cohort = cohort
        self._choices = {v: tuple(u for u in choices[v] if u in choices) for v in sorted(choices)}
        pickers: dict[int, list[int]] = {v: [] for v in self._choices}
        for picker, picked in self._choices.items():
            for v in picked:
                pickers[v].append(picker)
        self._pickers = {v: tuple(found) for v, found in pickers.items()}

    def neighbours(self, client_id: int) -> tuple[int, ...]:
        """Return whom the client masks with: those it picked and those who picked it, ascending."""
        return tuple(sorted({*self._choices[client_id], *self._pickers[client_id]}))

    def holders(self, client_id: int) -> tuple[int, ...]:
        """Return who holds a share of the client's secrets, itself first."""
        return (client_id, *self._choices[client_id])

    def wards(self, client_id: int) -> tuple[int, ...]:
        """Return whose secrets the client holds a share of, its own first."""
        return (client_id, *self._pickers[client_id])

    def n_holders(self, client_id: int, present: Set[int]) -> int:
        """Count those of `present` that hold a share of the client's secrets, itself included."""
        return sum(holder in present for holder in self.holders(client_id))

    def is_connected(self, present: npt.NDArray[np.bool_]) -> bool:
        """Tell whether the clients in `present`, shape (cohort,), form one piece of the graph."""
        left = {v for v, here in zip(self._cohort, present, strict=True) if here}
        edge = [left.pop()] if left else []
        while edge:
            reached = left.intersection(self.neighbours(edge.pop()))
            left -= reached
            edge += reached
        return not left


AnyGraph = Graph | ChosenGraph


def viable(graph: AnyGraph, present: frozenset[int], threshold: int) -> frozenset[int]:
    """Drop from `present` those with fewer holders in it than `threshold`, until none is left to drop."""
    while lost := frozenset(v for v in present if graph.n_holders(v, present) < threshold):
        present -= lost
    return present
