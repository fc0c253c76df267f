"""Features of a weights file that the user brings: what is refused, and what reaches the network.

The network itself is torch-fidelity's; where that is not installed a small one stands in its place, and
only the test with the true architecture (random weights) is skipped.
"""

from __future__ import annotations

import hashlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from secure_fed_diffusion.data.datasets import Dataset, ImageSet
from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.evaluation import inception
from secure_fed_diffusion.evaluation.evaluator import Evaluator
from secure_fed_diffusion.evaluation.features import embed
from secure_fed_diffusion.evaluation.inception import load_inception
from secure_fed_diffusion.evaluation.settings import EvaluationSettings

FEATURES = 6


class Small(nn.Module):
    """Takes what torch-fidelity's network takes, and gives a tuple of features as that one does."""

    seen: torch.Tensor

    def __init__(self, name: str, features_list: list[str], feature_extractor_weights_path: str) -> None:
        super().__init__()
        assert features_list == [str(inception.NUM_FEATURES)]
        self.layer = nn.Linear(3 * 8 * 8, inception.NUM_FEATURES)
        self.load_state_dict(torch.load(feature_extractor_weights_path, weights_only=True))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor]:
        assert images.dtype == torch.uint8
        Small.seen = images
        return (self.layer(images.flatten(1).float() / 255),)


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A weights file of the small network, and a torch-fidelity that has it."""
    monkeypatch.setattr(inception, "NUM_FEATURES", FEATURES)
    monkeypatch.setattr(inception.InceptionExtractor, "num_features", FEATURES)
    module = ModuleType("torch_fidelity")
    module.__spec__ = ModuleSpec("torch_fidelity", None)
    module.FeatureExtractorInceptionV3 = Small
    monkeypatch.setitem(sys.modules, "torch_fidelity", module)
    path = tmp_path / "pt_inception.pth"
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        torch.save(nn.ModuleDict({"layer": nn.Linear(3 * 8 * 8, FEATURES)}).state_dict(), path)
    monkeypatch.setattr(inception, "WEIGHTS_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def some_images(n: int, channels: int = 1, seed: int = 0) -> ImageSet:
    rng = np.random.default_rng(seed)
    return ImageSet(rng.integers(0, 256, (n, channels, 8, 8)).astype(np.uint8), np.arange(n) % 10)


@pytest.mark.parametrize("channels", [1, 3])
def test_bytes_reach_the_network_as_they_are_and_grey_in_three_colours(weights, channels):
    images = some_images(40, channels).images
    before = torch.get_rng_state()
    extractor = load_inception(weights, (channels, 8, 8))
    assert torch.equal(before, torch.get_rng_state())
    features = embed(extractor, images, batch=64)
    assert features.shape == (40, FEATURES)
    expected = images if channels == 3 else images.repeat(3, axis=1)
    assert np.array_equal(Small.seen.numpy(), expected)
    assert not extractor.training
    assert not any(p.requires_grad for p in extractor.parameters())


def test_a_file_with_other_content_is_refused_before_it_is_loaded(weights, monkeypatch):
    weights.write_bytes(weights.read_bytes() + b"!")
    monkeypatch.setattr(torch, "load", pytest.fail)
    with pytest.raises(ConfigError, match=r"evaluation\.inception_weights: .* is not the Inception of FID"):
        load_inception(weights, (1, 8, 8))


def test_a_missing_file_or_library_is_named(weights, monkeypatch):
    with pytest.raises(ConfigError, match="there is no file"):
        load_inception(weights.with_name("none.pth"), (1, 8, 8))
    monkeypatch.setattr(inception, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'secure-fed-diffusion\[inception\]'"):
        load_inception(weights, (1, 8, 8))


def test_a_library_that_does_not_load_is_one_line(weights, monkeypatch):
    monkeypatch.delattr(sys.modules["torch_fidelity"], "FeatureExtractorInceptionV3")
    with pytest.raises(ConfigError, match="torch-fidelity is installed but cannot be loaded"):
        load_inception(weights, (1, 8, 8))


def dataset(n_test: int, n_public: int) -> Dataset:
    train = some_images(5, seed=1)
    names = tuple(map(str, range(10)))
    return Dataset("digits", names, train, some_images(n_public, seed=2), some_images(n_test, seed=3))


def test_its_figures_bear_its_name_and_come_with_tstr_only(weights):
    settings = EvaluationSettings(samples=40, tstr_epochs=1, inception_weights=str(weights))
    evaluator = Evaluator(dataset(50, 40), settings)
    families = ("fid", "kid", "precision", "recall", "density", "coverage")
    quick = evaluator.measure(some_images(40), with_tstr=False)
    assert not [key for key in quick if "inception" in key]
    slow = evaluator.measure(some_images(40), with_tstr=True)
    assert {key for key in slow if key.endswith("_inception")} == {f"{f}_inception" for f in families}
    assert {f"{f}_floor_inception" for f in families} <= set(evaluator.floor)
    assert list(slow).index("fid_lenet32_digits") < list(slow).index("fid_inception")
    assert slow["fid_inception"] != slow["fid_lenet32_digits"]


def test_too_few_samples_or_test_images_are_refused_before_the_run(weights, monkeypatch):
    monkeypatch.setattr(inception, "NUM_FEATURES", 60)
    settings = EvaluationSettings(samples=60, inception_weights=str(weights))
    with pytest.raises(ConfigError, match=r"evaluation\.samples: .* 60 features of inception, got 60"):
        Evaluator(dataset(90, 90), settings)
    settings = EvaluationSettings(samples=61, inception_weights=str(weights))
    with pytest.raises(ConfigError, match=r"inception_weights: .* more test images than that, digits has 60"):
        Evaluator(dataset(60, 90), settings)


def test_a_relative_path_is_refused():
    with pytest.raises(ConfigError, match=r"evaluation\.inception_weights: expected an absolute path"):
        EvaluationSettings(inception_weights="pt_inception.pth")


@pytest.mark.slow
def test_the_true_architecture_with_random_weights_gives_2048_features(tmp_path, monkeypatch):
    fidelity = pytest.importorskip("torch_fidelity", exc_type=ImportError)
    module = sys.modules[fidelity.FeatureExtractorInceptionV3.__module__]
    with monkeypatch.context() as patch:  # a network of its own initial weights: nothing to load
        patch.setattr(module, "load_state_dict_from_url", lambda *a, **k: {})
        patch.setattr(fidelity.FeatureExtractorInceptionV3, "load_state_dict", lambda *a, **k: None)
        state = fidelity.FeatureExtractorInceptionV3("random", ["2048"]).state_dict()
    path = tmp_path / "random.pth"
    torch.save(state, path)
    monkeypatch.setattr(inception, "WEIGHTS_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    extractor = load_inception(path, (1, 8, 8))
    images = some_images(3).images
    features = embed(extractor, images)
    assert features.shape == (3, 2048)
    assert np.isfinite(features).all()
    alone = embed(extractor, images[1:2])
    np.testing.assert_allclose(alone[0], features[1], rtol=1e-3, atol=1e-4)
    colours = load_inception(path, (3, 8, 8))
    np.testing.assert_allclose(embed(colours, images.repeat(3, axis=1)), features, rtol=1e-4, atol=1e-5)
