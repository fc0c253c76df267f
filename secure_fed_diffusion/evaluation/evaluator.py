"""The metrics of a run, computed on synthetic samples, public images and test images alone.

No private record is read here, so nothing below is charged to a ledger, and no figure may be used
to tell whether a person was in the training data.  (The samples are post-processing of the
released model; what the model cost is on the ledger already.)

The samples go through each extractor once, the test images once a run; FID, KID, precision, recall,
density, coverage and prototype accuracy are read from the same features.  Each compares the samples
with the test images; its floor (`names.floor_key`) does the same for as many real public images, where
there are so many: FID, recall and coverage depend on the number of samples, so a perfect generator
would score about the floor, not 0 or 1.  The extractor was trained on the public split, which its
features may favour, so the floor is an estimate and no bound.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from secure_fed_diffusion.data.datasets import Dataset, ImageSet
from secure_fed_diffusion.errors import ConfigError, DataError
from secure_fed_diffusion.evaluation import inception, names
from secure_fed_diffusion.evaluation.features import embed
from secure_fed_diffusion.evaluation.own_extractor import extractor_for
from secure_fed_diffusion.evaluation.prototypes import (
    class_prototypes,
    nearest_mean_accuracy,
    nearest_prototype,
)
from secure_fed_diffusion.evaluation.reference import Reference
from secure_fed_diffusion.evaluation.settings import EvaluationSettings
from secure_fed_diffusion.evaluation.tstr import accuracy_interval, train_synthetic_test_real

Metrics = dict[str, float | list[float]]
Progress = Callable[[int, int], None]

_FLOOR_SEED = 0  # which public images enter the floor, where fewer than all are asked for


class Evaluator:
    """Built once per run; the real images are embedded when the first figure is asked for, and kept.

    Raises:
        ConfigError: `settings.samples` does not exceed an extractor's number of features, or Inception
            is asked for and its weights, its library or enough test images are missing.
    """

    def __init__(
        self, dataset: Dataset, settings: EvaluationSettings, device: torch.device | str = "cpu"
    ) -> None:
        self._extractor = extractor_for(dataset, device=device)
        self._require_samples(settings.samples, self._extractor.num_features, self._extractor.name)
        self._inception_weights: Path | None = None
        if settings.inception_weights is not None:
            self._inception_weights = Path(settings.inception_weights)
            inception.check_inception(self._inception_weights)
            self._require_samples(settings.samples, inception.NUM_FEATURES, inception.NAME)
            if len(dataset.test) <= inception.NUM_FEATURES:
                raise ConfigError(
                    f"FID in {inception.NUM_FEATURES} features needs more test images than that, "
                    f"{dataset.name} has {len(dataset.test)}",
                    key=inception.KEY,
                )
        # the private split goes no further
        self._test, self._n_classes = dataset.test, dataset.n_classes
        self._public_labels = dataset.public.labels
        shuffled = np.random.default_rng(_FLOOR_SEED).permutation(len(dataset.public))
        self._public = dataset.public.subset(np.sort(shuffled[: settings.samples]))
        self._settings = settings
        self._device = device
        self._seconds: dict[str, float] = {}

    @property
    def extractor_name(self) -> str:
        """Name of the data set's own extractor, as it stands in the names of the metrics."""
        return self._extractor.name

    @property
    def floor(self) -> dict[str, float]:
        """The figures of real public images, by `names.floor_key`: what a perfect generator would score."""
        return dict(self._floor)

    @property
    def seconds(self) -> Mapping[str, float]:
        """What each part of the last `measure` took, by name."""
        return dict(self._seconds)

    def sample_labels(self) -> npt.NDArray[np.int64]:
        """Return the classes (settings.samples,) to draw, ascending, in the public split's proportions.

        FID compares mixtures: samples in another mix of classes than the test images score worse for
        it.  The private mix would be a release of its own.
        """
        positions = np.arange(self._settings.samples) * len(self._public_labels) // self._settings.samples
        return np.sort(self._public_labels)[positions]

    def measure(
        self,
        synthetic: ImageSet,
        *,
        with_tstr: bool,
        class_means: npt.NDArray[np.float32] | None = None,
        progress: Progress | None = None,
    ) -> Metrics:
        """Return the metrics of `synthetic` by the names of `names`, accuracies with their 95 % intervals.

        `class_means` (n_classes, c, h, w): where a run released some, they are measured as prototypes too.

        TSTR, and what looks through Inception, is measured only `with_tstr`: these are the slow ones.
        `progress` follows the epochs of TSTR: done, in all.
        """
        if len(synthetic) and not 0 <= synthetic.labels.min() <= synthetic.labels.max() < self._n_classes:
            raise DataError(f"expected synthetic labels in 0..{self._n_classes - 1}")
        _ = self._reference  # once a run, and no part of what these samples take
        self._seconds = {}
        with self._timed("embedding"):
            features = embed(self._extractor, synthetic.images)
        metrics: Metrics = _named(self._reference.figures(features, self._timed), self._extractor.name)
        with self._timed("prototypes"):
            metrics |= self._with_interval(
                names.PROTOTYPE_ACCURACY, self._prototype_accuracy(features, synthetic.labels)
            )
            if class_means is not None:
                metrics |= self._with_interval(
                    names.CLASS_MEANS_ACCURACY, nearest_mean_accuracy(class_means, self._test)
                )
        if with_tstr and self._inception_weights is not None:
            with self._timed("inception"):
                through = self._through_inception(synthetic)
                metrics |= _named(self._inception_reference.figures(through), inception.NAME)
        if with_tstr:
            for key, accuracy in self._tstr(synthetic, progress).items():
                metrics |= self._with_interval(key, accuracy)
        return metrics

    @staticmethod
    def _require_samples(samples: int, num_features: int, name: str) -> None:
        if samples <= num_features:
            raise ConfigError(
                f"expected more samples than the {num_features} features of {name}, got {samples}",
                key="evaluation.samples",
            )

    @cached_property
    def _reference(self) -> Reference:
        return Reference(embed(self._extractor, self._test.images))

    @cached_property
    def _inception(self) -> inception.InceptionExtractor:
        if self._inception_weights is None:
            raise ConfigError("there is no weights file", key=inception.KEY)
        return inception.load_inception(
            self._inception_weights, self._extractor.image_shape, device=self._device
        )

    @cached_property
    def _inception_reference(self) -> Reference:
        return Reference(self._through_inception(self._test))

    def _through_inception(self, images: ImageSet) -> npt.NDArray[np.float64]:
        return embed(self._inception, images.images, batch=self._inception.batch)

    @cached_property
    def _floor(self) -> dict[str, float]:
        public = self._public
        features = embed(self._extractor, public.images)
        figures = _named(self._reference.figures(features), self._extractor.name)
        if self._inception_weights is not None and len(public) > inception.NUM_FEATURES:
            through = self._through_inception(public)
            figures |= _named(self._inception_reference.figures(through), inception.NAME)
        figures[names.PROTOTYPE_ACCURACY] = self._prototype_accuracy(features, public.labels)
        if self._settings.tstr_floor:
            figures |= self._tstr(public, None)
        return {names.floor_key(key): value for key, value in figures.items()}

    def _prototype_accuracy(self, features: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> float:
        prototypes = class_prototypes(features, labels, self._n_classes)
        predicted = nearest_prototype(self._reference.features, prototypes)
        return float((predicted == self._test.labels).mean())

    def _tstr(self, images: ImageSet, progress: Progress | None) -> dict[str, float]:
        """Return the accuracy of each classifier trained on `images`."""
        classifiers, epochs = self._settings.classifiers, self._settings.tstr_epochs
        figures = {}
        for i, classifier in enumerate(classifiers):

            def forward(done: int, _: int, before: int = i * epochs) -> None:
                if progress is not None:
                    progress(before + done, len(classifiers) * epochs)

            key = f"{names.TSTR}_{classifier}"
            with self._timed(key):
                figures[key] = train_synthetic_test_real(
                    images,
                    self._test,
                    self._n_classes,
                    classifier=classifier,
                    epochs=epochs,
                    device=self._device,
                    progress=forward,
                )
        return figures

    def _with_interval(self, key: str, accuracy: float) -> Metrics:
        interval = accuracy_interval(accuracy, len(self._test))
        return {key: accuracy, names.interval_key(key): list(interval)}

    @contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._seconds[part] = self._seconds.get(part, 0.0) + time.perf_counter() - start


def _named(figures: Mapping[str, float], extractor: str) -> dict[str, float]:
    return {f"{family}_{extractor}": value for family, value in figures.items()}
