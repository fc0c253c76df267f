from __future__ import annotations

import numpy as np
import torch

from secure_fed_diffusion.data.datasets import ImageSet, load
from secure_fed_diffusion.data.settings import DIRECTORY_VARIABLE, DataSettings
from secure_fed_diffusion.evaluation import extractor_recipe
from secure_fed_diffusion.evaluation.extractor_recipe import accuracy, train_extractor, weights_bytes
from secure_fed_diffusion.evaluation.features import EXTRACTORS, load_extractor


def test_the_recipe_yields_the_same_bytes_twice_and_others_from_another_seed():
    rng = np.random.default_rng(0)
    public = ImageSet(rng.integers(0, 256, (40, 1, 8, 8)).astype(np.uint8), rng.integers(0, 10, 40))
    before = torch.get_rng_state()
    first, again, other = (
        weights_bytes(train_extractor(EXTRACTORS["digits"], public, steps=5, seed=seed)) for seed in (0, 0, 1)
    )
    assert first == again != other
    assert torch.equal(before, torch.get_rng_state())


def test_the_recipe_writes_the_file_and_prints_its_accuracy_and_hash(tmp_path, monkeypatch, capsys):
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    monkeypatch.setattr(extractor_recipe, "STEPS", 3)
    assert extractor_recipe.main(["digits", "--out", str(tmp_path / "weights")]) == 0
    printed = capsys.readouterr().out
    assert "lenet32_digits: 32 features" in printed
    assert "accuracy on test images 0." in printed
    assert "SHA-256" in printed
    assert (tmp_path / "weights").stat().st_size < 100_000
    assert torch.get_num_threads() == threads


def test_without_the_data_the_recipe_says_which_file_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    monkeypatch.setenv(DIRECTORY_VARIABLE, str(tmp_path))
    assert extractor_recipe.main(["mnist", "--out", str(tmp_path / "weights")]) == 1
    assert "mnist.npz" in capsys.readouterr().err


def test_the_shipped_extractor_of_the_digits_recognises_test_digits():
    digits = load(DataSettings(name="digits"))
    assert accuracy(load_extractor("digits"), digits.test) > 0.95
