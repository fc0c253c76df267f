"""What a client does alone between two rounds: plain or private steps on its own records.

`ClientData` holds the records as tensors; `records` gathers a batch, and `sample` one that is gathered in
parts as they are needed, with draws that are keyed by (seed, client, round, attempt, step, record).  The
record stands there by its content, and the copies of one record by their count (`record_names`), not by its
row: whatever other records a file holds or lacks, and in whatever order, a record's draws are the same.
FedProx (Li et al. 2020, eq. 2) adds mu (w - w_round) to the gradient; it does not read the data, so it
stands outside clip and noise.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from secure_fed_diffusion.data.datasets import ImageSet
from secure_fed_diffusion.diffusion.objective import Objective, draw, draw_seed
from secure_fed_diffusion.diffusion.patches import to_model_space
from secure_fed_diffusion.dp.grid import IntegerGrid
from secure_fed_diffusion.dp.noise import poisson_sample
from secure_fed_diffusion.entropy import Entropy, system
from secure_fed_diffusion.training.dpsgd import IntegerDPOptimizer, private_step
from secure_fed_diffusion.training.per_example import Records, micro_batches

DrawKey = tuple[int | str, ...]


def record_names(images: ImageSet) -> list[tuple[str, int]]:
    """Return what each record's draws are keyed by: a digest of pixels and label, and which copy it is.

    Copies of a record are counted, so that each has draws of its own.  To take one of m away, whichever it
    is, is to take the last away: the others are the same records with the same names.
    """
    seen: Counter[str] = Counter()
    names = []
    for image, label in zip(images.images, images.labels.tolist(), strict=True):
        content = image.tobytes() + label.to_bytes(8, "little", signed=True)
        digest = hashlib.blake2b(content, digest_size=16).hexdigest()
        names.append((digest, seen[digest]))
        seen[digest] += 1
    return names


class ClientData:
    """One client's images in model space (n, c, h, w) and labels (n,), on the device that trains."""

    def __init__(self, images: ImageSet, *, patch: int, device: torch.device | str) -> None:
        self._names = record_names(images)
        self.images = to_model_space(torch.from_numpy(images.images), patch).to(device)
        self.labels = torch.from_numpy(images.labels).to(device)

    def __len__(self) -> int:
        return len(self.labels)

    def records(self, index: npt.NDArray[np.intp], objective: Objective, key: DrawKey) -> Records:
        """Gather the records at `index`, each with the draws of its own name."""
        shape = tuple(self.images.shape[1:])
        draws = draw(objective.settings, shape, keys=[(*key, *self._names[i]) for i in index])
        rows = torch.from_numpy(index).to(self.images.device)
        return Records(self.images[rows], self.labels[rows], draws.to(self.images.device))

    def sample(self, index: npt.NDArray[np.intp], objective: Objective, key: DrawKey) -> ClientSample:
        """Return the records at `index`, to be gathered in parts: with the draws that `records` gives."""
        return ClientSample(data=self, index=index, objective=objective, key=key)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSample:
    """Which of a client's records were sampled: no image or draw is held until it is asked for."""

    data: ClientData
    index: npt.NDArray[np.intp] = field(repr=False)
    objective: Objective
    key: DrawKey

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self.index)

    def at(self, index: Tensor) -> Records:
        """Gather the sampled records at `index`, in that order."""
        return self.data.records(self.index[index.numpy()], self.objective, self.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalOptimizer:
    """Steps on the client's own machine: Adam or SGD, with FedProx' mu (0: FedAvg)."""

    optimizer: str = "adam"
    learning_rate: float = 1e-3
    prox_mu: float = 0.0

    def build(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return a fresh optimiser: its state never outlives a round, so nothing private is kept in it."""
        kind = torch.optim.Adam if self.optimizer == "adam" else torch.optim.SGD
        return kind([p for p in model.parameters() if p.requires_grad], lr=self.learning_rate)


def train_plain(
    model: nn.Module,
    objective: Objective,
    data: ClientData,
    settings: LocalOptimizer,
    *,
    epochs: int,
    batch: int,
    key: DrawKey,
) -> None:
    """Train `model` in place for `epochs` passes over shuffled batches.  No privacy whatsoever."""
    optimizer = settings.build(model)
    start = _starting_point(model) if settings.prox_mu else {}
    rng = np.random.default_rng(draw_seed(key))
    for epoch in range(epochs):
        order = rng.permutation(len(data))
        for begin in range(0, len(order), batch):
            records = data.records(order[begin : begin + batch], objective, (*key, epoch))
            loss = objective.loss_batch(
                model, records.images, records.labels, records.draws.timesteps, records.draws.noise
            )
            optimizer.zero_grad()
            loss.backward()
            _add_proximal(model, start, settings.prox_mu)
            optimizer.step()


def train_private(
    model: nn.Module,
    objective: Objective,
    data: ClientData,
    settings: LocalOptimizer,
    *,
    steps: int,
    sampling_rate: float,
    divisor: int,
    grid: IntegerGrid,
    noise_stddev: float,
    micro_batch: int,
    key: DrawKey,
    sampling_entropy: Entropy = system,
    noise_entropy: Entropy = system,
) -> None:
    """Train `model` in place by `steps` steps of DP-SGD on Poisson samples.

    Guarantees: each step is one use of the mechanism with rate `sampling_rate`, sensitivity
    `grid.norm_bound` and noise `noise_stddev`; the result is post-processing of `steps` of them.
    """
    base = settings.build(model)
    optimizer = IntegerDPOptimizer(
        base, grid=grid, noise_stddev=noise_stddev, divisor=divisor, entropy=noise_entropy
    )
    if settings.prox_mu:
        start = _starting_point(model)
        optimizer.attach_step_hook(lambda _: _add_proximal(model, start, settings.prox_mu))
    for step in range(steps):
        chosen = np.flatnonzero(poisson_sample(len(data), sampling_rate, sampling_entropy))
        records = data.sample(chosen, objective, (*key, step))
        private_step(model, optimizer, micro_batches(model, objective, records, micro_batch))


def _starting_point(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def _add_proximal(model: nn.Module, start: dict[str, Tensor], mu: float) -> None:
    """Add mu (w - w_round) to the gradients, where mu is not zero."""
    if not mu:
        return
    for name, p in model.named_parameters():
        if p.grad is not None:
            p.grad.add_(p.detach() - start[name], alpha=mu)
