"""A view holds data and no way back to the system; what is handed over is a copy."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from types import MappingProxyType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from secure_fed_diffusion import secagg
from secure_fed_diffusion.errors import ConfigError
from threat_models.claim import View
from threat_models.plain_data import copied, shared_memory
from threat_models.staging.secagg_round import Round


@dataclass(frozen=True)
class Seen(View):
    value: Any


@dataclass
class Changeable:
    value: int


@dataclass(frozen=True)
class Inner:
    array: Any


class OwnArray(np.ndarray):
    """An array that could carry anything."""


def with_handle(tensor: torch.Tensor) -> torch.Tensor:
    tensor.system = object()  # type: ignore[attr-defined]
    return tensor


def with_graph() -> torch.Tensor:
    return torch.ones(2, requires_grad=True) * 2


def beside_its_fields() -> Seen:
    seen = Seen(1)
    seen.__dict__["system"] = object()
    return seen


PLAIN = [
    None,
    True,
    3,
    2.5,
    "text",
    b"frame",
    np.float32(1.5),
    np.arange(3),
    (1, (2, b"x")),
    frozenset({1, 2}),
    {"a": np.zeros(2), 3: (1,)},
    MappingProxyType({1: 2}),
    Inner(array=np.ones(2)),
    torch.ones(2),
    secagg.SecAggParams(n_clients=3, threshold=2, dimension=2, modulus_bits=32),
]

HANDLES = [
    [1, 2],
    {1, 2},
    bytearray(b"a"),
    print,
    lambda: 0,
    functools.partial(print),
    object(),
    SimpleNamespace(a=1),
    np.random.default_rng(0),
    np.array([object()]),
    np.zeros(2).view(OwnArray),
    memoryview(b"a"),
    iter(()),
    Changeable(1),
    secagg.Client,
    Round,
    torch.nn.Parameter(torch.ones(2)),
    torch.nn.Linear(1, 1),
    with_handle(torch.ones(2)),
    with_graph(),
    beside_its_fields(),
]


@pytest.mark.parametrize("value", PLAIN, ids=lambda value: type(value).__name__)
def test_plain_data_pass_at_any_depth(value: Any) -> None:
    for nested in (value, (value,), {"key": value}, Seen(value), (Seen((value,)),)):
        assert type(copied(nested, where="view")) in (type(nested), MappingProxyType)


@pytest.mark.parametrize("value", HANDLES, ids=lambda value: type(value).__name__)
def test_what_could_lead_back_to_the_system_is_refused_at_any_depth(value: Any) -> None:
    for nested in (value, (value,), {"key": value}, Seen(value), (Seen((value,)),)):
        with pytest.raises(ConfigError, match="expected plain data"):
            copied(nested, where="view")


def test_the_error_names_the_field() -> None:
    with pytest.raises(ConfigError, match=r"Seen\.value\[1\]: expected plain data, got Generator"):
        copied(Seen((1, np.random.default_rng(0))), where="Seen")


def test_an_attack_can_neither_reach_nor_change_what_the_stage_holds() -> None:
    whole = np.arange(10)
    tensor = torch.arange(10)
    seen = copied(Seen((whole[:3], tensor[:3], {"a": 1})), where="view")
    array, part, table = seen.value
    assert array.base is None
    assert not array.flags.writeable
    assert part.untyped_storage().nbytes() == 3 * 8
    part.zero_()
    assert tensor[1] == 1
    with pytest.raises(TypeError):
        table["a"] = 2


def test_memory_shared_with_the_truth_is_found_wherever_it_is() -> None:
    whole = np.arange(10)
    tensor = torch.arange(4)
    assert shared_memory(Seen((whole[:3],)), {"truth": (whole,)})
    assert shared_memory(Seen(tensor), Inner(tensor[1:]))
    assert shared_memory(Seen(tensor.numpy()), [tensor])
    assert not shared_memory(Seen(whole.copy()), whole)
