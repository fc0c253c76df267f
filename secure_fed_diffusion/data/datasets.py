"""Real image sets, each in three fixed splits: private, public, test.

`train` is PRIVATE: it is dealt out to the clients, and whatever is computed on it is charged.
`public` belongs to no client, ever: the extractor is trained on it, and the hold-out loss and the
FID floor are read from it.  `test` is for the metrics alone.

| name                | private | public | test   | which                                             |
|---------------------|---------|--------|--------|---------------------------------------------------|
| `digits`            | 1,200   | 300    | 297    | scikit-learn's 8×8 digits; stratified, see below  |
| `mnist`             | 55,000  | 5,000  | 10,000 | public: the last 5,000 of the training images     |
| `fashion_mnist`     | 55,000  | 5,000  | 10,000 | public: the last 5,000 of the training images     |
| `cifar10`           | 45,000  | 5,000  | 10,000 | public: the last 5,000 of the training images     |
| `svhn`              | 68,257  | 5,000  | 26,032 | public: the last 5,000 of the training images     |
| `pneumonia`         | 3,882   | 524    | 624    | MedMNIST's training, validation and test splits   |
| `pneumoniamnist`    | 4,708   | 524    | 624    | the same, of the whole PneumoniaMNIST             |
| `bloodmnist`        | 11,959  | 1,712  | 3,421  | MedMNIST's splits                                 |
| `dermamnist`        | 7,007   | 1,003  | 2,005  | MedMNIST's splits                                 |
| `pathmnist`         | 89,996  | 10,004 | 7,180  | MedMNIST's splits                                 |

MedMNIST's sets also come as `<name>_64`, with images of 64×64.

The digits have no canonical split.  Ours orders each class by the SHA-256 of a label and the
record's number and takes every sixth record or so (systematic sampling), so it is the same with any
version of numpy, and each class is represented to within one record.  The `pneumonia` file is a
subset of PneumoniaMNIST (3,882 of the 4,708 training images): its figures are no MedMNIST figures.

`digits`, `mnist`, `fashion_mnist` and `pneumonia` are checked against a pinned SHA-256 of each array's
content (not of the file around it, so a copy that was compressed otherwise passes); the other files against
their publisher's MD5 (`sources`) before anything is parsed.  That guards against a mix-up, not against a
person in the training data: nobody here deduplicates records or knows which of them belong to one patient.
The splits share no record, but MedMNIST split by image, so DermaMNIST and PathMNIST have pictures of one
lesion or slide in two splits, and digits of one house number may stand on both sides of SVHN's cut: what
is "public" there is no client's record, yet may resemble one.

Nothing is downloaded here: `fetch` does that, when a person asks for it.

Sources: LeCun, Cortes, Burges (MNIST); Xiao, Rasul, Vollgraf 2017 (Fashion-MNIST); Krizhevsky 2009
(CIFAR-10); Netzer et al. 2011 (SVHN); Yang et al. 2023 (MedMNIST), of it Kermany et al. 2018 (pneumonia),
Acevedo et al. 2020 (blood), Tschandl et al. 2018 (derma), Kather et al. 2019 (path); Alpaydin, Kaynak 1998
(digits).

>>> from secure_fed_diffusion.data.settings import DataSettings
>>> digits = load(DataSettings(name="digits"))
>>> len(digits.train), len(digits.public), len(digits.test), digits.image_shape
(1200, 300, 297, (1, 8, 8))
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion.data.facts import NUMERALS, facts
from secure_fed_diffusion.data.images import ImageSet
from secure_fed_diffusion.data.published import content_sha256, data_directory, read_splits
from secure_fed_diffusion.data.settings import DataSettings
from secure_fed_diffusion.data.sources import SOURCES
from secure_fed_diffusion.errors import ConfigError, DataError

_DIGITS_PUBLIC, _DIGITS_TEST = 300, 297
_DIGITS_SHA256 = "0fad00a4e7230f831edee7235a67582417779b71dc24f66105d9c513a7c26ea0"
_DIGITS_SPLIT_LABEL = "secure-fed-diffusion digits split 1"


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """One data set in its three splits; only `train` is private.

    `directory` is the data folder that it was read from, None where it needed no file.
    """

    name: str
    class_names: tuple[str, ...]
    train: ImageSet
    public: ImageSet
    test: ImageSet
    directory: Path | None = None

    @property
    def n_classes(self) -> int:
        """Number of classes, those without a record included."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.test.images.shape[1:]
        return channels, height, width


def load(settings: DataSettings) -> Dataset:
    """Load, verify and split the data set that `settings` names.

    Raises:
        DataError: a file is missing, unreadable, or not the one whose hash is pinned.
        ConfigError: `train_limit` exceeds the private split.
    """
    dataset = _load_digits() if settings.name == "digits" else _load_files(settings)
    if settings.train_limit is None:
        return dataset
    if settings.train_limit > len(dataset.train):
        raise ConfigError(
            f"expected at most the {len(dataset.train)} private images of {dataset.name}, "
            f"got {settings.train_limit}",
            key="data.train_limit",
        )
    return replace(dataset, train=dataset.train.subset(slice(settings.train_limit)))


def _load_digits() -> Dataset:
    from sklearn.datasets import load_digits  # takes seconds to import, and only this set needs it

    values, labels = load_digits(return_X_y=True)
    found = content_sha256(np.column_stack([values, labels]).astype(np.uint8))
    if found != _DIGITS_SHA256:
        raise DataError(f"scikit-learn's digits differ from the pinned ones: SHA-256 {found}")
    images = np.rint(values * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8)  # ink levels were 0..16
    whole = ImageSet(images, labels.astype(np.int64))
    private, public, test = _stratified_split(whole.labels)
    return Dataset("digits", NUMERALS, whole.subset(private), whole.subset(public), whole.subset(test))


def _stratified_split(labels: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.intp], ...]:
    """Return private, public and test indices, each ascending."""

    def rank(index: int) -> tuple[int, bytes]:
        return int(labels[index]), hashlib.sha256(f"{_DIGITS_SPLIT_LABEL} {index}".encode()).digest()

    rest = np.array(sorted(range(len(labels)), key=rank))
    parts = []
    for count in (_DIGITS_PUBLIC, _DIGITS_TEST):
        steps = np.arange(len(rest) + 1) * count // len(rest)
        taken = np.diff(steps) == 1  # exactly `count` records, evenly spaced through the classes
        parts.append(np.sort(rest[taken]))
        rest = rest[~taken]
    return np.sort(rest), *parts


def _load_files(settings: DataSettings) -> Dataset:
    known, directory = facts(settings.name), data_directory(settings.directory, settings.name)
    train, public, test = (
        ImageSet(split.images, split.labels)
        for split in read_splits(SOURCES[settings.name], known, directory)
    )
    return Dataset(settings.name, known.class_names, train, public, test, directory)
