from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import pytest

from secure_fed_diffusion.data import datasets
from secure_fed_diffusion.data.datasets import ImageSet, content_sha256, load
from secure_fed_diffusion.data.published import FILES, DataFile
from secure_fed_diffusion.data.settings import DIRECTORY_VARIABLE, DataSettings
from secure_fed_diffusion.data.sources import SOURCES
from secure_fed_diffusion.errors import ConfigError, DataError

needs_files = pytest.mark.skipif(
    DIRECTORY_VARIABLE not in os.environ, reason=f"{DIRECTORY_VARIABLE} names no folder with the real files"
)


def write_stand_in(monkeypatch, folder, name, arrays, counts):
    """Write a small file in the layout of the data set `name`, and pin its content."""
    real = FILES[name]
    np.savez_compressed(folder / real.filename, **arrays)
    pins = {key: content_sha256(array) for key, array in arrays.items()}
    pinned = DataFile(filename=real.filename, arrays=pins)
    monkeypatch.setitem(FILES, name, pinned)
    monkeypatch.setitem(SOURCES, name, replace(SOURCES[name], image_counts=counts))
    return folder / real.filename


@pytest.fixture
def mnist_folder(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    arrays = {
        "x_train": rng.integers(0, 256, (5020, 28, 28)).astype(np.uint8),
        "y_train": rng.integers(0, 10, 5020).astype(np.uint8),
        "x_test": rng.integers(0, 256, (30, 28, 28)).astype(np.uint8),
        "y_test": rng.integers(0, 10, 30).astype(np.uint8),
    }
    write_stand_in(monkeypatch, tmp_path, "mnist", arrays, (20, 5000, 30))
    return tmp_path, arrays


def test_digits_split_without_overlap_into_the_promised_numbers():
    digits = load(DataSettings(name="digits"))
    assert [len(split) for split in (digits.train, digits.public, digits.test)] == [1200, 300, 297]
    assert digits.image_shape == (1, 8, 8)
    assert digits.n_classes == 10
    assert digits.train.images.max() == 255
    rows = np.concatenate([split.images for split in (digits.train, digits.public, digits.test)])
    assert len(np.unique(rows.reshape(len(rows), -1), axis=0)) == 1797  # all differ: none in two splits


def test_every_split_of_the_digits_represents_every_class_to_within_two_records():
    digits = load(DataSettings(name="digits"))
    whole = sum(np.bincount(s.labels) for s in (digits.train, digits.public, digits.test))
    for split in (digits.train, digits.public, digits.test):
        assert np.all(np.abs(np.bincount(split.labels) - whole * len(split) / 1797) < 2)


def test_the_split_of_the_digits_never_changes():
    digits = load(DataSettings(name="digits"))
    assert (
        content_sha256(digits.public.images)
        == "66ef71f698702e078028a2c2f3f54c0d5f1ec037a0047feaa2b1bf74d513d207"
    )


def test_other_digits_than_the_pinned_ones_are_refused(monkeypatch):
    monkeypatch.setattr(datasets, "_DIGITS_SHA256", "0" * 64)
    with pytest.raises(DataError, match="digits differ from the pinned ones"):
        load(DataSettings(name="digits"))


def test_train_limit_keeps_the_first_private_images_and_leaves_the_other_splits_alone():
    whole, limited = load(DataSettings(name="digits")), load(DataSettings(name="digits", train_limit=50))
    assert np.array_equal(limited.train.images, whole.train.images[:50])
    assert np.array_equal(limited.public.images, whole.public.images)
    assert len(limited.test) == 297
    with pytest.raises(ConfigError, match=r"data\.train_limit: expected at most the 1200 private images"):
        load(DataSettings(name="digits", train_limit=1201))


def test_the_last_5000_training_images_of_mnist_are_public_and_no_client_holds_them(mnist_folder):
    folder, arrays = mnist_folder
    mnist = load(DataSettings(name="mnist", directory=str(folder)))
    assert np.array_equal(mnist.train.images[:, 0], arrays["x_train"][:20])
    assert np.array_equal(mnist.public.images[:, 0], arrays["x_train"][20:])
    assert np.array_equal(mnist.public.labels, arrays["y_train"][20:])
    assert np.array_equal(mnist.test.images[:, 0], arrays["x_test"])


def test_the_validation_split_of_pneumonia_is_public(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 9), ("val", 5), ("test", 3)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        arrays[f"{split}_labels"] = rng.integers(0, 2, (count, 1)).astype(np.uint8)
    write_stand_in(monkeypatch, tmp_path, "pneumonia", arrays, (9, 5, 3))
    pneumonia = load(DataSettings(name="pneumonia", directory=str(tmp_path)))
    assert (len(pneumonia.train), len(pneumonia.public), len(pneumonia.test)) == (9, 5, 3)
    assert np.array_equal(pneumonia.public.labels, arrays["val_labels"].ravel())
    assert pneumonia.class_names == ("normal", "pneumonia")


def test_the_folder_comes_from_the_environment_and_the_setting_wins_over_it(
    mnist_folder, monkeypatch, tmp_path
):
    folder, _ = mnist_folder
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(folder))
    assert len(load(DataSettings(name="mnist")).test) == 30
    elsewhere = tmp_path / "elsewhere"
    with pytest.raises(DataError, match="elsewhere"):
        load(DataSettings(name="mnist", directory=str(elsewhere)))


