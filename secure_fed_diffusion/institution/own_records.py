"""The institution's own records: one .npz file, of which nothing but masked, noised sums ever leaves.

`images` is uint8, (n, h, w) or (n, c, h, w); `labels` are integers, (n,), in 0..n_classes - 1.

Not protected against: records of one person under several rows (the unit is then "person", or the records
are to be merged before); whoever can write the file.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np

from secure_fed_diffusion.data.datasets import ImageSet
from secure_fed_diffusion.data.partition import MIN_RECORDS
from secure_fed_diffusion.errors import ConfigError, DataError

_UNREADABLE = (EOFError, ValueError, TypeError, zipfile.BadZipFile, zlib.error)  # of numpy.load


def read_records(path: Path) -> ImageSet:
    """Read the file.

    Raises:
        ConfigError: it is missing.
        DataError: it is no such archive, or an array in it has another form.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in ("images", "labels") if name not in archive.files]
            if missing:
                raise DataError(
                    f"{path} has no array {' and no '.join(missing)}; it holds {', '.join(archive.files)}"
                )
            images, labels = archive["images"], archive["labels"]
    except FileNotFoundError:
        raise ConfigError(f"there is no file {path}", key="data.file") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}", key="data.file") from None
    except _UNREADABLE as error:
        raise DataError(f"{path} cannot be read as an .npz archive: {type(error).__name__}") from None
    if images.ndim == 3:
        images = images[:, np.newaxis]
    if images.dtype != np.uint8 or images.ndim != 4:
        raise DataError(
            f"{path}: expected images of uint8, (n, h, w) or (n, c, h, w), got {images.dtype} {images.shape}"
        )
    if labels.dtype.kind not in "iu" or labels.shape != (len(images),):
        raise DataError(
            f"{path}: expected {len(images)} integer labels, one an image, got {labels.dtype} {labels.shape}"
        )
    if len(images) < MIN_RECORDS:
        raise DataError(f"{path}: expected at least {MIN_RECORDS} records")
    if labels.min() < 0:
        raise DataError(f"{path}: expected labels >= 0")
    return ImageSet(images, labels.astype(np.int64))


def write_records(path: Path, records: ImageSet) -> None:
    """Write such a file."""
    np.savez_compressed(path, images=records.images, labels=records.labels)


def check_fit(records: ImageSet, *, image_shape: tuple[int, int, int], n_classes: int) -> None:
    """Refuse records that are not of the form that `institution.toml` declares.

    The numbers must be the institution's own, never a proposal's: the answer is exact, and about labels.

    Raises:
        DataError: names the key, and what the file has.
    """
    found = tuple(records.images.shape[1:])
    if found != tuple(image_shape):
        last = found == (*image_shape[1:], image_shape[0])
        remedy = "; the colours stand last: images.transpose(0, 3, 1, 2) puts them first" if last else ""
        raise DataError(
            f"data.image_shape is (c, h, w) = {tuple(image_shape)}, the file's are {found}{remedy}"
        )
    if records.labels.max() >= n_classes:
        raise DataError(f"data.classes is {n_classes}, the file has a label beyond {n_classes - 1}")
