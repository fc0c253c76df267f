"""Each set as its owner publishes it: read back as it was written, refused by name when it is not that."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
from typing import Any

import numpy as np
import pytest

from secure_fed_diffusion.data.datasets import load
from secure_fed_diffusion.data.facts import facts
from secure_fed_diffusion.data.formats import read_cifar, read_idx, read_svhn
from secure_fed_diffusion.data.settings import DataSettings
from secure_fed_diffusion.data.sources import SOURCES
from secure_fed_diffusion.errors import DataError
from tests.data import stand_ins

COUNTS = (60, 12, 20)
BY_MD5 = [name for name, source in SOURCES.items() if source.layout in ("cifar", "svhn", "medmnist")]
BY_MD5.remove("pneumonia")


@pytest.mark.parametrize("name", BY_MD5)
def test_a_published_file_gives_the_images_that_were_written_in_disjoint_splits(name, tmp_path, monkeypatch):
    files, (images, labels) = stand_ins.published(name, COUNTS)
    stand_ins.lay(stand_ins.declare(monkeypatch, name, files, COUNTS), tmp_path, files)
    found = load(DataSettings(name=name, directory=str(tmp_path)))
    assert [len(split) for split in (found.train, found.public, found.test)] == list(COUNTS)
    assert np.array_equal(np.concatenate([found.train.images, found.public.images]), images)
    assert np.array_equal(np.concatenate([found.train.labels, found.public.labels]), labels)
    assert found.image_shape == facts(name).image_shape
    assert found.train.images.flags.c_contiguous
    assert found.directory == tmp_path


@pytest.mark.parametrize("layout", ["mnist", "MNIST/raw", "unpacked"])
def test_idx_files_give_the_same_set_as_the_npz_of_the_same_content(layout, tmp_path, monkeypatch):
    files, (images, labels) = stand_ins.published("mnist", COUNTS)
    source = stand_ins.declare(monkeypatch, "mnist", files, COUNTS)
    test, test_labels = stand_ins.records((1, 28, 28), COUNTS[2], 10, seed=1)
    arrays = {"x_train": images[:, 0], "y_train": labels, "x_test": test[:, 0], "y_test": test_labels}
    stand_ins.pin(monkeypatch, "mnist", arrays)
    folder = tmp_path / ("mnist" if layout == "unpacked" else layout)
    folder.mkdir(parents=True)
    for filename, content in files.items():
        if layout == "unpacked":
            (folder / filename.removesuffix(".gz")).write_bytes(gzip.decompress(content))
        else:
            (folder / filename).write_bytes(content)
    settings = DataSettings(name="mnist", directory=str(tmp_path))
    from_idx = load(settings)
    (tmp_path / "mnist.npz").write_bytes(stand_ins.npz_bytes(**arrays))
    from_npz = load(settings)
    for split in ("train", "public", "test"):
        assert np.array_equal(getattr(from_idx, split).images, getattr(from_npz, split).images)
        assert np.array_equal(getattr(from_idx, split).labels, getattr(from_npz, split).labels)
    assert np.array_equal(from_idx.public.images, images[COUNTS[0] :])
    assert source.name == "mnist"


def test_one_missing_idx_file_is_named_with_the_command_that_fetches_it(tmp_path, monkeypatch):
    files, _ = stand_ins.published("fashion_mnist", COUNTS)
    source = stand_ins.declare(monkeypatch, "fashion_mnist", files, COUNTS)
    files.pop("t10k-labels-idx1-ubyte.gz")
    stand_ins.lay(source, tmp_path, files)
    with pytest.raises(
        DataError,
        match=r": t10k-labels-idx1-ubyte\.gz missing, .*sfd data fetch fashion_mnist, .*SFD_DATA_DIR",
    ):
        load(DataSettings(name="fashion_mnist", directory=str(tmp_path)))


def test_other_content_in_an_idx_file_is_refused_by_its_pin(tmp_path, monkeypatch):
    files, _ = stand_ins.published("mnist", COUNTS)  # whole files of the right form, of no pinned content
    stand_ins.lay(stand_ins.declare(monkeypatch, "mnist", files, COUNTS), tmp_path, files)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz was altered or is another data set"):
        load(DataSettings(name="mnist", directory=str(tmp_path)))


@pytest.mark.parametrize("name", ["cifar10", "svhn", "bloodmnist"])
def test_a_file_with_another_md5_is_refused_before_it_is_parsed(name, tmp_path, monkeypatch):
    files, _ = stand_ins.published(name, COUNTS)
    source = stand_ins.declare(monkeypatch, name, files, COUNTS)
    stand_ins.lay(source, tmp_path, dict.fromkeys(files, b"no such format"))
    with pytest.raises(
        DataError, match=f"MD5 .*expected {source.files[0].md5}; remove it and run sfd data fetch"
    ):
        load(DataSettings(name=name, directory=str(tmp_path)))


@pytest.mark.parametrize(
    ("name", "counts", "message"),
    [
        (
            "cifar10",
            (59, 12, 20),
            r"training split: expected uint8 images \(71, 3, 32, 32\), got uint8 \(72, 3",
        ),
        ("svhn", (60, 12, 21), r"test split: expected uint8 images \(21, 3, 32, 32\), got uint8 \(20, 3"),
        ("dermamnist", (60, 11, 20), r"dermamnist\.npz: val split: expected uint8 images \(11, 3, 28, 28\)"),
    ],
)
def test_a_split_of_another_size_than_the_published_is_refused(name, counts, message, tmp_path, monkeypatch):
    files, _ = stand_ins.published(name, COUNTS)
    stand_ins.lay(stand_ins.declare(monkeypatch, name, files, counts), tmp_path, files)
    with pytest.raises(DataError, match=message):
        load(DataSettings(name=name, directory=str(tmp_path)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"train_labels": np.full((60, 1), 8, np.uint8)},
            r"train split: expected labels in 0\.\.7, got 8\.\.8",
        ),
        (
            {"val_labels": np.zeros((11, 1), np.uint8)},
            r"val split: expected 12 integer labels, got uint8 \(11, 1\)",
        ),
        ({"test_labels": np.zeros((20, 1))}, "test split: expected 20 integer labels, got float64"),
        (
            {"test_images": np.zeros((20, 28, 28), np.uint8)},
            r"expected .*\(20, 3, 28, 28\), got .*\(20, 1, 28, 28\)",
        ),
        ({"val_images": np.zeros((12, 28, 28, 3))}, "val split: expected uint8 images .*, got float64"),
    ],
)
def test_an_array_of_another_form_is_refused_with_file_value_and_bound(
    change, message, tmp_path, monkeypatch
):
    files, _ = stand_ins.published("bloodmnist", COUNTS)
    arrays = dict(np.load(io.BytesIO(files["bloodmnist.npz"]))) | change
    files = {"bloodmnist.npz": stand_ins.npz_bytes(**arrays)}
    stand_ins.lay(stand_ins.declare(monkeypatch, "bloodmnist", files, COUNTS), tmp_path, files)
    with pytest.raises(DataError, match=message) as caught:
        load(DataSettings(name="bloodmnist", directory=str(tmp_path)))
    assert "bloodmnist.npz" in str(caught.value)
    assert "the file is not that of bloodmnist" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with nothing"),
        (b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00\x00\x00\x00", "no IDX file of bytes"),
        (b"\x00\x00\x08\x09", "no IDX file of bytes"),
        (b"\x00\x00\x08\x03\x00\x00", "ends within its header"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 3, 1, 2]), "expected 3 bytes after the header, got 2"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 3, 1, 2, 3, 4]), "expected 3 bytes after the header, got more"),
        (b"\x00\x00\x08\x02\xff\xff\xff\xff\xff\xff\xff\xff", "claims the shape .* expected <="),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_file_that_is_no_idx_file_is_refused(content, message, suffix, tmp_path):
    path = tmp_path / f"labels{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    with pytest.raises(DataError, match=message):
        read_idx(path)


def test_a_gz_that_is_cut_short_is_refused(tmp_path):
    path = tmp_path / "labels.gz"
    path.write_bytes(gzip.compress(stand_ins.idx_bytes(np.arange(250, dtype=np.uint8)))[:-30])
    with pytest.raises(DataError, match="cannot be read as an IDX file"):
        read_idx(path)


class Payload:
    def __init__(self, path: Any) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def cifar_file(tmp_path: Any, **changes: Any) -> Any:
    images, labels = stand_ins.records((3, 32, 32), 4, 10)
    batches = {f"data_batch_{number}": stand_ins.python2_batch(images, labels) for number in range(1, 6)}
    batches = batches | {"test_batch": stand_ins.python2_batch(images, labels)} | changes
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(
        stand_ins.cifar_bytes({name: batch for name, batch in batches.items() if batch is not None})
    )
    return path


def test_a_pickle_that_names_anything_but_an_array_is_never_executed(tmp_path):
    evil = pickle.dumps({b"data": Payload(tmp_path / "executed"), b"labels": []}, protocol=4)
    with pytest.raises(DataError, match=r"data_batch_3 cannot be read .* it names .*open"):
        read_cifar(cifar_file(tmp_path, data_batch_3=evil))
    assert not (tmp_path / "executed").exists()


def test_a_batch_of_todays_numpy_is_read_too(tmp_path):
    images, labels = stand_ins.records((3, 32, 32), 4, 10)
    batch = {b"data": images.reshape(4, -1), b"labels": labels.tolist()}
    arrays = read_cifar(cifar_file(tmp_path, test_batch=pickle.dumps(batch, protocol=4)))
    assert np.array_equal(arrays["x_test"], images)
    assert arrays["x_train"].shape == (20, 3, 32, 32)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (b"\x80\x02no pickle", "cannot be read as a pickled batch"),
        (pickle.dumps([1], protocol=4), "expected a dictionary with data and labels"),
        (
            pickle.dumps({b"data": 1, b"labels": []}, protocol=4),
            r"expected data of uint8 \(n, 3072\), got int",
        ),
        (
            pickle.dumps({b"data": np.zeros((2, 9), np.uint8), b"labels": [0, 1]}, protocol=4),
            r"got uint8 \(2, 9\)",
        ),
        (
            pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]}, protocol=4),
            "a list of 2 labels",
        ),
        (
            pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": [10]}, protocol=4),
            r"labels in 0\.\.9",
        ),
        (
            pickle.dumps({b"data": np.zeros((1, 3072), np.uint8), b"labels": ["a"]}, protocol=4),
            r"labels in 0\.\.9",
        ),
        (None, "lacks data_batch_2"),
        (b"", "expected .*data_batch_2 to be a file of 1"),
    ],
)
def test_a_batch_of_another_form_is_refused_and_named(batch, message, tmp_path):
    with pytest.raises(DataError, match=message):
        read_cifar(cifar_file(tmp_path, data_batch_2=batch))


@pytest.mark.parametrize("content", [b"", b"no archive", "cut"])
def test_a_file_that_is_no_tar_is_refused(content, tmp_path):
    path = cifar_file(tmp_path)
    path.write_bytes(path.read_bytes()[:2000] if content == "cut" else content)
    with pytest.raises(DataError, match=r"cannot be read as a \.tar\.gz archive"):
        read_cifar(path)


def test_nothing_of_an_archive_is_unpacked_to_disk(tmp_path):
    path = cifar_file(tmp_path)
    with tarfile.open(path) as archive:
        assert len(archive.getnames()) == 6
    read_cifar(path)
    assert list(tmp_path.iterdir()) == [path]


def test_the_label_10_of_svhn_is_the_digit_0(tmp_path):
    images, labels = stand_ins.records((3, 32, 32), 20, 10)
    path = tmp_path / "train_32x32.mat"
    path.write_bytes(stand_ins.svhn_bytes(images, labels))
    found, found_labels = read_svhn(path)
    assert np.array_equal(found, images)
    assert np.array_equal(found_labels, labels)
    assert set(found_labels) == set(range(10))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": np.zeros((32, 32, 3, 2), np.uint8)}, "has no array y"),
        ({"X": np.zeros((32, 32, 3, 2)), "y": np.ones((2, 1), np.uint8)}, "expected X of uint8"),
        (
            {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.ones((3, 1), np.uint8)},
            r"expected y of integers \(2, 1\)",
        ),
        (
            {"X": np.zeros((32, 32, 3, 1), np.uint8), "y": np.zeros((1, 1), np.uint8)},
            r"labels y in 1\.\.10, got 0\.\.0",
        ),
    ],
)
def test_a_matlab_file_of_another_form_is_refused(arrays, message, tmp_path):
    from scipy.io import savemat

    savemat(tmp_path / "train_32x32.mat", arrays)
    with pytest.raises(DataError, match=message):
        read_svhn(tmp_path / "train_32x32.mat")


@pytest.mark.parametrize("content", [b"", b"no matlab file at all" * 20, "cut"])
def test_a_file_that_is_no_matlab_file_is_refused(content, tmp_path):
    path = tmp_path / "train_32x32.mat"
    whole = stand_ins.svhn_bytes(*stand_ins.records((3, 32, 32), 20, 10))
    path.write_bytes(whole[:3000] if content == "cut" else content)
    with pytest.raises(DataError, match="cannot be read as a MATLAB file"):
        read_svhn(path)
