"""Per-example gradients of the whole model: in one batched pass, or by `vmap(grad)`.

`in_one_pass` lets the model run as it is on a whole micro-batch and catches each call in which a trainable
parameter takes part; `layers` stands in for the functions it knows and writes each record's weight gradients
where they are summed.  Whatever it does not know (a parameter in another function, a layer that draws random
numbers, a parameter without a gradient) is not left out: the model is then differentiated by `vmap(grad)`,
which takes the loss of one record as it stands, whatever the layers inside, and refuses random numbers.
Both agree with a loop over the records: `tests/training/test_per_example.py`.

Opacus' hooks measure some of this U-Net's parameters wrongly (its attention hands on channels_last tensors:
7 of 145 in the quickstart's network, by 100 %), so the clip would act on a wrong norm.

Every micro-batch is padded to one shape: kernels round differently for other batch sizes, and a record's
gradient must not depend on how many records stand beside it.  In one pass nothing but the model keeps
records apart: `is_position_independent` and `agrees_with_vmap` are to be asked before a model is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from secure_fed_diffusion.diffusion.objective import Draws, Objective, draw
from secure_fed_diffusion.training.layers import CALLS, Rows, Unknown


@dataclass(frozen=True, slots=True)
class Records:
    """A batch as the model sees it: `images` (n, c, h, w) in [-1, 1], `labels` (n,), and their draws."""

    images: Tensor
    labels: Tensor
    draws: Draws

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, index: Tensor) -> Records:
        """Return the records at `index`, in that order."""
        index = index.to(self.images.device)
        draws = Draws(self.draws.timesteps[index], self.draws.noise[index])
        return Records(self.images[index], self.labels[index], draws)


def per_example_gradients(
    model: nn.Module, objective: Objective, records: Records, rows: Rows | None = None
) -> Mapping[str, Tensor]:
    """Return {parameter name: (n, *shape)}: the gradient of each record's loss, K draws averaged.

    `rows` is memory to write them to, of as many records and draws; an empty batch gives (0, *shape).

    Raises:
        RuntimeError: a layer draws random numbers: what it drew for one record would depend on the others.
    """
    if not len(records):
        return {name: p.new_empty((0, *p.shape)) for name, p in trainable(model).items()}
    try:
        return in_one_pass(model, objective, records, memory_for(model, records) if rows is None else rows)
    except Unknown:
        return by_vmap(model, objective, records)


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that have gradients, by name, in the order of a flat vector."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def memory_for(model: nn.Module, records: Records) -> Rows:
    """Return the memory that `in_one_pass` writes the gradients of so many records to."""
    return Rows(trainable(model), len(records), records.draws.timesteps.shape[1])


def by_vmap(model: nn.Module, objective: Objective, records: Records) -> dict[str, Tensor]:
    """Return {parameter name: (n, *shape)} by `vmap(grad)`, for any model that draws no random numbers."""
    params = {name: p.detach() for name, p in trainable(model).items()}
    fixed = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    fixed |= dict(model.named_buffers())

    def loss(weights: dict[str, Tensor], *record: Tensor) -> Tensor:
        return objective.loss_one(lambda *a, **k: functional_call(model, (weights, fixed), a, k), *record)

    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no batching rule
        return vmap(grad(loss), in_dims=(None, 0, 0, 0, 0), randomness="error")(
            params, records.images, records.labels, records.draws.timesteps, records.draws.noise
        )


class _Watch(TorchFunctionMode):
    """Put the layers that write `rows` in the place of PyTorch's, wherever a watched parameter is used."""

    def __init__(self, rows: Rows, anchor: Tensor) -> None:
        super().__init__()
        self._rows, self._anchor = rows, anchor

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        named = kwargs or {}
        known = CALLS.get(func)
        if known is not None and any(map(self._rows.watches, (*args, *named.values()))):
            return known(self._anchor, self._rows, *args, **named)
        return func(*args, **named)


