"""The one-pass gradients: what the layers know they give, what they do not know is never left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secure_fed_diffusion.diffusion.objective import Draws, Objective, draw
from secure_fed_diffusion.diffusion.settings import DiffusionSettings
from secure_fed_diffusion.dp.grid import IntegerGrid
from secure_fed_diffusion.training import per_example
from secure_fed_diffusion.training.exactness import agrees_with_vmap, is_position_independent
from secure_fed_diffusion.training.integer_sums import integer_sum
from secure_fed_diffusion.training.per_example import (
    Records,
    at_once,
    by_vmap,
    in_one_pass,
    micro_batches,
    per_example_gradients,
    trainable,
)
from secure_fed_diffusion.training.rows import Kept, Rows, Unknown
from secure_fed_diffusion.training.vectors import dimension
from tests.training.test_per_example import CASES, build

K = 2
DIFFUSION = DiffusionSettings(noise_multiplicity=K, timesteps=50)
OBJECTIVE = Objective(DIFFUSION)


class Denoiser(nn.Module):
    """A denoiser made of `parts` and what `forward` does with them and an image (b, 1, 8, 8)."""

    def __init__(
        self, body: Callable[[Any, Tensor, Tensor], Tensor], **parts: nn.Module | nn.Parameter
    ) -> None:
        super().__init__()
        self._body = body
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        return (self._body(self, x, class_labels),)


def records(n: int = 3) -> Records:
    generator = torch.Generator().manual_seed(0)
    draws = draw(DIFFUSION, (1, 8, 8), keys=[(i,) for i in range(n)])
    images = torch.randn((n, 1, 8, 8), generator=generator).double()
    return Records(images, torch.arange(n) % 3, Draws(draws.timesteps, draws.noise.double()))


def same(found: Any, expected: Any) -> None:
    assert list(found) == list(expected)
    for name, gradient in expected.items():
        assert found[name].shape == gradient.shape
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-12)


def one_pass(model: nn.Module, batch: Records) -> Rows:
    return Rows(trainable(model), len(batch)).write(in_one_pass(model, OBJECTIVE, batch), 0, len(batch))


def seeded(**parts: Any) -> dict[str, Any]:
    """Return fresh parts with weights that a seed decides."""
    generator = torch.Generator().manual_seed(1)
    for part in parts.values():
        for p in part.parameters() if isinstance(part, nn.Module) else [part]:
            p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64) / 3
    return parts


def channels_last(x: Tensor) -> Tensor:
    """Lay `x` out as attention does; `vmap` knows no memory format."""
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def conv(*form: Any, **named: Any) -> Denoiser:
    def body(it: Any, x: Tensor, _: Tensor) -> Tensor:
        return nn.functional.interpolate(it.down(it.conv(it.up(x))), size=(8, 8))

    layer = nn.Conv2d(4, 6, *form, **named)
    return Denoiser(body, **seeded(up=nn.Conv2d(1, 4, 1), conv=layer, down=nn.Conv2d(6, 1, 1)))


KNOWN = {
    "a kernel": lambda: conv(3, padding=1),
    "strides": lambda: conv(3, stride=(2, 1), padding=1),
    "a wide kernel": lambda: conv((3, 5), padding=(0, 2)),
    "dilation": lambda: conv(3, dilation=2),
    "one by one with strides": lambda: conv(1, stride=2),
    "no bias": lambda: conv(3, bias=False),
    "no padding": lambda: conv(3),
    "padding by reflection": lambda: conv(3, padding=1, padding_mode="reflect"),
    "normalisation and labels": lambda: Denoiser(
        lambda it, x, y: it.down(it.norm(it.up(x) + it.label(y)[:, :, None, None])),
        **seeded(
            up=nn.Conv2d(1, 6, 3, padding=1),
            norm=nn.GroupNorm(3, 6),
            label=nn.Embedding(3, 6),
            down=nn.Conv2d(6, 1, 1),
        ),
    ),
    "a layer called twice": lambda: Denoiser(
        lambda it, x, _: it.conv(torch.tanh(it.conv(x))) + it.line(it.line(x)),
        **seeded(conv=nn.Conv2d(1, 1, 3, padding=1), line=nn.Linear(8, 8)),
    ),
    "channels last inside": lambda: Denoiser(
        lambda it, x, _: it.down(it.norm(channels_last(it.up(x))) ** 2),
        **seeded(
            up=nn.Conv2d(1, 4, 3, padding=1), norm=nn.GroupNorm(2, 4), down=nn.Conv2d(4, 1, 3, padding=1)
        ),
    ),
}


def tied() -> Denoiser:
    parts = seeded(first=nn.Linear(8, 8), second=nn.Linear(8, 8))
    parts["second"].weight = parts["first"].weight
    return Denoiser(lambda it, x, _: it.second(torch.tanh(it.first(x))), **parts)


KNOWN["tied weights"] = tied


@pytest.mark.parametrize("name", KNOWN)
def test_what_the_layers_know_is_what_vmap_gives(name: str) -> None:
    model, batch = KNOWN[name](), records()
    same(one_pass(model, batch), by_vmap(model, OBJECTIVE, batch))


@pytest.mark.parametrize("name", CASES)
def test_every_network_that_a_configuration_can_name_goes_in_one_pass(name: str) -> None:
    model, objective, batch = build(CASES[name], torch.float32)
    in_one_pass(model, objective, batch)


def test_frozen_parameters_have_no_gradient_and_change_no_other() -> None:
    model, batch = KNOWN["normalisation and labels"](), records()
    whole = {name: g.clone() for name, g in per_example_gradients(model, OBJECTIVE, batch).items()}
    frozen = {"up.weight", "norm.bias", "down.bias"}
    for name in frozen:
        model.get_parameter(name).requires_grad_(False)
    found = one_pass(model, batch)
    same(found, {name: g for name, g in whole.items() if name not in frozen})


UNKNOWN = {
    "a parameter by itself": lambda: Denoiser(
        lambda it, x, _: it.conv(x) * it.scale,
        **seeded(conv=nn.Conv2d(1, 1, 1), scale=nn.Parameter(torch.ones(1))),
    ),
    "a weight used in two ways": lambda: Denoiser(
        lambda it, x, _: it.line(x) + it.line.weight.sum(), **seeded(line=nn.Linear(8, 8))
    ),
    "a weight that is first changed": lambda: Denoiser(
        lambda it, x, _: nn.functional.linear(x, it.line.weight.tanh(), it.line.bias),
        **seeded(line=nn.Linear(8, 8)),
    ),
    "a weight that is derived from one, beside a bias that is none": lambda: Denoiser(
        lambda it, x, _: nn.functional.linear(it.line(x), it.line.weight.t(), it.line.bias),
        **seeded(line=nn.Linear(8, 8)),
    ),
    "a bias that is derived from one": lambda: Denoiser(
        lambda it, x, _: nn.functional.linear(it.line(x), it.line.weight, it.line.bias * 2),
        **seeded(line=nn.Linear(8, 8)),
    ),
    "groups": lambda: conv(3, groups=2),
    "padding by name": lambda: conv(3, padding="same"),
    "a layer of another type": lambda: Denoiser(
        lambda it, x, _: it.norm(it.line(x)), **seeded(line=nn.Linear(8, 8), norm=nn.LayerNorm(8))
    ),
    "a parameter that takes no part": lambda: Denoiser(
        lambda it, x, _: it.line(x), **seeded(line=nn.Linear(8, 8), idle=nn.Linear(2, 2))
    ),
    "another axis first": lambda: Denoiser(
        lambda it, x, _: it.line(x.transpose(0, 2)).transpose(0, 2), **seeded(line=nn.Linear(8, 8))
    ),
    "an embedding that leaves one out": lambda: Denoiser(
        lambda it, x, y: it.line(x) + it.label(y)[:, None, None, :],
        **seeded(line=nn.Linear(8, 8), label=nn.Embedding(3, 8, padding_idx=0)),
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_they_do_not_know_is_refused_and_differentiated_by_vmap(name: str) -> None:
    model, batch = UNKNOWN[name](), records()
    with pytest.raises(Unknown):
        in_one_pass(model, OBJECTIVE, batch)
    same(per_example_gradients(model, OBJECTIVE, batch), by_vmap(model, OBJECTIVE, batch))
    assert all(p.grad is None for p in model.parameters())


def test_a_network_that_takes_another_way_with_some_records_is_an_error() -> None:
    model = Denoiser(
        lambda it, x, _: it.line(x) + (it.line.weight.sum() if bool(x.any()) else 0),
        **seeded(line=nn.Linear(8, 8)),
    )
    with pytest.raises(Unknown, match="used by a function that has no rule"):
        per_example_gradients(model, OBJECTIVE, records())


def test_the_way_is_found_once_for_a_model_and_a_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = KNOWN["a kernel"](), []
    honest = per_example.in_one_pass

    def watch(model: nn.Module, objective: Objective, batch: Records) -> Kept:
        seen.append(bool(batch.images.any()))
        return honest(model, objective, batch)

    monkeypatch.setattr(per_example, "in_one_pass", watch)
    list(micro_batches(model, OBJECTIVE, records(6), 4))
    list(micro_batches(model, OBJECTIVE, records(6), 4))
    assert seen == [False] + [True] * 4


def test_a_record_without_numbers_adds_zero_beside_a_large_parameter_that_takes_no_part() -> None:
    model = Denoiser(
        lambda it, x, _: it.line(x), **seeded(line=nn.Linear(8, 8), idle=nn.Linear(64, 64))
    ).float()
    batch = records(3)
    batch.images[0] = float("nan")
    batch = Records(
        batch.images.float(), batch.labels, Draws(batch.draws.timesteps, batch.draws.noise.float())
    )
    grid = IntegerGrid.for_dimension(dimension(model), 1.0)
    sums = [
        integer_sum(micro_batches(model, OBJECTIVE, part, 16), grid, dimension(model))
        for part in (batch, batch.at(torch.tensor([1, 2])))
    ]
    assert sums[0].any()
    assert (sums[0] == sums[1]).all()


def test_a_layer_that_draws_random_numbers_is_refused() -> None:
    model = Denoiser(
        lambda it, x, _: it.drop(it.line(x)), **seeded(line=nn.Linear(8, 8)), drop=nn.Dropout(0.5)
    )
    with pytest.raises(RuntimeError, match="random"):
        per_example_gradients(model, OBJECTIVE, records())


def test_a_layer_that_mixes_records_is_seen() -> None:
    model = Denoiser(lambda it, x, _: it.line(x - x.mean(dim=0)), **seeded(line=nn.Linear(8, 8))).float()
    facts: dict[str, Any] = {"image_shape": (1, 8, 8), "n_classes": 3}
    assert not is_position_independent(model, OBJECTIVE, **facts, size=16)


def test_an_axis_that_is_as_long_as_the_batch_by_chance_is_seen() -> None:
    def body(it: Any, x: Tensor, _: Tensor) -> Tensor:
        tokens = it.up(x.flatten(1).t().unsqueeze(2))  # (64 positions, batch, 1)
        return torch.tanh(tokens).squeeze(2).t().reshape(x.shape)

    model = Denoiser(body, **seeded(up=nn.Linear(1, 1))).float()
    facts: dict[str, Any] = {"image_shape": (1, 8, 8), "n_classes": 3}
    assert is_position_independent(model, OBJECTIVE, **facts, size=16)  # by vmap
    assert not is_position_independent(model, OBJECTIVE, **facts, size=64 // K)


def test_wrong_gradients_do_not_agree_with_vmap(monkeypatch: pytest.MonkeyPatch) -> None:
    model = KNOWN["a kernel"]().float()
    facts: dict[str, Any] = {"image_shape": (1, 8, 8), "n_classes": 3}
    assert agrees_with_vmap(model, OBJECTIVE, **facts)
    honest = Rows.add

    def without_the_last(self: Rows, parameter: Tensor, values: Tensor) -> None:
        honest(self, parameter, torch.cat([values[:-1], 0 * values[-1:]]))

    monkeypatch.setattr(Rows, "add", without_the_last)
    assert not agrees_with_vmap(model, OBJECTIVE, **facts)


def test_a_micro_batch_cannot_be_read_when_the_next_one_is_there() -> None:
    model = KNOWN["a kernel"]()
    held = list(micro_batches(model, OBJECTIVE, records(8), 4))
    assert len(held) == 2
    with pytest.raises(RuntimeError, match="over"):
        dict(held[0])


def test_two_runs_over_one_model_at_once_do_not_share_memory() -> None:
    model, batch = KNOWN["a kernel"](), records(8)
    alone = [
        {name: g.clone() for name, g in chunk.items()} for chunk in micro_batches(model, OBJECTIVE, batch, 4)
    ]
    backwards = batch.at(torch.arange(8).flip(0))
    both = zip(
        micro_batches(model, OBJECTIVE, batch, 4), micro_batches(model, OBJECTIVE, backwards, 4), strict=True
    )
    for expected, (one, other) in zip(alone, both, strict=True):
        same(one, expected)
        assert not torch.equal(one["conv.weight"], other["conv.weight"])


@pytest.mark.parametrize(("each", "groups"), [(1, 5), (2, 3), (4, 2)])
def test_a_micro_batch_comes_in_groups_and_without_those_of_padding_alone(
    each: int, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = KNOWN["normalisation and labels"](), records(5)
    whole = {name: g.clone() for name, g in per_example_gradients(model, OBJECTIVE, batch).items()}
    monkeypatch.setattr(per_example, "ROWS_BYTES", each * 8 * dimension(model))
    assert at_once(model, 8) == each
    found = [
        {name: g.clone() for name, g in some.items()} for some in micro_batches(model, OBJECTIVE, batch, 8)
    ]
    assert len(found) == groups
    for name, expected in whole.items():
        rows = torch.cat([some[name] for some in found])
        torch.testing.assert_close(rows[:5], expected, rtol=1e-10, atol=1e-12)
        assert not rows[5:].any()


def test_a_micro_batch_whose_records_depend_on_their_place_in_their_group_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    facts: dict[str, Any] = {"image_shape": (1, 8, 8), "n_classes": 3, "size": 16}
    for make in KNOWN.values():  # which networks' kernels keep the bits of groups of four is the machine's
        model = make().float()
        monkeypatch.setattr(per_example, "ROWS_BYTES", 4 * 4 * dimension(model))
        if keeps := is_position_independent(model, OBJECTIVE, **facts):
            break
    assert at_once(model, 16) == 4
    assert keeps
    honest = Rows.add

    def with_an_edge(self: Rows, parameter: Tensor, values: Tensor) -> None:
        values = values.clone()
        values[-1] = torch.nextafter(values[-1], torch.tensor(torch.inf))  # one bit in a group's last row
        honest(self, parameter, values)

    monkeypatch.setattr(Rows, "add", with_an_edge)
    assert not is_position_independent(model, OBJECTIVE, **facts)
