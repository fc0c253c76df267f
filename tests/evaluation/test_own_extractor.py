"""The extractor of a set that ships none."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from secure_fed_diffusion.data.datasets import load
from secure_fed_diffusion.data.settings import DataSettings
from secure_fed_diffusion.errors import DataError
from secure_fed_diffusion.evaluation import own_extractor
from secure_fed_diffusion.evaluation.features import embed, load_extractor
from secure_fed_diffusion.evaluation.own_extractor import extractor_for
from tests.data import stand_ins

COUNTS = (60, 100, 20)


@pytest.fixture
def cifar(monkeypatch, tmp_path):
    monkeypatch.setattr(own_extractor, "STEPS", 2)
    files, _ = stand_ins.published("cifar10", COUNTS)
    stand_ins.lay(stand_ins.declare(monkeypatch, "cifar10", files, COUNTS), tmp_path, files)
    return load(DataSettings(name="cifar10", directory=str(tmp_path)))


def test_it_is_trained_once_and_read_back_bit_for_bit(cifar, monkeypatch):
    first = extractor_for(cifar)
    monkeypatch.setattr(own_extractor, "train_extractor", lambda *_, **__: pytest.fail("trained again"))
    again = extractor_for(cifar)
    assert first.name == again.name
    assert first.name.startswith("lenet84_cifar10_")
    assert np.array_equal(embed(first, cifar.test.images), embed(again, cifar.test.images))


def test_it_depends_on_the_public_split_and_on_no_private_image(cifar):
    name = extractor_for(cifar).name
    shutil.rmtree(cifar.directory / "extractors")
    assert extractor_for(replace(cifar, train=cifar.public)).name == name
    assert extractor_for(replace(cifar, public=cifar.train)).name != name


def test_altered_weights_are_refused(cifar):
    extractor_for(cifar)
    (path,) = (cifar.directory / "extractors").glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="was altered"):
        extractor_for(cifar)


def test_a_shipped_extractor_is_taken_where_there_is_one():
    assert extractor_for(load(DataSettings(name="digits"))).name == load_extractor("digits").name


def test_a_folder_that_cannot_be_written_is_named(cifar):
    (cifar.directory / "extractors").write_text("a file is in the way")
    with pytest.raises(DataError, match="extractors cannot hold the extractor"):
        extractor_for(cifar)
