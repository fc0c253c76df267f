"""Deal the private records out to clients: evenly, by Dirichlet label skew, or a few classes each.

`dirichlet` draws, for each class, the clients' shares from Dir(beta, …, beta) (Hsu, Qi, Brown 2019,
arXiv 1909.06335, who draw per client; Li et al. 2022, "Federated Learning on Non-IID Data Silos",
section IV-A, whose per-class form this is).  Where they redraw until every client holds enough
records, we top the poorest clients up from the richest, so the draw ends for every beta.
`classes_per_client` deals each client k classes, the least dealt ones first, and splits each class
evenly among its owners (the "#C = k" skew of Li et al.).  `iid` is a shuffle cut into equal parts.

The partition is a property of the simulated federation, public by its seed: it models who holds
what, it hides nothing.  A real deployment has no such step.

>>> import numpy as np
>>> labels = np.repeat(np.arange(10), 20)
>>> parts = partition(labels, 4, scheme="dirichlet", beta=0.5, classes_per_client=2, seed=0)
>>> len(parts), sum(len(part) for part in parts)
(4, 200)
"""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion.data.settings import PartitionScheme, require_beta, require_one_of
from secure_fed_diffusion.errors import ConfigError

MIN_RECORDS = 4
"""No client holds fewer records than this."""

Indices = npt.NDArray[np.intp]


def partition(
    labels: npt.NDArray[np.integer[Any]],
    n_clients: int,
    *,
    scheme: PartitionScheme,
    beta: float,
    classes_per_client: int,
    seed: int,
) -> tuple[Indices, ...]:
    """Return each client's record numbers, ascending: disjoint, together all, equal for equal seeds.

    Raises:
        ConfigError: some client would hold fewer than `MIN_RECORDS`, or some class would be left over.
    """
    require_one_of(scheme, get_args(PartitionScheme), key="data.partition")
    if n_clients < 1:
        raise ConfigError(f"expected at least one client, got {n_clients}")
    if len(labels) < n_clients * MIN_RECORDS:
        raise ConfigError(
            f"expected at least {MIN_RECORDS} records for each of {n_clients} clients, "
            f"got {len(labels)} in all"
        )
    rng = np.random.default_rng(seed)
    if scheme == "iid":
        parts = np.array_split(rng.permutation(len(labels)), n_clients)
    elif scheme == "dirichlet":
        require_beta(beta, key="data.beta")
        parts = _top_up(_dirichlet(labels, n_clients, beta, rng), rng)
    else:
        parts = _few_classes(labels, n_clients, classes_per_client, rng)
    return tuple(np.sort(part) for part in parts)


def _dirichlet(
    labels: npt.NDArray[np.integer[Any]], n_clients: int, beta: float, rng: np.random.Generator
) -> list[Indices]:
    hands: list[list[Indices]] = [[] for _ in range(n_clients)]
    for label in np.unique(labels):
        records = rng.permutation(np.flatnonzero(labels == label))
        shares = rng.dirichlet(np.full(n_clients, beta))
        cuts = np.rint(np.cumsum(shares)[:-1] * len(records)).astype(np.intp)
        for hand, piece in zip(hands, np.split(records, cuts), strict=True):
            hand.append(piece)
    return [np.concatenate(hand) for hand in hands]


def _top_up(parts: list[Indices], rng: np.random.Generator) -> list[Indices]:
    """Move records, one by one, from the largest client to any below `MIN_RECORDS`."""
    for poor in range(len(parts)):
        while len(parts[poor]) < MIN_RECORDS:
            rich = max(range(len(parts)), key=lambda client: len(parts[client]))
            pick = rng.integers(len(parts[rich]))
            parts[poor] = np.append(parts[poor], parts[rich][pick])
            parts[rich] = np.delete(parts[rich], pick)
    return parts


def _few_classes(
    labels: npt.NDArray[np.integer[Any]], n_clients: int, classes_per_client: int, rng: np.random.Generator
) -> list[Indices]:
    classes = np.unique(labels)
    if not 1 <= classes_per_client <= len(classes):
        raise ConfigError(
            f"expected between 1 and {len(classes)} (the classes present), got {classes_per_client}",
            key="data.classes_per_client",
        )
    if n_clients * classes_per_client < len(classes):
        raise ConfigError(
            f"{n_clients} clients with {classes_per_client} classes each leave some of the "
            f"{len(classes)} classes to nobody",
            key="data.classes_per_client",
        )
    owners: list[list[int]] = [[] for _ in classes]
    for client in rng.permutation(n_clients):
        dealt = np.array([len(holding) for holding in owners])
        least_dealt = np.lexsort((rng.random(len(classes)), dealt))[:classes_per_client]
        for index in least_dealt:
            owners[index].append(int(client))
    hands: list[list[Indices]] = [[] for _ in range(n_clients)]
    for label, holding in zip(classes, owners, strict=True):
        records = rng.permutation(np.flatnonzero(labels == label))
        for client, piece in zip(holding, np.array_split(records, len(holding)), strict=True):
            hands[client].append(piece)
    parts = [np.concatenate(hand) for hand in hands]
    smallest = min(len(part) for part in parts)
    if smallest < MIN_RECORDS:
        raise ConfigError(
            f"a client would hold {smallest} records, expected at least {MIN_RECORDS}: "
            f"fewer clients, or more classes each",
            key="data.classes_per_client",
        )
    return parts
