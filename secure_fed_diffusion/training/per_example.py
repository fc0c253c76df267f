"""Per-example gradients of the whole model: in one batched pass, or by `vmap(grad)`.

`in_one_pass` lets the model run as it is on a whole micro-batch and catches each call in which a trainable
parameter takes part; `layers` stands in for the functions it knows and keeps what each record's weight
gradients are made of, and `rows` multiplies that out, as many records at a time as `at_once` says.
Whatever it does not know (a parameter in another function, a layer that draws random numbers, a parameter
without a gradient) is not left out: the model is then differentiated by `vmap(grad)`, which takes the loss of
one record as it stands, whatever the layers inside, and refuses random numbers.
Which of the two a model takes is found out on blank images, so it depends on no record.
Both agree with a loop over the records: `tests/training/test_per_example.py`.

Opacus' hooks measure some of this U-Net's parameters wrongly (its attention hands on channels_last tensors:
7 of 145 in the quickstart's network, by 100 %), so the clip would act on a wrong norm.

Every micro-batch is padded to one shape and leaves it padded, with rows of zeros: kernels round differently
for other batch sizes, and neither a record's gradient nor the norm that clips it must depend on how many
records stand beside it.  In one pass nothing but the model keeps records apart: `exactness` is to be asked
before a model is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from secure_fed_diffusion.diffusion.objective import Draws, Objective
from secure_fed_diffusion.training.layers import CALLS
from secure_fed_diffusion.training.rows import Kept, Rows, Unknown

ROWS_BYTES = 1 << 26  # of gradients written down at once on the processor; a call costs more below
GPU_BYTES = 1 << 32


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


def per_example_gradients(model: nn.Module, objective: Objective, records: Records) -> Mapping[str, Tensor]:
    """Return {parameter name: (n, *shape)}: the gradient of each record's loss, K draws averaged.

    All records' at once; an empty batch gives (0, *shape).

    Raises:
        RuntimeError: a layer draws random numbers: what it drew for one record would depend on the others.
        Unknown: the model goes in one pass with blank images and not with these.
    """
    if not len(records):
        return {name: p.new_empty((0, *p.shape)) for name, p in trainable(model).items()}
    if goes_in_one_pass(model, objective, records):
        kept = in_one_pass(model, objective, records)
        return Rows(trainable(model), len(records)).write(kept, 0, len(records))
    return by_vmap(model, objective, records)


def goes_in_one_pass(model: nn.Module, objective: Objective, records: Records) -> bool:
    """Say whether `in_one_pass` knows the whole model: asked once a model and a shape, of blank records."""
    draws, answers = records.draws, _paths.setdefault(model, {})
    key = (records.images.shape, records.images.dtype, draws.timesteps.shape[1], model.training)
    key += tuple(trainable(model))
    if key not in answers:
        blank = Draws(torch.zeros_like(draws.timesteps), torch.zeros_like(draws.noise))
        nobody = Records(torch.zeros_like(records.images), torch.zeros_like(records.labels), blank)
        try:
            in_one_pass(model, objective, nobody)
            answers[key] = True
        except Unknown:
            answers[key] = False
    return answers[key]


_paths: WeakKeyDictionary[nn.Module, dict[tuple[object, ...], bool]] = WeakKeyDictionary()


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that have gradients, by name, in the order of a flat vector."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


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
    """Put the layers that fill `kept` in the place of PyTorch's, wherever a watched parameter is used."""

    def __init__(self, kept: Kept, anchor: Tensor) -> None:
        super().__init__()
        self._kept, self._anchor = kept, anchor

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        named = kwargs or {}
        known = CALLS.get(func)
        if known is not None and any(map(self._kept.watches, (*args, *named.values()))):
            return known(self._anchor, self._kept, *args, **named)
        return func(*args, **named)


