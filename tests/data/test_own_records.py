"""An institution's own file of colour images, held to the form that it declares."""

from __future__ import annotations

import numpy as np
import pytest

from secure_fed_diffusion.errors import DataError
from secure_fed_diffusion.institution.own_records import check_fit, read_records, write_records
from tests.data import stand_ins


def test_colour_images_are_read_back_and_fit_what_is_declared(tmp_path):
    images, labels = stand_ins.records((3, 32, 32), 12, 4)
    np.savez(tmp_path / "own.npz", images=images, labels=labels)
    records = read_records(tmp_path / "own.npz")
    check_fit(records, image_shape=(3, 32, 32), n_classes=4)
    write_records(tmp_path / "again.npz", records)
    assert np.array_equal(read_records(tmp_path / "again.npz").images, images)
    with pytest.raises(DataError, match=r"data\.classes is 3"):
        check_fit(records, image_shape=(3, 32, 32), n_classes=3)


def test_colours_that_stand_last_are_refused_with_the_remedy(tmp_path):
    images, labels = stand_ins.records((3, 32, 32), 12, 4)
    np.savez(tmp_path / "own.npz", images=images.transpose(0, 2, 3, 1), labels=labels)
    records = read_records(tmp_path / "own.npz")
    with pytest.raises(
        DataError, match=r"\(3, 32, 32\), the file's are \(32, 32, 3\); the colours stand last"
    ):
        check_fit(records, image_shape=(3, 32, 32), n_classes=4)
    with pytest.raises(DataError, match=r"the file's are \(32, 32, 3\)$"):
        check_fit(records, image_shape=(1, 28, 28), n_classes=4)
