"""Four real image sets, each in three fixed splits: private, public, test.

`train` is PRIVATE: it is dealt out to the clients, and whatever is computed on it is charged.
`public` belongs to no client, ever: the extractor is trained on it, and the hold-out loss and the
FID floor are read from it.  `test` is for the metrics alone.

| name            | private | public | test   | which                                             |
|-----------------|---------|--------|--------|---------------------------------------------------|
| `digits`        | 1,200   | 300    | 297    | scikit-learn's 8×8 digits; stratified, see below  |
| `mnist`         | 55,000  | 5,000  | 10,000 | public: the last 5,000 of the training images     |
| `fashion_mnist` | 55,000  | 5,000  | 10,000 | public: the last 5,000 of the training images     |
| `pneumonia`     | 3,882   | 524    | 624    | MedMNIST's training, validation and test splits   |

The digits have no canonical split.  Ours orders each class by the SHA-256 of a label and the
record's number and takes every sixth record or so (systematic sampling), so it is the same with any
version of numpy, and each class is represented to within one record.  The `pneumonia` file is a
subset of PneumoniaMNIST (3,882 of the 4,708 training images): its figures are no MedMNIST figures.

Every array is checked against a pinned SHA-256 of its content (not of the file around it, so a
copy that was compressed otherwise passes).  That guards against a mix-up, not against a person in
the training data: nobody here deduplicates records or knows which of them belong to one patient.

Sources: LeCun, Cortes, Burges (MNIST); Xiao, Rasul, Vollgraf 2017 (Fashion-MNIST); Yang et al.
2023, Kermany et al. 2018 (PneumoniaMNIST); Alpaydin, Kaynak 1998 (digits).

>>> from secure_fed_diffusion.data.settings import DataSettings
>>> digits = load(DataSettings(name="digits"))
>>> len(digits.train), len(digits.public), len(digits.test), digits.image_shape
(1200, 300, 297, (1, 8, 8))
"""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion.data.facts import NUMERALS, facts
from secure_fed_diffusion.data.settings import DIRECTORY_VARIABLE, DataSettings
from secure_fed_diffusion.errors import ConfigError, DataError

_N_PUBLIC = 5_000  # of MNIST and Fashion-MNIST
_DIGITS_PUBLIC, _DIGITS_TEST = 300, 297
_DIGITS_SHA256 = "0fad00a4e7230f831edee7235a67582417779b71dc24f66105d9c513a7c26ea0"
_UNREADABLE = (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile, zlib.error)  # of numpy.load
_DIGITS_SPLIT_LABEL = "secure-fed-diffusion digits split 1"


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """Labelled images: `images` uint8 (n, c, h, w), `labels` int64 (n,)."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.dtype != np.uint8:
            raise DataError(
                f"expected uint8 images (n, c, h, w), got {self.images.dtype} {self.images.shape}"
            )
        if self.labels.shape != (len(self.images),) or self.labels.dtype != np.int64:
            raise DataError(
                f"expected {len(self.images)} int64 labels, got {self.labels.dtype} {self.labels.shape}"
            )

    def __len__(self) -> int:
        return len(self.images)

    def subset(self, indices: npt.NDArray[np.integer[Any]] | Sequence[int] | slice) -> ImageSet:
        """Return the records at `indices`, in that order."""
        return ImageSet(self.images[indices], self.labels[indices])


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """One data set in its three splits; only `train` is private."""

    name: str
    class_names: tuple[str, ...]
    train: ImageSet
    public: ImageSet
    test: ImageSet

    @property
    def n_classes(self) -> int:
        """Number of classes, those without a record included."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.test.images.shape[1:]
        return channels, height, width


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """An .npz file: `arrays` maps each key to the SHA-256 of that array's content."""

    filename: str
    arrays: dict[str, str]


