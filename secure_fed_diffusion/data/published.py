"""Find, verify and read the files of a published image set; what comes out has the promised form.

Checked, in this order: that all files are there; the publisher's MD5 (before anything is parsed), or the
pinned SHA-256 of each array's content; dtype, shape, number and labels of each split.  Every refusal names
the file, what was found, what was expected and what to do.

Not protected against: a person who can write the file and this package.

>>> content_sha256(np.zeros(2, dtype=np.uint8))[:8]
'f880ce73'
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion.data.facts import Facts
from secure_fed_diffusion.data.formats import Arrays, read_cifar, read_idx, read_npz, read_svhn
from secure_fed_diffusion.data.images import ImageSet
from secure_fed_diffusion.data.settings import DIRECTORY_VARIABLE
from secure_fed_diffusion.data.sources import SOURCES, Source, SourceFile
from secure_fed_diffusion.errors import DataError, MissingDataError

_IDX_KEYS = ("x_train", "y_train", "x_test", "y_test")  # in the order of a source's files
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFile:
    """Pinned content, and the .npz file that may hold it: `arrays` maps each key to its SHA-256."""

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


def read_splits(source: Source, known: Facts, directory: Path) -> tuple[ImageSet, ImageSet, ImageSet]:
    """Return the private, the public and the test split of a set; they share no record.

    Raises:
        DataError: a file is missing, unreadable, not the published one, or not of the promised form.
    """
    read: Callable[[Source, Path], tuple[Arrays, str]] = {
        "idx": _read_idx_set,
        "medmnist": _read_medmnist,
        "cifar": _read_cifar_set,
        "svhn": _read_svhn_set,
    }[source.layout]
    arrays, where = read(source, directory)
    n_private, n_public, n_test = source.image_counts

    def checked(split: str, images: str, labels: str, count: int) -> ImageSet:
        return _image_set(arrays[images], arrays[labels], known, f"{where}: {split} split", count)

    if source.layout == "medmnist":
        private, public, test = (
            checked(name, f"{name}_images", f"{name}_labels", count)
            for name, count in zip(("train", "val", "test"), source.image_counts, strict=True)
        )
        return private, public, test
    whole = checked("training", "x_train", "y_train", n_private + n_public)
    private, public = whole.subset(slice(n_private)), whole.subset(slice(n_private, None))
    return private, public, checked("test", "x_test", "y_test", n_test)


def whole(source: Source, directory: Path) -> bool:
    """Say whether every file of a set lies in `directory`; what is in them is checked by loading it."""
    archive = FILES[source.name].filename if source.layout == "idx" else None
    if archive is not None and (directory / archive).is_file():
        return True
    return all(source.find(directory, file) for file in source.files)


def content_sha256(array: npt.NDArray[Any]) -> str:
    """Return the SHA-256 of an array's dtype, shape and bytes in C order."""
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def data_directory(chosen: str | None, name: str) -> Path:
    """Return the data folder of the set `name`: `chosen`, or the one that `SFD_DATA_DIR` names.

    Raises:
        MissingDataError: neither names one.
    """
    named = chosen or os.environ.get(DIRECTORY_VARIABLE)
    if not named:
        raise MissingDataError(
            f"{name} needs {_expected(SOURCES[name])}: set data.directory, or the environment variable "
            f"{DIRECTORY_VARIABLE}, to the folder that holds it"
        )
    return Path(named).expanduser()


def require_md5(path: Path, source: Source, file: SourceFile) -> None:
    """Refuse a file whose MD5 is not the published one; one without a published MD5 passes.

    Raises:
        DataError: names the file, both digests, and what to do.
    """
    found = md5_of(path)
    if file.md5 is not None and found != file.md5:
        raise DataError(
            f"{path} was altered or is another file: MD5 {found}, expected {file.md5}; remove it and run "
            f"sfd data fetch {source.name}"
        )


