"""Per-example gradients of the whole model by `torch.func`, with no hook on any layer.

Opacus' hooks measure some of this U-Net's parameters wrongly (its attention hands on channels_last tensors:
7 of 145 in the quickstart's network, by 100 %), so the clip would act on a wrong norm.  `vmap(grad)`
differentiates the loss of one record as it stands, whatever the layers inside;
`tests/training/test_per_example.py` holds every parameter of every block type against a loop.

A layer that draws random numbers is refused (`randomness="error"`): what it draws for one record would
depend on the records beside it.  Every micro-batch is padded to one shape: kernels round differently for
other batch sizes, and a record's gradient must not depend on how many records stand beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from secure_fed_diffusion.diffusion.objective import Draws, Objective, draw


@dataclass(frozen=True, slots=True)
class Records:
    """A batch as the model sees it: `images` (n, c, h, w) in [-1, 1], `labels` (n,), and their draws."""

    images: Tensor
    labels: Tensor
    draws: Draws

    def __len__(self) -> int:
        return len(self.labels)


def per_example_gradients(model: nn.Module, objective: Objective, records: Records) -> dict[str, Tensor]:
    """Return {parameter name: (n, *shape)}: the gradient of each record's loss, K draws averaged.

    An empty batch gives (0, *shape) rows.
    """
    params = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    fixed = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    fixed |= dict(model.named_buffers())
    if not len(records):
        return {name: p.new_empty((0, *p.shape)) for name, p in params.items()}

    def loss(weights: dict[str, Tensor], *record: Tensor) -> Tensor:
        return objective.loss_one(lambda *a, **k: functional_call(model, (weights, fixed), a, k), *record)

    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no batching rule
        return vmap(grad(loss), in_dims=(None, 0, 0, 0, 0), randomness="error")(
            params, records.images, records.labels, records.draws.timesteps, records.draws.noise
        )


def micro_batches(
    model: nn.Module, objective: Objective, records: Records, size: int
) -> Iterator[dict[str, Tensor]]:
    """Yield the per-example gradients of `records` in micro-batches computed at exactly `size` rows.

    The last one is padded with copies of its first record; the padding's rows are cut off again.
    """
    for start in range(0, len(records), size):
        rows = torch.arange(start, min(start + size, len(records)))
        padded = torch.cat([rows, rows[:1].expand(size - len(rows))])
        device = records.images.device
        index = padded.to(device)
        chunk = Records(
            records.images[index],
            records.labels[index],
            Draws(records.draws.timesteps[index], records.draws.noise[index]),
        )
        gradients = per_example_gradients(model, objective, chunk)
        yield {name: g[: len(rows)] for name, g in gradients.items()}


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
    generator = torch.Generator().manual_seed(0)
    device = next(model.parameters()).device
    images = (torch.rand((size, *image_shape), generator=generator) * 2 - 1).to(device)
    labels = torch.randint(n_classes, (size,), generator=generator).to(device)
    draws = draw(objective.settings, image_shape, keys=[("place", i) for i in range(size)]).to(device)

    def gradients(order: Tensor) -> dict[str, Tensor]:
        order = order.to(device)
        chosen = Draws(draws.timesteps[order], draws.noise[order])
        return per_example_gradients(model, objective, Records(images[order], labels[order], chosen))

    places, half = torch.arange(size), (size + 1) // 2
    here, moved = gradients(places), gradients(places.roll(1))
    beside = gradients(torch.cat([places[:half], places.flip(0)[half:]]))
    return all(
        torch.equal(alike.roll(1, 0), moved[name]) and torch.equal(alike[:half], beside[name][:half])
        for name, alike in here.items()
    )
