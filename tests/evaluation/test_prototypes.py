from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from secure_fed_diffusion.data.datasets import ImageSet
from secure_fed_diffusion.errors import DataError
from secure_fed_diffusion.evaluation.prototypes import (
    class_prototypes,
    nearest_mean_accuracy,
    nearest_prototype,
    prototype_accuracy,
)


class Pixels(nn.Module):
    name = "pixels"
    image_shape = (1, 1, 2)
    num_features = 2

    def __init__(self):
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))  # tells the device

    def forward(self, images):
        return images.flatten(1)


def image_set(pixels, labels):
    return ImageSet(np.array(pixels, dtype=np.uint8).reshape(-1, 1, 1, 2), np.array(labels))


def test_a_prototype_is_the_mean_of_its_class_and_absent_classes_have_none():
    prototypes = class_prototypes(np.array([[0.0, 0], [2, 4], [5, 5]]), np.array([2, 2, 0]), 4)
    np.testing.assert_array_equal(prototypes[[0, 2]], [[5, 5], [1, 2]])
    assert np.isnan(prototypes[[1, 3]]).all()


def test_the_nearest_prototype_agrees_with_a_loop_over_all_distances():
    rng = np.random.default_rng(0)
    features, prototypes = rng.standard_normal((50, 6)), rng.standard_normal((7, 6))
    expected = [min(range(7), key=lambda k: np.linalg.norm(f - prototypes[k])) for f in features]
    assert nearest_prototype(features, prototypes).tolist() == expected


def test_a_class_without_a_prototype_is_never_predicted():
    prototypes = np.array([[0.0, 0], [np.nan, np.nan], [9, 9]])
    assert nearest_prototype(np.array([[4.0, 4], [5, 5]]), prototypes).tolist() == [0, 2]


def test_no_prototype_at_all_is_an_error():
    with pytest.raises(DataError, match="the synthetic set is empty"):
        nearest_prototype(np.zeros((1, 2)), np.full((3, 2), np.nan))


def test_accuracy_counts_the_test_images_nearest_to_their_own_synthetic_class():
    synthetic = image_set([[0, 0], [20, 0], [200, 200]], [0, 0, 1])
    real = image_set([[0, 0], [250, 250], [240, 240], [10, 10]], [0, 1, 0, 2])
    assert prototype_accuracy(Pixels(), synthetic, real, 3) == 0.5


def test_class_means_classify_by_their_pixels_with_no_extractor():
    means = np.array([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0]], dtype=np.float32).reshape(3, 1, 1, 2)
    real = image_set([[10, 20], [250, 240], [0, 200], [140, 140]], [0, 1, 2, 0])
    assert nearest_mean_accuracy(means, real) == 0.75
    means[1] = np.nan  # a class without a mean: its images go to the others
    assert nearest_mean_accuracy(means, real) == 0.5
