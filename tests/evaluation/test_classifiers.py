"""The classifiers of DPDM's tables, and a dropout that is torch's in law."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from secure_fed_diffusion.evaluation.classifiers import CLASSIFIERS, FairDropout, build


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 16, 16), (1, 28, 28), (3, 32, 32)])
def test_a_classifier_fits_the_image_size(name, shape):
    assert build(name, shape, 7)(torch.zeros(2, *shape)).shape == (2, 7)


def test_at_28_by_28_they_have_the_parameters_of_the_published_networks():
    published = {
        # three convolutions 1→32→64→128 of 3×3, then 1152→128→10
        "cnn": (9 * 32 + 32)
        + (9 * 32 * 64 + 64)
        + (9 * 64 * 128 + 128)
        + (1152 * 128 + 128)
        + (128 * 10 + 10),
        "mlp": (784 * 100 + 100) + (100 * 10 + 10),
        "logreg": 784 * 10 + 10,
    }
    for name, parameters in published.items():
        assert sum(p.numel() for p in build(name, (1, 28, 28), 10).parameters()) == parameters


def test_dropout_zeroes_a_fair_half_and_doubles_the_rest():
    torch.manual_seed(0)
    dropped = FairDropout()(torch.ones(1000, 1003))
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    # a million fair coins: 5 standard deviations, wrong once in two million
    assert abs(float(dropped.mean()) - 1) < 5 / (1000 * 1003) ** 0.5
    assert abs(float(dropped.mean(dim=0).max()) - 1) < 6 / 1000**0.5  # no coin is stuck: 1003 columns
    assert abs(float(dropped.mean(dim=0).min()) - 1) < 6 / 1000**0.5
    signs = dropped - 1
    for lag in (1, 7, 8, 63, 64, 1003):  # nor tied to its neighbours in a byte, a word or a row
        flat = signs.flatten()
        assert abs(float((flat[lag:] * flat[:-lag]).mean())) < 5.5 / 1_000_000**0.5


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dropout_keeps_the_layout_and_scales_gradients_as_it_scales_activations(layout):
    activations = torch.rand(3, 5, 7, 2).contiguous(memory_format=layout).requires_grad_()
    dropped = FairDropout()(activations)
    assert dropped.is_contiguous(memory_format=layout)
    dropped.sum().backward()
    assert torch.equal(dropped, activations * activations.grad)
    assert set(activations.grad.unique().tolist()) == {0.0, 2.0}


def test_dropout_follows_the_seed_and_rests_in_eval_mode():
    dropout, ones = FairDropout(), torch.ones(100)
    torch.manual_seed(1)
    first, second = dropout(ones), dropout(ones)
    torch.manual_seed(1)
    assert torch.equal(dropout(ones), first)
    assert not torch.equal(first, second)
    assert torch.equal(dropout.eval()(ones), ones)
    assert not list(nn.Sequential(dropout).state_dict())