def in_one_pass(model: nn.Module, objective: Objective, records: Records) -> Kept:
    """Keep what the per-example gradients of a micro-batch are made of, by one forward and one backward pass.

    Raises:
        Unknown: the model is not made of `layers.CALLS` alone.
    """
    draws, parameters = records.draws, trainable(model)
    anchor = torch.zeros((), device=records.images.device, requires_grad=True)  # what the layers hang on
    kept = Kept(parameters, len(records), draws.timesteps.shape[1])
    drawn = _generator_states(records.images.device)
    with exact_kernels(anchor.device), _Watch(kept, anchor):
        mean = objective.loss_batch(model, records.images, records.labels, draws.timesteps, draws.noise)
    if not all(map(torch.equal, drawn, _generator_states(records.images.device))):
        raise Unknown("a layer draws random numbers")
    if not mean.requires_grad:
        raise Unknown("no parameter takes part")
    # A parameter that gets a gradient from autograd itself was used in some other way too.
    with exact_kernels(anchor.device):
        others = torch.autograd.grad(mean * len(records), [anchor, *parameters.values()], allow_unused=True)
    if any(gradient is not None for gradient in others[1:]):
        raise Unknown("a parameter is used by a function that has no rule here")
    kept.require_all()
    return kept


@contextmanager
def exact_kernels(device: torch.device) -> Iterator[None]:
    """Let a GPU take kernels that give the same bits each time; on the processor all do.

    cuDNN's fastest may add in any order or be picked by a race, and so may the fused attentions' backward
    passes.  A precision is not chosen here: TF32 is as exact, bit for bit from place to place, as float32.
    """
    if device.type != "cuda":
        yield
        return
    precise = torch.backends.cudnn.allow_tf32
    with (
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=precise),
        sdpa_kernel(SDPBackend.MATH),
    ):
        yield


def _generator_states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def micro_batches(
    model: nn.Module, objective: Objective, records: Sample, size: int
) -> Iterator[Mapping[str, Tensor]]:
    """Yield the per-example gradients of `records`, computed in micro-batches of exactly `size` rows.

    Of each micro-batch they come in groups of `at_once` rows.  The last micro-batch is padded with copies of
    its first record, whose gradients are then overwritten with zeros or, where a group is made of them alone,
    not multiplied out: they add nothing to a sum, and what is done with a record is done at one shape.  Each
    group is gone, and cannot be read, when the next one is asked for: they share their memory.  Records are
    gathered one micro-batch at a time, so memory does not depend on how many there are.
    """
    rows, group = _spare.pop(model, None), at_once(model, size)
    try:
        for start in range(0, len(records), size):
            n = min(size, len(records) - start)
            chunk = records.at(torch.arange(start, start + n))
            if n < size:
                chunk = chunk.at(torch.cat([torch.arange(n), torch.zeros(size - n, dtype=torch.int64)]))
            if not goes_in_one_pass(model, objective, chunk):
                gradients = by_vmap(model, objective, chunk)
                for gradient in gradients.values():
                    gradient[n:] = 0.0
                yield gradients
                continue
            if rows is None or not rows.fits(trainable(model), group):
                rows = Rows(trainable(model), group)
            kept = in_one_pass(model, objective, chunk)
            for first in range(0, n, group):
                yield rows.write(kept, first, n - first)
            del kept  # before the next pass needs memory
    finally:
        if rows is not None:
            rows.close()
            _spare[model] = rows


def at_once(model: nn.Module, size: int) -> int:
    """Return how many records' gradients are written down at once, a divisor of `size`."""
    parameters = trainable(model).values()
    each = sum(p.numel() * p.element_size() for p in parameters)
    room = ROWS_BYTES if all(p.device.type == "cpu" for p in parameters) else GPU_BYTES
    n = size
    while n % 2 == 0 and n * each > room:
        n //= 2
    return n


_spare: WeakKeyDictionary[nn.Module, Rows] = WeakKeyDictionary()
"""Memory that no generator holds now; to touch fresh memory costs as much as to fill it."""