def md5_of(path: Path) -> str:
    """Return the MD5 of a file's bytes."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as content:
        while block := content.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _read_idx_set(source: Source, directory: Path) -> tuple[Arrays, str]:
    pins = FILES[source.name]
    archive = directory / pins.filename
    if archive.is_file():
        arrays = read_npz(archive, pins.arrays)
        places = dict.fromkeys(_IDX_KEYS, archive)
    else:
        places = dict(zip(_IDX_KEYS, _require_files(source, directory), strict=True))
        arrays = {key: read_idx(path) for key, path in places.items()}
    _require_pins(arrays, pins, places)
    return arrays | {key: arrays[key][:, None] for key in ("x_train", "x_test")}, str(
        places["x_train"].parent
    )


def _read_medmnist(source: Source, directory: Path) -> tuple[Arrays, str]:
    (path,) = _require_files(source, directory)
    require_md5(path, source, source.files[0])
    keys = [f"{split}_{what}" for split in ("train", "val", "test") for what in ("images", "labels")]
    arrays = read_npz(path, keys)
    if source.name in FILES:
        _require_pins(arrays, FILES[source.name], dict.fromkeys(keys, path))
    images = {key: _channels_first(arrays[key]) for key in keys if key.endswith("_images")}
    return arrays | images, str(path)


def _read_cifar_set(source: Source, directory: Path) -> tuple[Arrays, str]:
    (path,) = _require_files(source, directory)
    require_md5(path, source, source.files[0])
    return read_cifar(path), str(path)


def _read_svhn_set(source: Source, directory: Path) -> tuple[Arrays, str]:
    arrays: Arrays = {}
    paths = _require_files(source, directory)
    for split, path, file in zip(("train", "test"), paths, source.files, strict=True):
        require_md5(path, source, file)
        arrays[f"x_{split}"], arrays[f"y_{split}"] = read_svhn(path)
    return arrays, str(paths[0].parent)


def _require_files(source: Source, directory: Path) -> list[Path]:
    """Return where each file of `source` lies, in the order of `source.files`."""
    found = [source.find(directory, file) for file in source.files]
    missing = [file.filename for file, path in zip(source.files, found, strict=True) if path is None]
    if missing:
        fetch = f"run sfd data fetch {source.name}, or " if source.addresses else ""
        raise MissingDataError(
            f"{source.name} is not whole in {directory}: {', '.join(missing)} missing, expected "
            f"{_expected(source)}; {fetch}set data.directory, or the environment variable "
            f"{DIRECTORY_VARIABLE}, to the folder that holds them"
        )
    return [path for path in found if path is not None]


def _expected(source: Source) -> str:
    """Say which files are looked for, as paths below the data folder."""
    names = ", ".join(str(Path(source.folders[0]) / file.filename) for file in source.files)
    return f"{FILES[source.name].filename}, or {names}" if source.layout == "idx" else names


def _require_pins(arrays: Arrays, pins: DataFile, places: dict[str, Path]) -> None:
    for key, expected in pins.arrays.items():
        found = content_sha256(arrays[key])
        if found != expected:
            raise DataError(
                f"{places[key]} was altered or is another data set: array {key} {arrays[key].shape} has "
                f"SHA-256 {found}, expected {expected}"
            )


def _channels_first(images: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return (n, h, w) or (n, h, w, c) as (n, c, h, w), in C order."""
    if images.ndim == 3:
        return images[:, None]
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)) if images.ndim == 4 else images


def _image_set(
    images: npt.NDArray[Any], labels: npt.NDArray[Any], known: Facts, where: str, count: int
) -> ImageSet:
    """Check what was read against what is known of the set; `where` names the file and the split."""
    shape, top = (count, *known.image_shape), known.n_classes - 1
    remedy = f"the file is not that of {known.name}"
    if images.dtype != np.uint8 or images.shape != shape:
        raise DataError(
            f"{where}: expected uint8 images {shape}, got {images.dtype} {images.shape}; {remedy}"
        )
    if labels.dtype.kind not in "iu" or labels.shape not in ((count,), (count, 1)):
        raise DataError(
            f"{where}: expected {count} integer labels, got {labels.dtype} {labels.shape}; {remedy}"
        )
    if not 0 <= labels.min() <= labels.max() < known.n_classes:
        raise DataError(f"{where}: expected labels in 0..{top}, got {labels.min()}..{labels.max()}; {remedy}")
    return ImageSet(images, labels.reshape(-1).astype(np.int64))