FILES: dict[str, DataFile] = {
    "mnist": DataFile(
        filename="mnist.npz",
        arrays={
            "x_train": "aaea6b05347b8b6ad5b4f46859d80c25d349f29e9666f605ee81de7828633f70",
            "y_train": "5c67498534333ca04602ccf56eab32d86c822998ee5bc7b553e7cda250737622",
            "x_test": "2464f9fb40406d7393a5c95688822105de9683b3f12b280adac05f19592ccad9",
            "y_test": "759a6cad8f34f5b42cfcf12e5e813bacd0da9cfe5a8e3da853c6e72f8c375933",
        },
    ),
    "fashion_mnist": DataFile(
        filename="fashion_mnist.npz",
        arrays={
            "x_train": "91e0635dd76ad1f9e56a6ecdcd1633dfbc548336091de8614a7d84ab568a66a5",
            "y_train": "eb8e09c0625beaa3fadd2676ed1d33827c2139a854260eb4d6e0f171b768a311",
            "x_test": "01a86bccdcb5b6f42a06ca416619677ab342ad7142bd140af501f7c4aac22783",
            "y_test": "dd0133ced96a31972a2efe752d7ce29b9f64aae6f5dbcb5e74b398e8aa15c864",
        },
    ),
    "pneumonia": DataFile(
        filename="pneumonia_subset.npz",
        arrays={
            "train_images": "c560dd1c9e720d696e0619eed3c474fae80c2eec190c8d4c58c47f3138931605",
            "train_labels": "f68ef8faacb0fbaa8966b23899a22f34d9c6c135343a5f7742bb886c4ef0191d",
            "val_images": "a5b6156171b7fd63ce9a327a0712b6341b6e90c829c70b74802f673106ed3797",
            "val_labels": "101e5889f0649e38a5adf448c5b08ccf4682a74b817dcc8725dda352a04bcd0b",
            "test_images": "4d925f66ad250bfb01e9661297ffc6eed464ee7b03fc3c63f361d0aca8a983f6",
            "test_labels": "bff89efa844e113bdd19a5b266ad5040885ef39348cec3c093127cdebbd15e2e",
        },
    ),
}  # fmt: skip


def load(settings: DataSettings) -> Dataset:
    """Load, verify and split the data set that `settings` names.

    Raises:
        DataError: a file is missing, unreadable, or not the one whose hash is pinned.
        ConfigError: `train_limit` exceeds the private split.
    """
    dataset = _load_digits() if settings.name == "digits" else _load_file(settings)
    if settings.train_limit is None:
        return dataset
    if settings.train_limit > len(dataset.train):
        raise ConfigError(
            f"expected at most the {len(dataset.train)} private images of {dataset.name}, "
            f"got {settings.train_limit}",
            key="data.train_limit",
        )
    limited = dataset.train.subset(slice(settings.train_limit))
    return Dataset(dataset.name, dataset.class_names, limited, dataset.public, dataset.test)


def content_sha256(array: npt.NDArray[Any]) -> str:
    """Return the SHA-256 of an array's dtype, shape and bytes in C order."""
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


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


def _load_file(settings: DataSettings) -> Dataset:
    file = FILES[settings.name]
    arrays = _read_verified(file, _directory(settings, file))
    if settings.name == "pneumonia":
        train, public, test = (
            _image_set(arrays[f"{split}_images"], arrays[f"{split}_labels"])
            for split in ("train", "val", "test")
        )
    else:
        whole = _image_set(arrays["x_train"], arrays["y_train"])
        train, public = whole.subset(slice(None, -_N_PUBLIC)), whole.subset(slice(-_N_PUBLIC, None))
        test = _image_set(arrays["x_test"], arrays["y_test"])
    return Dataset(settings.name, facts(settings.name).class_names, train, public, test)


def _directory(settings: DataSettings, file: DataFile) -> Path:
    named = settings.directory or os.environ.get(DIRECTORY_VARIABLE)
    if not named:
        raise DataError(
            f"{settings.name} needs {file.filename}: set data.directory, or the environment variable "
            f"{DIRECTORY_VARIABLE}, to the folder that holds it"
        )
    return Path(named).expanduser()


def _read_verified(file: DataFile, directory: Path) -> dict[str, npt.NDArray[Any]]:
    path = directory / file.filename
    if not path.is_file():
        raise DataError(
            f"{file.filename} is missing in {directory}: set data.directory, or the environment variable "
            f"{DIRECTORY_VARIABLE}, to the folder that holds it"
        )
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = sorted(file.arrays.keys() - set(archive.files))
            if missing:
                raise DataError(
                    f"{path} has no array {', '.join(missing)}; it holds {', '.join(archive.files)}"
                )
            arrays = {key: archive[key] for key in file.arrays}
    except _UNREADABLE as error:
        raise DataError(f"{path} cannot be read as an .npz archive: {error}") from error
    for key, expected in file.arrays.items():
        found = content_sha256(arrays[key])
        if found != expected:
            raise DataError(
                f"{path} was altered or is another data set: array {key} {arrays[key].shape} has "
                f"SHA-256 {found}, expected {expected}"
            )
    return arrays


def _image_set(images: npt.NDArray[Any], labels: npt.NDArray[Any]) -> ImageSet:
    return ImageSet(images[:, None], labels.reshape(-1).astype(np.int64))