def in_one_pass(model: nn.Module, objective: Objective, records: Records, rows: Rows) -> Rows:
    """Return the per-example gradients of a micro-batch by one forward and one backward pass, in `rows`.

    Raises:
        Unknown: the model is not made of `layers.CALLS` alone; what was written is not to be read.
    """
    draws = records.draws
    anchor = torch.zeros((), device=records.images.device, requires_grad=True)  # what the layers hang on
    rows.begin()
    drawn = _generator_states(records.images.device)
    with _Watch(rows, anchor):
        mean = objective.loss_batch(model, records.images, records.labels, draws.timesteps, draws.noise)
    if not all(map(torch.equal, drawn, _generator_states(records.images.device))):
        raise Unknown("a layer draws random numbers")
    if not mean.requires_grad:
        raise Unknown("no parameter takes part")
    # A parameter that gets a gradient from autograd itself was used in some other way too.
    others = torch.autograd.grad(mean * len(records), [anchor, *rows.parameters.values()], allow_unused=True)
    if any(gradient is not None for gradient in others[1:]):
        raise Unknown("a parameter is used by a function that has no rule here")
    return rows.show(len(records))


def _generator_states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def micro_batches(
    model: nn.Module, objective: Objective, records: Records, size: int
) -> Iterator[Mapping[str, Tensor]]:
    """Yield the per-example gradients of `records` in micro-batches computed at exactly `size` rows.

    The last one is padded with copies of its first record; the padding's rows are cut off again.  Each is
    gone, and cannot be read, when the next one is asked for: they share their memory.
    """
    if not len(records):
        return
    rows = _spare.pop(model, None)
    if rows is None or not rows.fits(trainable(model), size, records.draws.timesteps.shape[1]):
        rows = Rows(trainable(model), size, records.draws.timesteps.shape[1])
    try:
        for start in range(0, len(records), size):
            held = torch.arange(start, min(start + size, len(records)))
            chunk = records.at(torch.cat([held, held[:1].expand(size - len(held))]))
            gradients = per_example_gradients(model, objective, chunk, rows)
            if gradients is rows:
                yield rows.show(len(held))
            else:
                yield {name: g[: len(held)] for name, g in gradients.items()}
    finally:
        rows.close()
        _spare[model] = rows


_spare: WeakKeyDictionary[nn.Module, Rows] = WeakKeyDictionary()
"""Memory that no generator holds now; to touch fresh memory costs as much as to fill it."""


def is_position_independent(
    model: nn.Module, objective: Objective, *, image_shape: tuple[int, int, int], n_classes: int, size: int
) -> bool:
    """Say whether micro-batches of `size` give a record the same gradient, to the bit, wherever it stands.

    Some kernels add up in another order at the edge of a batch whose size suits no vector register (3, 5
    and 11 were seen).  Taking one record away moves the others up by one place; were their gradients to
    change in the last bit, the sum would move by more than one record's bound.  The order of additions
    does not depend on the values, so random records show it: each is moved by one place, and half of
    them get other neighbours.  `image_shape` is that of one record in model space.
    """
    records = random_records(model, objective, image_shape, n_classes, size)
    here = per_example_gradients(model, objective, records)
    places, half = torch.arange(size), (size + 1) // 2
    moved = per_example_gradients(model, objective, records.at(places.roll(1)))
    if not all(torch.equal(g.roll(1, 0), moved[name]) for name, g in here.items()):
        return False
    beside = per_example_gradients(
        model, objective, records.at(torch.cat([places[:half], places.flip(0)[half:]]))
    )
    return all(torch.equal(g[:half], beside[name][:half]) for name, g in here.items())


def agrees_with_vmap(
    model: nn.Module, objective: Objective, *, image_shape: tuple[int, int, int], n_classes: int
) -> bool:
    """Say whether the gradients that are used are those of `by_vmap` but for rounding, on three records.

    It guards against a layer that `layers` takes for another: an axis of the batch's length that is none.
    """
    records = random_records(model, objective, image_shape, n_classes, 3)
    used, reference = per_example_gradients(model, objective, records), by_vmap(model, objective, records)
    if used.keys() != reference.keys():
        return False
    wholes = sum(g.flatten(1).double().square().sum(1) for g in reference.values()).sqrt()
    return all(
        bool(((used[name] - g).flatten(1).double().norm(dim=1) <= 1e-3 * wholes).all())
        for name, g in reference.items()
    )


def random_records(
    model: nn.Module, objective: Objective, image_shape: tuple[int, int, int], n_classes: int, n: int
) -> Records:
    """Return records that are nobody's, always the same."""
    generator = torch.Generator().manual_seed(0)
    device = next(model.parameters()).device
    images = torch.rand((n, *image_shape), generator=generator) * 2 - 1
    labels = torch.randint(n_classes, (n,), generator=generator)
    draws = draw(objective.settings, image_shape, keys=[("place", i) for i in range(n)])
    return Records(images.to(device), labels.to(device), draws.to(device))
