"""The ledger that a real run of a small federation writes, as its readers get it.

Clients, server, plan, charges and chain are the package's own; the purse of every client is one `Ledger` in a
temporary folder.  `tell` puts something between a client and the ledger: the arm without the defence.

>>> len(chosen(4, seed=0)), len(chosen(4, seed=0, without_last=True))
(4, 3)
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import torch

from secure_fed_diffusion.data.datasets import ImageSet
from secure_fed_diffusion.dp.ledger import Ledger

from .denoisers import MlpDenoiser
from .small_federation import chosen_digits, federation, settings_for

CLIENTS, ROUNDS, RECORDS = 3, 2, 24
EXPECTED_BATCH = 6
BUDGET = 1e9


class Purse(Protocol):
    """The part of a ledger that a client uses."""

    def charge(self, client_id: int, *, round: int, attempt: int, mechanism: str, steps: int = 1) -> None:  # noqa: A002
        """Write a charge."""


Tell = Callable[[Purse, int], Purse]
"""`tell(ledger, n_records)` is what a client with so many records charges."""


def chosen(n: int, *, seed: int, without_last: bool = False) -> ImageSet:
    """Return `n` images that `seed` chooses, or its neighbour with the last one removed."""
    images = chosen_digits(n, seed)
    return images.subset(slice(0, n - 1)) if without_last else images


def charge_what_is_due(ledger: Purse, n_records: int) -> Purse:
    """Leave the charges as they are: one step a round, whatever was drawn."""
    return ledger


@lru_cache(maxsize=4)
def _settings(sampling_rate: float) -> object:
    return settings_for(
        "distributed",
        clients=CLIENTS,
        rounds=ROUNDS,
        modes__distributed__sampling_rate=sampling_rate,
    )


def published(
    seed: int, *, without_last: bool, sampling_rate: float, tell: Tell = charge_what_is_due
) -> bytes:
    """Run a federation in which client 0 has all its records, or one fewer; return its ledger."""
    torch.set_num_threads(1)
    images = [chosen(RECORDS, seed=seed, without_last=without_last)]
    images += [chosen(RECORDS, seed=seed + c) for c in range(1, CLIENTS)]
    small = federation(_settings(sampling_rate), MlpDenoiser, images, seed=seed)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.jsonl"
        with Ledger.create(path, small.plan.terms("run", "0" * 64)) as ledger:
            for client_id, client in small.clients.items():
                client._purse = tell(ledger, len(images[client_id]))
            for number in range(1, ROUNDS + 1):
                small.run_round(number)
        return path.read_bytes()
