"""What a run shows of its model: a hold-out loss, sample grids and the public metrics.

Reads the released weights, the public split and the test split; no private record comes near it, so
nothing here is charged.  Sampling and metrics take the cores that the run may use (`run.workers`), since
nothing of them flows back into training, which stays on `run.threads`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from secure_fed_diffusion.data.datasets import Dataset, ImageSet
from secure_fed_diffusion.diffusion.class_conditional_pipeline import ClassGaussians
from secure_fed_diffusion.diffusion.objective import Objective
from secure_fed_diffusion.diffusion.sampler import load_pipeline, sample
from secure_fed_diffusion.evaluation.evaluator import Evaluator, Metrics
from secure_fed_diffusion.evaluation.threads import torch_threads, usable_threads
from secure_fed_diffusion.federation.settings import RunSettings
from secure_fed_diffusion.training.local import ClientData
from secure_fed_diffusion.training.vectors import load_flat

HOLDOUT_RECORDS = 256
GRID_COLUMNS = 10
NO_PUBLIC_DATA = "none: the server was given no public data"
_CELL_PIXELS = 56  # height of an image in the grid, in whole multiples of its own
_GAP_PIXELS, _GAP_GREY = 4, 96


class Assessment:
    """Built once per run; `model` is a scratch copy whose weights are overwritten."""

    def __init__(
        self,
        settings: RunSettings,
        dataset: Dataset,
        model: nn.Module,
        objective: Objective,
        device: torch.device,
    ) -> None:
        self._settings = settings
        self._dataset = dataset
        self._model = model
        self._objective = objective
        self._evaluator = Evaluator(dataset, settings.evaluation, device)
        public = dataset.public.subset(slice(0, HOLDOUT_RECORDS))
        data = ClientData(public, patch=settings.model.patch, device=device)
        self._holdout = data.records(np.arange(len(data)), objective, ("holdout",))

    @property
    def floor(self) -> dict[str, float]:
        """What real public images score against the test images, by name."""
        with torch_threads(evaluation_threads(self._settings)):
            return self._evaluator.floor

    def each_round(self, weights: Tensor) -> dict[str, Any]:
        """Return what every line of `metrics.jsonl` says of the model."""
        return {"holdout_loss": self.holdout_loss(weights)}

    @torch.no_grad()
    def holdout_loss(self, weights: Tensor) -> float:
        """Return the loss on public images with fixed draws."""
        load_flat(self._model, weights)
        records = self._holdout
        losses = [
            self._objective.loss_batch(
                self._model,
                records.images[part],
                records.labels[part],
                records.draws.timesteps[part],
                records.draws.noise[part],
            )
            for part in torch.arange(len(records)).split(64)
        ]
        return float(torch.stack(losses).mean())

    def synthesize(self, weights: Tensor, seed: int, start: ClassGaussians | None = None) -> ImageSet:
        """Draw images in the public split's mix of classes: the private mix would be a release.

        `start` is what a truncated process starts from; of a whole one it is not read.
        """
        load_flat(self._model, weights)
        labels = self._evaluator.sample_labels()
        images = sample(
            self._model,
            labels,
            diffusion=self._settings.diffusion,
            settings=self._settings.sampler,
            patch=self._settings.model.patch,
            seed=seed,
            start=start,
        )
        return ImageSet(images=images, labels=labels)

    def measure(
        self,
        weights: Tensor,
        *,
        grid: Path,
        last: bool,
        seed: int,
        start: ClassGaussians | None = None,
        class_means: npt.NDArray[np.float32] | None = None,
    ) -> Metrics:
        """Sample, write a PNG grid (one row a class) to `grid`, and return the metrics by name.

        `class_means` are what the warm-up released; they are prototypes by themselves.
        """
        with torch_threads(evaluation_threads(self._settings)):
            synthetic = self.synthesize(weights, seed, start)
            write_grid(synthetic, self._dataset.n_classes, grid)
            return self._evaluator.measure(
                synthetic,
                with_tstr=last or self._settings.evaluation.tstr_each,
                class_means=class_means,
            )


class SamplesOnly:
    """What a server without any data can show: sample grids.  It measures nothing, and says so."""

    floor: Mapping[str, float] = MappingProxyType({})

    def __init__(self, settings: RunSettings, n_classes: int, model: nn.Module) -> None:
        self._settings, self._n_classes, self._model = settings, n_classes, model

    def each_round(self, weights: Tensor) -> dict[str, Any]:
        """Say that nothing was measured."""
        return {"evaluation": NO_PUBLIC_DATA}

    def synthesize(self, weights: Tensor, seed: int, start: ClassGaussians | None = None) -> ImageSet:
        """Draw images, as many of each class: the private mix would be a release."""
        load_flat(self._model, weights)
        labels = np.sort(np.arange(GRID_COLUMNS * self._n_classes) % self._n_classes)
        images = sample(
            self._model,
            labels,
            diffusion=self._settings.diffusion,
            settings=self._settings.sampler,
            patch=self._settings.model.patch,
            seed=seed,
            start=start,
        )
        return ImageSet(images=images, labels=labels)

    def measure(
        self,
        weights: Tensor,
        *,
        grid: Path,
        last: bool,
        seed: int,
        start: ClassGaussians | None = None,
        class_means: npt.NDArray[np.float32] | None = None,
    ) -> Metrics:
        """Write a PNG grid to `grid`; there are no metrics."""
        write_grid(self.synthesize(weights, seed, start), self._n_classes, grid)
        return {}


def evaluation_threads(settings: RunSettings) -> int:
    """Return on how many threads an evaluation computes: never fewer than training does."""
    workers, threads = settings.run.workers, max(1, settings.run.threads)
    cores = usable_threads() if workers == "auto" else workers * threads
    return max(cores, torch.get_num_threads())


def write_grid(images: ImageSet, n_classes: int, path: Path) -> None:
    """Write a PNG with one row a class and up to ten columns, enlarged to whole pixels."""
    _, colours, height, width = images.images.shape
    columns = min(GRID_COLUMNS, max(1, len(images) // n_classes))
    factor = max(1, _CELL_PIXELS // height)
    cell_height, cell_width = height * factor + _GAP_PIXELS, width * factor + _GAP_PIXELS
    canvas = np.full(
        (n_classes * cell_height + _GAP_PIXELS, columns * cell_width + _GAP_PIXELS, colours),
        _GAP_GREY,
        np.uint8,
    )
    for label in range(n_classes):
        for column, index in enumerate(np.flatnonzero(images.labels == label)[:columns]):
            cell = images.images[index].transpose(1, 2, 0).repeat(factor, axis=0).repeat(factor, axis=1)
            top, left = label * cell_height + _GAP_PIXELS, column * cell_width + _GAP_PIXELS
            canvas[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(canvas[..., 0] if colours == 1 else canvas).save(path)


def draw_grid(model: Path, path: Path, *, per_class: int, seed: int) -> int:
    """Draw `per_class` images of each class from a saved model into a PNG; return how many.

    Raises:
        RunError: there is no model to draw from.
    """
    pipeline = load_pipeline(model)
    n_classes = pipeline.config.n_classes
    labels = np.arange(n_classes * per_class) % n_classes
    drawn = pipeline(
        labels,
        num_inference_steps=min(pipeline.config.steps, pipeline.scheduler.config.num_train_timesteps),
        generator=torch.Generator().manual_seed(seed),
        output_type="np",
    ).images
    images = (drawn.transpose(0, 3, 1, 2) * 255).round().astype(np.uint8)
    write_grid(ImageSet(images=images, labels=labels), n_classes, path)
    return len(labels)
