from __future__ import annotations

import numpy as np
import pytest
import torch

from secure_fed_diffusion.errors import ConfigError, DataError
from secure_fed_diffusion.evaluation import features
from secure_fed_diffusion.evaluation.features import EXTRACTORS, embed, load_extractor


@pytest.fixture
def extractor_folder(tmp_path, monkeypatch):
    """A copy of the shipped digits extractor that a test may damage."""
    (tmp_path / "extractors").mkdir()
    name = "lenet32_digits.safetensors"
    shipped = features.files("secure_fed_diffusion.evaluation") / "extractors" / name
    (tmp_path / "extractors" / name).write_bytes(shipped.read_bytes())
    monkeypatch.setattr(features, "files", lambda package: tmp_path)
    return tmp_path / "extractors" / name


@pytest.mark.parametrize("name", list(EXTRACTORS))
def test_every_data_set_ships_a_small_verified_extractor(name):
    extractor = load_extractor(name)
    shipped = (
        features.files("secure_fed_diffusion.evaluation") / "extractors" / f"{extractor.name}.safetensors"
    )
    assert len(shipped.read_bytes()) < 300_000
    assert extractor.name.endswith(f"_{name}")
    assert not extractor.training
    assert not any(p.requires_grad for p in extractor.parameters())
    images = np.random.default_rng(0).integers(0, 256, (5, *extractor.image_shape)).astype(np.uint8)
    vectors = embed(extractor, images)
    assert vectors.shape == (5, extractor.num_features)
    assert vectors.dtype == np.float64


def test_weights_with_one_flipped_bit_are_refused(extractor_folder):
    load_extractor("digits")
    content = bytearray(extractor_folder.read_bytes())
    content[-1] ^= 1
    extractor_folder.write_bytes(content)
    with pytest.raises(DataError, match="lenet32_digits were altered"):
        load_extractor("digits")


def test_missing_weights_are_named(extractor_folder):
    extractor_folder.unlink()
    with pytest.raises(DataError, match="lenet32_digits are missing"):
        load_extractor("digits")


def test_an_unknown_data_set_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean 'fashion_mnist'"):
        load_extractor("fashion_mnst")


def test_the_batch_size_does_not_move_the_features():
    extractor = load_extractor("digits")
    images = np.random.default_rng(0).integers(0, 256, (37, 1, 8, 8)).astype(np.uint8)
    np.testing.assert_allclose(embed(extractor, images, batch=5), embed(extractor, images), atol=1e-12)
    assert embed(extractor, images[:0]).shape == (0, 32)


@pytest.mark.parametrize("images", [np.zeros((2, 1, 8, 8)), np.zeros((2, 1, 28, 28), dtype=np.uint8)])
def test_images_of_another_type_or_size_are_refused(images):
    with pytest.raises(DataError, match="lenet32_digits takes uint8 images"):
        embed(load_extractor("digits"), images)


def test_loading_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    load_extractor("digits")
    assert torch.equal(before, torch.get_rng_state())
