"""Read the file formats in which image sets are published: IDX, CIFAR's tar of pickles, MATLAB, .npz.

A file is material from outside: sizes that its header claims are checked against what is there, and no pickle
may name anything but what an array of numbers is made of.  Whether the file is the published one is not
known here: `datasets` checks the digest, for the formats that could do harm before a byte is parsed.

Sources: LeCun's page on MNIST (IDX); Krizhevsky's on CIFAR-10 (python version); Netzer et al. 2011 (SVHN,
format 2); Yang et al. 2023 (MedMNIST).

>>> import tempfile
>>> path = Path(tempfile.mkdtemp()) / "labels-idx1-ubyte"
>>> _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]))
>>> read_idx(path).tolist()
[7, 2, 1]
"""

from __future__ import annotations

import gzip
import io
import math
import pickle
import tarfile
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from secure_fed_diffusion.errors import DataError

Arrays = dict[str, npt.NDArray[Any]]

CIFAR_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
CIFAR_TEST = ("test_batch",)
_CIFAR_FOLDER = "cifar-10-batches-py"
_CIFAR_SHAPE = (3, 32, 32)
_MAX_MEMBER_BYTES = 1 << 26  # a CIFAR batch has 31 million
_MAX_IDX_BYTES = 1 << 31
_UNSIGNED_BYTE = 0x08
_BROKEN_ARCHIVE = (OSError, EOFError, ValueError, TypeError, KeyError, zipfile.BadZipFile, zlib.error)
_BROKEN_PICKLE = (
    pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, KeyError, MemoryError,
    OverflowError, TypeError, ValueError,
)  # fmt: skip

