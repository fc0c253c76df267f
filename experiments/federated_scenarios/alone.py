"""The two ends that a federation lies between: all records in one place, and each hospital by itself.

Nothing is exchanged and nothing protected.  The training is the package's own of mode `none`, with one
client: rounds of plain local epochs, a fresh optimiser in each, the same moving average after each; network,
sampler and measures are the run's.  A hospital holds what the same partition gives it in the federation.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from experiments.federated_scenarios.scenario import Scenario
from secure_fed_diffusion.data.datasets import Dataset, ImageSet, load
from secure_fed_diffusion.diffusion.ema import ExponentialMovingAverage
from secure_fed_diffusion.federation.assessment import Assessment
from secure_fed_diffusion.federation.rehearsal import deal
from secure_fed_diffusion.federation.settings import RunSettings
from secure_fed_diffusion.federation.workbench import Workbench
from secure_fed_diffusion.sweep import estimate
from secure_fed_diffusion.training.local import ClientData, LocalOptimizer, train_plain
from secure_fed_diffusion.training.vectors import flatten


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One model that is trained in one place.

    `settings` are a scenario's, its seed among them; `passes` is how many images it is shown, repeats too.
    `place` of `places`: which hospital, by size (ignored where all records are pooled).
    """

    mode: Literal["pooled", "alone"]
    settings: RunSettings
    base: Scenario
    passes: int
    place: int = 0
    places: int = 1

    @property
    def name(self) -> str:
        """A name that the settings decide, also as a file."""
        what = repr((self.mode, self.settings, self.passes, self.place, self.places))
        digest = sha256(what.encode()).hexdigest()[:12]
        return f"{self.mode}_{self.place + 1}-of-{self.places}_seed-{self.settings.run.seed}_{digest}"

    @property
    def seconds(self) -> float:
        """Seconds of one core by the sweep's own nominal rates."""
        settings = self.settings
        whole = settings.federation.declared_records * settings.federation.clients_per_round
        epochs = self.passes * settings.federation.clients / whole
        none = replace(settings.modes.none, rounds=1, local_epochs=1)
        modes = replace(settings.modes, none=none)
        one = estimate.seconds(replace(settings, modes=modes))
        none_at_all = replace(settings.federation, declared_records=1)
        rest = estimate.seconds(replace(settings, modes=modes, federation=none_at_all))
        return rest + epochs * (one - rest)


def measure(job: Job, folder: Path) -> dict[str, Any]:
    """Train and measure on one core; return the flat record, and leave a grid of samples in `folder`."""
    torch.set_num_threads(1)
    began = time.perf_counter()
    settings = job.settings
    dataset = load(settings.data)
    hospital, own = records_of(job, dataset)
    bench = Workbench.make(settings, image_shape=dataset.image_shape, n_classes=dataset.n_classes)
    assessment = Assessment(settings, dataset, bench.model, bench.objective, bench.device)
    weights = train(job, bench, own, hospital)
    trained = time.perf_counter()
    found = assessment.floor | assessment.measure(
        weights, grid=folder / f"{job.name}.png", last=True, seed=settings.run.seed
    )
    scenario = Scenario.of(settings)
    return {
        "data": dataset.name,
        "mode": job.mode,
        "epsilon": None,
        "axis": scenario.axis(job.base),
        "scenario": scenario.label(job.base),
        "clients": settings.federation.clients,
        "clients_per_round": 1,
        "beta": scenario.beta,
        "local_epochs": scenario.local_epochs,
        "prox_mu": 0.0,
        "seed": settings.run.seed,
        "repetition": settings.run.seed,
        "hospital": hospital,
        "records": len(own),
        "classes_held": len(np.unique(own.labels)),
        "passes": job.passes,
        "parameters": bench.dimension,
        "bytes_up": 0,
        "bytes_down": 0,
        **{key: value for key, value in found.items() if isinstance(value, (int, float))},
        "majority": float(np.bincount(dataset.test.labels).max() / len(dataset.test)),
        "seconds": round(time.perf_counter() - began, 1),
        "seconds_evaluation": round(time.perf_counter() - trained, 1),
    }


def records_of(job: Job, dataset: Dataset) -> tuple[int | None, ImageSet]:
    """Return whose records they are (None: everybody's) and the records."""
    if job.mode == "pooled":
        return None, dataset.train
    parts = deal(job.settings, dataset)
    by_size = sorted(range(len(parts)), key=lambda client: (len(parts[client]), client))
    hospital = by_size[int((job.place + 0.5) * len(parts) / job.places)]
    return hospital, dataset.train.subset(parts[hospital])


def epochs_by_round(passes: int, records: int, rounds: int) -> list[int]:
    """Return how many epochs each round has, as even as can be, so that all make about `passes` together.

    >>> epochs_by_round(1000, 100, 4), epochs_by_round(1000, 500, 4), epochs_by_round(10, 500, 4)
    ([2, 3, 2, 3], [1, 1], [1])
    """
    epochs = max(1, round(passes / records))
    rounds = min(rounds, epochs)
    return [epochs * (r + 1) // rounds - epochs * r // rounds for r in range(rounds)]


def train(job: Job, bench: Workbench, own: ImageSet, hospital: int | None) -> torch.Tensor:
    """Return the average of the weights after the last round."""
    recipe = job.settings.modes.none
    optimizer = LocalOptimizer(optimizer=recipe.optimizer, learning_rate=recipe.learning_rate)
    data = ClientData(own, patch=bench.patch, device=bench.device)
    average = ExponentialMovingAverage(flatten(bench.model), recipe.ema_decay)
    for number, epochs in enumerate(epochs_by_round(job.passes, len(own), recipe.rounds), start=1):
        key = (job.settings.run.seed, 0 if hospital is None else hospital, number, 0)
        train_plain(bench.model, bench.objective, data, optimizer, epochs=epochs, batch=recipe.batch, key=key)
        average.update(flatten(bench.model))
    return average.average
