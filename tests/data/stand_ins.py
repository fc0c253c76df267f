"""Small files in the formats of the published sets, and a table that takes them for the published ones."""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from secure_fed_diffusion.data.facts import facts
from secure_fed_diffusion.data.published import FILES, DataFile, content_sha256
from secure_fed_diffusion.data.settings import DatasetName
from secure_fed_diffusion.data.sources import SOURCES, Source


def records(shape: tuple[int, ...], n: int, n_classes: int, seed: int = 0) -> tuple[Any, Any]:
    """Return images that a class can be told by, and labels in which each class occurs."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % n_classes).astype(np.uint8)
    images = rng.integers(0, 100, (n, *shape)) + (labels * (150 // n_classes)).reshape(-1, *[1] * len(shape))
    return images.astype(np.uint8), labels


def idx_bytes(array: Any) -> bytes:
    sizes = b"".join(struct.pack(">I", size) for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def python2_batch(images: Any, labels: Any) -> bytes:
    """Return a batch as Python 2 pickled it: protocol 2, byte strings, numpy's old module names."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    pixels = images.reshape(len(images), -1)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
        b"(K\x01" + struct.pack("<cIcI", b"J", pixels.shape[0], b"J", pixels.shape[1]) + b"\x86"
        b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R(K\x03" + text(b"|") + b"NNN"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + struct.pack("<I", pixels.size)
        + pixels.tobytes()
        + b"tb"
    )
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + numbers + b"u."


def cifar_bytes(batches: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in batches.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return out.getvalue()


def svhn_bytes(images: Any, labels: Any) -> bytes:
    out = io.BytesIO()
    y = np.where(labels == 0, 10, labels).astype(np.uint8)[:, None]
    savemat(out, {"X": images.transpose(2, 3, 1, 0), "y": y}, do_compression=True)
    return out.getvalue()


def npz_bytes(**arrays: Any) -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, **arrays)
    return out.getvalue()


def published(name: DatasetName, counts: tuple[int, int, int]) -> tuple[dict[str, bytes], Any]:
    """Return the files of a small set as its owner would publish it, by name, and its training split."""
    source, known = SOURCES[name], facts(name)
    n_private, n_public, n_test = counts
    shape, n_classes = known.image_shape, known.n_classes
    train, test = records(shape, n_private + n_public, n_classes), records(shape, n_test, n_classes, seed=1)
    filenames = [file.filename for file in source.files]
    if source.layout == "idx":
        parts = (train[0][:, 0], train[1], test[0][:, 0], test[1])
        contents = [gzip.compress(idx_bytes(part)) for part in parts]
    elif source.layout == "cifar":
        cuts = np.array_split(np.arange(len(train[1])), 5)
        batches = {f"data_batch_{i}": python2_batch(train[0][c], train[1][c]) for i, c in enumerate(cuts, 1)}
        contents = [cifar_bytes(batches | {"test_batch": python2_batch(*test)})]
    elif source.layout == "svhn":
        contents = [svhn_bytes(*train), svhn_bytes(*test)]
    else:
        arrays = {}
        for split, part in (("train", slice(n_private)), ("val", slice(n_private, None)), ("test", None)):
            images, labels = test if part is None else (train[0][part], train[1][part])
            last = images[:, 0] if shape[0] == 1 else images.transpose(0, 2, 3, 1)
            arrays |= {f"{split}_images": last, f"{split}_labels": labels[:, None]}
        contents = [npz_bytes(**arrays)]
    return dict(zip(filenames, contents, strict=True)), train


def declare(
    monkeypatch: pytest.MonkeyPatch,
    name: DatasetName,
    files: dict[str, bytes],
    counts: tuple[int, int, int],
    addresses: tuple[str, ...] = (),
) -> Source:
    """Take `files` for the published ones: their MD5 and, where content is pinned, its SHA-256."""
    source = SOURCES[name]
    declared = replace(
        source,
        image_counts=counts,
        addresses=addresses or source.addresses,
        files=tuple(
            replace(file, md5=file.md5 and hashlib.md5(files[file.filename]).hexdigest())
            for file in source.files
        ),
    )
    monkeypatch.setitem(SOURCES, name, declared)
    return declared


def pin(monkeypatch: pytest.MonkeyPatch, name: str, arrays: dict[str, Any]) -> None:
    pins = {key: content_sha256(array) for key, array in arrays.items()}
    monkeypatch.setitem(FILES, name, DataFile(filename=FILES[name].filename, arrays=pins))


def lay(source: Source, directory: Path, files: dict[str, bytes]) -> None:
    source.home(directory).mkdir(parents=True, exist_ok=True)
    for filename, content in files.items():
        (source.home(directory) / filename).write_bytes(content)