# All that a pickled array of numbers is made of; "numpy._core" is what numpy 2 writes.
_PICKLED_ARRAY = {
    ("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
    ("numpy._core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


def read_npz(path: Path, keys: Collection[str]) -> Arrays:
    """Return the arrays named `keys` of an .npz archive; objects in it are never unpickled.

    Raises:
        DataError: it is no such archive, or lacks an array.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = sorted(set(keys) - set(archive.files))
            if missing:
                raise DataError(
                    f"{path} has no array {', '.join(missing)}; it holds {', '.join(archive.files)}"
                )
            return {key: archive[key] for key in keys}
    except _BROKEN_ARCHIVE as error:
        raise DataError(f"{path} cannot be read as an .npz archive: {error}") from error


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """Return the array of unsigned bytes in an IDX file, which may be compressed (`.gz`).

    Raises:
        DataError: it is no IDX file of bytes, or shorter or longer than its header says.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _read_idx(path, file)
    except (OSError, EOFError, zlib.error) as error:  # gzip.BadGzipFile is an OSError
        raise DataError(f"{path} cannot be read as an IDX file: {error}") from error


def _read_idx(path: Path, file: BinaryIO | gzip.GzipFile) -> npt.NDArray[np.uint8]:
    magic = file.read(4)
    if len(magic) != 4 or magic[:2] != b"\0\0" or magic[2] != _UNSIGNED_BYTE or not 1 <= magic[3] <= 4:
        raise DataError(
            f"{path} is no IDX file of bytes: it begins with {magic.hex() or 'nothing'}, expected 000008 and "
            f"1 to 4 axes"
        )
    sizes = file.read(4 * magic[3])
    if len(sizes) != 4 * magic[3]:
        raise DataError(f"{path} ends within its header")
    shape = tuple(int(size) for size in np.frombuffer(sizes, dtype=">u4"))
    expected = math.prod(shape)
    if expected > _MAX_IDX_BYTES:
        raise DataError(f"{path} claims the shape {shape}: {expected} bytes, expected <= {_MAX_IDX_BYTES}")
    content = file.read(expected + 1)
    if len(content) != expected:
        more = "more" if len(content) > expected else str(len(content))
        raise DataError(
            f"{path} claims the shape {shape}: expected {expected} bytes after the header, got {more}"
        )
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def read_svhn(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return images (n, 3, 32, 32) and labels (n,) of a MATLAB file of SVHN; its label 10 is the digit 0.

    Raises:
        DataError: it is no MATLAB file, or `X` or `y` has another form.
    """
    from scipy.io import loadmat  # only this set needs it
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(path, variable_names=("X", "y"))
    except (*_BROKEN_ARCHIVE, IndexError, MemoryError, NotImplementedError, MatReadError) as error:
        raise DataError(f"{path} cannot be read as a MATLAB file (version 5): {error}") from error
    missing = [name for name in ("X", "y") if name not in content]
    if missing:
        raise DataError(f"{path} has no array {' and no '.join(missing)}")
    images, labels = content["X"], content["y"]
    if images.dtype != np.uint8 or images.ndim != 4:
        raise DataError(f"{path}: expected X of uint8 (h, w, c, n), got {images.dtype} {images.shape}")
    if labels.dtype.kind not in "iu" or labels.shape != (images.shape[3], 1):
        raise DataError(
            f"{path}: expected y of integers ({images.shape[3]}, 1), got {labels.dtype} {labels.shape}"
        )
    if labels.size and not 1 <= labels.min() <= labels.max() <= 10:
        raise DataError(f"{path}: expected labels y in 1..10, got {labels.min()}..{labels.max()}")
    return np.ascontiguousarray(images.transpose(3, 2, 0, 1)), labels.reshape(-1).astype(np.int64) % 10


def read_cifar(path: Path) -> Arrays:
    """Return `x_train`, `y_train`, `x_test`, `y_test` of CIFAR-10's python archive, images (n, 3, 32, 32).

    Nothing is unpacked to disk, whatever names the archive holds.

    Raises:
        DataError: it is no such archive, or a batch has another form.
    """
    batches: dict[str, tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]] = {}
    wanted = (*CIFAR_TRAIN, *CIFAR_TEST)
    try:
        with tarfile.open(path, "r|gz") as archive:
            for member in archive:
                name = member.name.removeprefix(f"{_CIFAR_FOLDER}/")
                if name not in wanted or member.name == name:
                    continue
                if not member.isfile() or not 0 < member.size <= _MAX_MEMBER_BYTES:
                    raise DataError(
                        f"{path}: expected {member.name} to be a file of 1..{_MAX_MEMBER_BYTES} bytes, "
                        f"got {member.size}"
                    )
                file = archive.extractfile(member)
                batches[name] = _cifar_batch(f"{path}: {name}", file.read() if file else b"")
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read as a .tar.gz archive: {error}") from error
    missing = [name for name in wanted if name not in batches]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)} in {_CIFAR_FOLDER}/")
    arrays: Arrays = {}
    for split, names in (("train", CIFAR_TRAIN), ("test", CIFAR_TEST)):
        arrays[f"x_{split}"] = np.concatenate([batches[name][0] for name in names])
        arrays[f"y_{split}"] = np.concatenate([batches[name][1] for name in names])
    return arrays


def _cifar_batch(where: str, content: bytes) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    try:
        batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    except _BROKEN_PICKLE as error:
        raise DataError(f"{where} cannot be read as a pickled batch: {error}") from error
    if not isinstance(batch, dict) or not {b"data", b"labels"} <= batch.keys():
        raise DataError(f"{where}: expected a dictionary with data and labels")
    images, labels = batch[b"data"], batch[b"labels"]
    pixels = math.prod(_CIFAR_SHAPE)
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != (pixels,):
        found = f"{images.dtype} {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise DataError(f"{where}: expected data of uint8 (n, {pixels}), got {found}")
    if not isinstance(labels, list) or len(labels) != len(images):
        raise DataError(f"{where}: expected a list of {len(images)} labels")
    if not all(type(label) is int and 0 <= label <= 9 for label in labels):
        raise DataError(f"{where}: expected labels in 0..9")
    return images.reshape(-1, *_CIFAR_SHAPE), np.array(labels, dtype=np.int64)


class _ArrayUnpickler(pickle.Unpickler):
    """Builds arrays of numbers, lists and dictionaries; every other global is refused by name."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _PICKLED_ARRAY[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no array is made of") from None