def test_a_missing_file_is_named_with_the_folder_looked_in_and_the_setting(tmp_path):
    with pytest.raises(DataError) as caught:
        load(DataSettings(name="mnist", directory=str(tmp_path)))
    for part in ("mnist.npz", str(tmp_path), "data.directory", "SFD_DATA_DIR"):
        assert part in str(caught.value)


def test_without_any_folder_the_message_names_the_file_and_the_setting(monkeypatch):
    monkeypatch.delenv(DIRECTORY_VARIABLE, raising=False)
    with pytest.raises(DataError, match=r"fashion_mnist\.npz.*SFD_DATA_DIR"):
        load(DataSettings(name="fashion_mnist"))


def test_an_altered_array_is_refused_and_named(mnist_folder):
    folder, arrays = mnist_folder
    labels = arrays["y_train"].copy()
    labels[7] ^= 1
    np.savez(folder / "mnist.npz", **{**arrays, "y_train": labels})
    with pytest.raises(DataError, match=r"mnist\.npz was altered.*y_train"):
        load(DataSettings(name="mnist", directory=str(folder)))


def test_the_same_arrays_in_another_compression_pass(mnist_folder):
    folder, arrays = mnist_folder
    np.savez(folder / "mnist.npz", **arrays)
    assert len(load(DataSettings(name="mnist", directory=str(folder))).train) == 20


def test_an_archive_without_an_expected_array_is_refused(mnist_folder):
    folder, arrays = mnist_folder
    np.savez(folder / "mnist.npz", x_train=arrays["x_train"])
    with pytest.raises(DataError, match="has no array x_test, y_test, y_train"):
        load(DataSettings(name="mnist", directory=str(folder)))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"no archive at all", "one array"])
def test_a_file_that_is_no_archive_is_refused(tmp_path, content):
    path = tmp_path / "mnist.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    with pytest.raises(DataError, match="cannot be read"):
        load(DataSettings(name="mnist", directory=str(tmp_path)))


def test_a_file_with_a_damaged_byte_is_refused(mnist_folder):
    folder, _ = mnist_folder
    content = bytearray((folder / "mnist.npz").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (folder / "mnist.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"mnist\.npz"):
        load(DataSettings(name="mnist", directory=str(folder)))


def test_a_pickle_in_the_archive_is_never_executed(mnist_folder, tmp_path):
    folder, arrays = mnist_folder

    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    poisoned = np.array([Payload()], dtype=object)
    np.savez(folder / "mnist.npz", **{**arrays, "y_train": poisoned})
    with pytest.raises(DataError):
        load(DataSettings(name="mnist", directory=str(folder)))
    assert not (tmp_path / "executed").exists()


def test_an_image_set_refuses_other_types_and_lengths():
    images = np.zeros((3, 1, 8, 8), dtype=np.uint8)
    labels = np.arange(3)
    assert ImageSet(images, labels).subset([2, 0]).labels.tolist() == [2, 0]
    with pytest.raises(DataError, match="expected uint8 images"):
        ImageSet(images.astype(np.float32), labels)
    with pytest.raises(DataError, match="expected 3 int64 labels"):
        ImageSet(images, labels[:2])


@needs_files
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("mnist", (55_000, 5_000, 10_000)),
        ("fashion_mnist", (55_000, 5_000, 10_000)),
        ("pneumonia", (3_882, 524, 624)),
    ],
)
def test_the_real_files_pass_their_pins_and_split_as_promised(name, sizes):
    dataset = load(DataSettings(name=name))
    assert (len(dataset.train), len(dataset.public), len(dataset.test)) == sizes
    assert dataset.image_shape == (1, 28, 28)
    assert set(np.unique(dataset.test.labels)) == set(range(dataset.n_classes))
