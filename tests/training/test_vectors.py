from __future__ import annotations

import pytest
import torch
from torch import nn

from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.training.vectors import flatten, load_flat


def test_weights_survive_the_way_through_a_vector() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    weights = flatten(model)
    load_flat(model, weights * 2)
    assert torch.equal(flatten(model), weights * 2)
    with pytest.raises(ConfigError, match="expected 26 weights, got 27"):
        load_flat(model, torch.cat([weights, weights[:1]]))
