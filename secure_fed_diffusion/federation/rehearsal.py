"""What only a federation that is played on one machine has: who holds which records, and who is gone when.

In a real one each institution has its own data, and is gone when it is gone.
"""

from __future__ import annotations

from secure_fed_diffusion.data.datasets import Dataset
from secure_fed_diffusion.data.partition import Indices, partition
from secure_fed_diffusion.engines.in_process import Absent
from secure_fed_diffusion.federation.settings import RunSettings


def deal(settings: RunSettings, dataset: Dataset) -> tuple[Indices, ...]:
    """Return which private records each simulated client holds."""
    return partition(
        dataset.train.labels,
        settings.federation.clients,
        scheme=settings.data.partition,
        beta=settings.data.beta,
        classes_per_client=settings.data.classes_per_client,
        seed=settings.data.seed,
    )


def rehearsed(settings: RunSettings) -> Absent:
    """Return who is gone when, by `federation.vanish`; without masks there is one phase to vanish from."""
    phases = ("advertise", "choose", "share_keys", "masked_input", "consistency", "unmask")
    gone = {(event.round, event.client): phases.index(event.phase) for event in settings.federation.vanish}

    def absent(number: int, client_id: int, phase: str) -> bool:
        since = gone.get((number, client_id))
        return since is not None and (phase not in phases or phases.index(phase) >= since)

    return absent
