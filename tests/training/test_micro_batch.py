"""The micro-batch that a machine chooses: as large as memory allows, and never one that is not exact."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from secure_fed_diffusion.diffusion.objective import Objective
from secure_fed_diffusion.diffusion.settings import DiffusionSettings, ModelSettings
from secure_fed_diffusion.diffusion.unet import build_unet
from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.training import exactness, micro_batch
from secure_fed_diffusion.training.micro_batch import (
    SIZES,
    activation_bytes,
    fitting,
    memory_of,
    resolve,
)

OBJECTIVE = Objective(DiffusionSettings(timesteps=20))
SHAPE, CLASSES = (1, 8, 8), 3


@pytest.fixture
def model() -> nn.Module:
    settings = ModelSettings(channels=(8, 8), norm_groups=4, attention_head_dim=4)
    return build_unet(settings, image_shape=SHAPE, n_classes=CLASSES, n_timesteps=20)


def chosen(model: nn.Module, configured: int | str) -> int:
    return resolve(configured, model, OBJECTIVE, image_shape=SHAPE, n_classes=CLASSES)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Return the sizes that are exact; a test changes them."""
    sizes = set(SIZES)
    monkeypatch.setattr(exactness, "is_position_independent", lambda *_, size, **__: size in sizes)
    return sizes


def test_the_largest_size_that_memory_holds_is_taken(
    model: nn.Module, exact: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(micro_batch, "PHYSICAL", 1024)  # so that memory alone decides
    gradient = 4 * sum(p.numel() for p in model.parameters())
    one = activation_bytes(model, OBJECTIVE, SHAPE, CLASSES) * micro_batch._KEPT + gradient
    for size in SIZES:
        monkeypatch.setattr(
            micro_batch, "memory_of", lambda _, size=size: int(4 * (one * size + 3 * gradient))
        )
        assert fitting(model, OBJECTIVE, SHAPE, CLASSES)[0] == size
    monkeypatch.setattr(micro_batch, "memory_of", lambda _: 0)
    assert fitting(model, OBJECTIVE, SHAPE, CLASSES) == SIZES[-1:]


def test_a_size_that_is_not_exact_here_is_passed_over(
    model: nn.Module, exact: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(micro_batch, "fitting", lambda *_: SIZES)
    exact -= {64, 32}
    assert chosen(model, "auto") == 16
    exact.clear()
    assert chosen(model, "auto") == 16  # chosen once for a model and a process


def test_no_exact_size_is_an_error(model: nn.Module, exact: set[int]) -> None:
    exact.clear()
    with pytest.raises(ConfigError, match="at 16 this machine gives a record another gradient"):
        chosen(model, 16)
    with pytest.raises(ConfigError, match="this machine gives a record another gradient"):
        chosen(model, "auto")


def test_gradients_that_differ_from_vmap_are_an_error(
    model: nn.Module, exact: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exactness, "agrees_with_vmap", lambda *_, **__: False)
    with pytest.raises(ConfigError, match="come out wrong"):
        chosen(model, 16)


def test_a_configured_size_is_kept(model: nn.Module) -> None:
    assert chosen(model, 16) == 16


def test_memory_is_what_the_machine_has_whoever_uses_it() -> None:
    before = memory_of(torch.device("cpu"))
    held = torch.ones(1 << 22)  # 16 MiB that are really there
    assert 1 << 20 < memory_of(torch.device("cpu")) == before < 1 << 50
    assert len(held)


def test_the_lower_limit_of_a_container_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_text

    def limited(self: Path, *arguments: object, **named: object) -> str:
        return f"{1 << 21}\n" if self.name == "memory.max" else read(self, *arguments, **named)

    monkeypatch.setattr(Path, "read_text", limited)
    assert memory_of(torch.device("cpu")) == 1 << 21


@pytest.mark.parametrize("change", ["threads", "dtype", "multiplicity", "shape"])
def test_a_choice_holds_for_what_it_was_made_for_alone(
    change: str, model: nn.Module, exact: set[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(micro_batch, "fitting", lambda *_: SIZES)
    monkeypatch.setattr(exactness, "agrees_with_vmap", lambda *_, **__: True)
    assert chosen(model, "auto") == 64
    exact -= {64}
    objective, shape = OBJECTIVE, SHAPE
    if change == "threads":
        monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    elif change == "dtype":
        model = model.double()
    elif change == "multiplicity":
        objective = Objective(DiffusionSettings(timesteps=20, noise_multiplicity=7))
    else:
        shape = (1, 16, 16)
    assert resolve("auto", model, objective, image_shape=shape, n_classes=CLASSES) == 32
