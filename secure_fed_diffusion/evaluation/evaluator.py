"""The metrics of a run, computed on synthetic samples, public images and test images alone.

No private record is read here, so nothing below is charged to a ledger, and no figure may be used
to tell whether a person was in the training data.  (The samples are post-processing of the
released model; what the model cost is on the ledger already.)

`fid_<extractor>` compares the samples with the test images; `fid_floor_<extractor>` does the same
for as many real public images, since FID depends on the number of samples: a perfect generator would
score about the floor, not 0.  The extractor was trained on the public split, which its features may
favour, so the floor is an estimate and no bound.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from secure_fed_diffusion.data.datasets import Dataset, ImageSet
from secure_fed_diffusion.errors import ConfigError, DataError
from secure_fed_diffusion.evaluation.features import embed, load_extractor
from secure_fed_diffusion.evaluation.fid import frechet_distance
from secure_fed_diffusion.evaluation.prototypes import class_prototypes, nearest_prototype
from secure_fed_diffusion.evaluation.settings import EvaluationSettings
from secure_fed_diffusion.evaluation.tstr import train_synthetic_test_real

_FLOOR_SEED = 0  # which public images enter the floor, where fewer than all are asked for


class Evaluator:
    """Built once per run: embeds the test images and the floor, then measures synthetic sets.

    Raises:
        ConfigError: `settings.samples` does not exceed the extractor's number of features.
    """

    def __init__(
        self, dataset: Dataset, settings: EvaluationSettings, device: torch.device | str = "cpu"
    ) -> None:
        self._extractor = load_extractor(dataset.name, device=device)
        if settings.samples <= self._extractor.num_features:
            raise ConfigError(
                f"expected more samples than the {self._extractor.num_features} features of "
                f"{self._extractor.name}, got {settings.samples}",
                key="evaluation.samples",
            )
        self._public_labels = dataset.public.labels
        self._test = dataset.test
        self._n_classes = dataset.n_classes
        self._settings = settings
        self._device = device
        self._test_features = embed(self._extractor, dataset.test.images)
        shuffled = np.random.default_rng(_FLOOR_SEED).permutation(len(dataset.public))
        public = dataset.public.subset(np.sort(shuffled[: settings.samples]))
        distance = frechet_distance(self._test_features, embed(self._extractor, public.images))
        self._floor = {f"fid_floor_{self._extractor.name}": distance}

    @property
    def extractor_name(self) -> str:
        """Name of the extractor, as it stands in the names of the metrics."""
        return self._extractor.name

    @property
    def floor(self) -> dict[str, float]:
        """The FID of real public images, by name: what a perfect generator would score."""
        return dict(self._floor)

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
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, float]:
        """Return `fid_<extractor>`, `prototype_accuracy` and, if asked, `tstr_cnn`, by name.

        `progress` follows the epochs of TSTR: done, in all.
        """
        if len(synthetic) and not 0 <= synthetic.labels.min() <= synthetic.labels.max() < self._n_classes:
            raise DataError(f"expected synthetic labels in 0..{self._n_classes - 1}")
        features = embed(self._extractor, synthetic.images)
        metrics = {f"fid_{self._extractor.name}": frechet_distance(self._test_features, features)}
        prototypes = class_prototypes(features, synthetic.labels, self._n_classes)
        predicted = nearest_prototype(self._test_features, prototypes)
        metrics["prototype_accuracy"] = float((predicted == self._test.labels).mean())
        if with_tstr:
            metrics["tstr_cnn"] = train_synthetic_test_real(
                synthetic,
                self._test,
                self._n_classes,
                epochs=self._settings.tstr_epochs,
                device=self._device,
                progress=progress,
            )
        return metrics
