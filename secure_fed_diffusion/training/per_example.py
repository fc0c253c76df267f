"""Per-example gradients of the whole model: in one batched pass, or by `vmap(grad)`.

`in_one_pass` lets the model run as it is on a whole micro-batch and catches each call in which a trainable
parameter takes part; `layers` stands in for the functions it knows and writes each record's weight gradients
where they are summed.  Whatever it does not know (a parameter in another function, a layer that draws random
numbers, a parameter without a gradient) is not left out: the model is then differentiated by `vmap(grad)`,
which takes the loss of one record as it stands, whatever the layers inside, and refuses random numbers.
Which of the two a model takes is found out on blank images, so it depends on no record.
Both agree with a loop over the records: `tests/training/test_per_example.py`.

Opacus' hooks measure some of this U-Net's parameters wrongly (its attention hands on channels_last tensors:
7 of 145 in the quickstart's network, by 100 %), so the clip would act on a wrong norm.

Every micro-batch is padded to one shape and leaves it padded, with rows of zeros: kernels round differently
for other batch sizes, and neither a record's gradient nor the norm that clips it must depend on how many
records stand beside it.  In one pass nothing but the model keeps records apart: `is_position_independent`
and `agrees_with_vmap` are to be asked before a model is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from secure_fed_diffusion.diffusion.objective import Draws, Objective, draw
from secure_fed_diffusion.training.layers import CALLS, Rows, Unknown
from secure_fed_diffusion.training.vectors import record_norms


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


class Sample(Protocol):
    """Records of which some can be had at a time: all of them at once may not fit into memory."""

    def __len__(self) -> int:
        """Return the number of records."""

    def at(self, index: Tensor) -> Records:
        """Return the records at `index`, in that order."""


def per_example_gradients(
    model: nn.Module, objective: Objective, records: Records, rows: Rows | None = None
) -> Mapping[str, Tensor]:
    """Return {parameter name: (n, *shape)}: the gradient of each record's loss, K draws averaged.

    `rows` is memory to write them to, of as many records and draws; an empty batch gives (0, *shape).

    Raises:
        RuntimeError: a layer draws random numbers: what it drew for one record would depend on the others.
        Unknown: the model goes in one pass with blank images and not with these.
    """
    if not len(records):
        return {name: p.new_empty((0, *p.shape)) for name, p in trainable(model).items()}
    rows = memory_for(model, records) if rows is None else rows
    if goes_in_one_pass(model, objective, records, rows):
        return in_one_pass(model, objective, records, rows)
    return by_vmap(model, objective, records)


def goes_in_one_pass(model: nn.Module, objective: Objective, records: Records, rows: Rows) -> bool:
    """Say whether `in_one_pass` knows the whole model: asked once a model and a shape, of blank records."""
    draws, answers = records.draws, _paths.setdefault(model, {})
    key = (records.images.shape, records.images.dtype, draws.timesteps.shape[1], model.training)
    key += tuple(trainable(model))
    if key not in answers:
        blank = Draws(torch.zeros_like(draws.timesteps), torch.zeros_like(draws.noise))
        nobody = Records(torch.zeros_like(records.images), torch.zeros_like(records.labels), blank)
        try:
            in_one_pass(model, objective, nobody, rows)
            answers[key] = True
        except Unknown:
            answers[key] = False
    return answers[key]


_paths: WeakKeyDictionary[nn.Module, dict[tuple[object, ...], bool]] = WeakKeyDictionary()


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
        found = vmap(grad(loss), in_dims=(None, 0, 0, 0, 0), randomness="error")(
            params, records.images, records.labels, records.draws.timesteps, records.draws.noise
        )
    # The gradient of a parameter that takes no part is one row for all records.
    return {name: g.clone() if g.stride(0) == 0 else g for name, g in found.items()}


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
    model: nn.Module, objective: Objective, records: Sample, size: int
) -> Iterator[Mapping[str, Tensor]]:
    """Yield the per-example gradients of `records` in micro-batches of exactly `size` rows.

    The last one is padded with copies of its first record, whose gradients are then overwritten with zeros:
    they add nothing to a sum, and what is done with a micro-batch is done at one shape.  Each is gone, and
    cannot be read, when the next one is asked for: they share their memory.  Records are gathered one
    micro-batch at a time, so memory does not depend on how many there are.
    """
    rows = _spare.pop(model, None)
    try:
        for start in range(0, len(records), size):
            n = min(size, len(records) - start)
            chunk = records.at(torch.arange(start, start + n))
            if n < size:
                chunk = chunk.at(torch.cat([torch.arange(n), torch.zeros(size - n, dtype=torch.int64)]))
            if rows is None or not rows.fits(trainable(model), size, chunk.draws.timesteps.shape[1]):
                rows = memory_for(model, chunk)
            gradients = per_example_gradients(model, objective, chunk, rows)
            if gradients is rows:
                yield rows.show(n)
            else:
                for gradient in gradients.values():
                    gradient[n:] = 0.0
                yield gradients
    finally:
        if rows is not None:
            rows.close()
            _spare[model] = rows


_spare: WeakKeyDictionary[nn.Module, Rows] = WeakKeyDictionary()
"""Memory that no generator holds now; to touch fresh memory costs as much as to fill it."""


def is_position_independent(
    model: nn.Module, objective: Objective, *, image_shape: tuple[int, int, int], n_classes: int, size: int
) -> bool:
    """Say whether micro-batches of `size` give a record the same gradient and norm, to the bit, at any place.

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
    if not torch.equal(record_norms(here).roll(1, 0), record_norms(moved)):
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
