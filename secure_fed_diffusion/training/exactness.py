"""Whether this machine keeps the sensitivity with this model: asked before any work, on random records.

The proof has a record's gradient depend on no other record, to the bit.  That is a property of kernels, sizes
and layers, which differ from machine to machine: `is_position_independent` looks for the first two,
`agrees_with_vmap` for a layer that is taken for another.  A run that is answered no does not begin
(`micro_batch.resolve`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from secure_fed_diffusion.diffusion.objective import Objective, draw
from secure_fed_diffusion.training.integer_sums import record_norms
from secure_fed_diffusion.training.per_example import (
    Records,
    by_vmap,
    micro_batches,
    per_example_gradients,
)


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
    places, half = torch.arange(size), (size + 1) // 2
    here, moved, beside = (
        _fingerprints(micro_batches(model, objective, records.at(index), size))
        for index in (places, places.roll(1), torch.cat([places[:half], places.flip(0)[half:]]))
    )
    return torch.equal(here.roll(1, 0), moved) and torch.equal(here[:half], beside[:half])


def _fingerprints(groups: Iterable[Mapping[str, Tensor]]) -> Tensor:
    """Return two integers for each record, (n, 2): one of its gradient's bits and the bits of its norm.

    Another bit anywhere is another integer: each coordinate's bits are multiplied by an own odd number.
    """
    found = []
    for gradients in groups:
        norms = record_norms(gradients).view(torch.int64)
        seen = torch.zeros_like(norms)
        for gradient in gradients.values():
            rows = gradient.flatten(1).contiguous()
            bits = rows.view(torch.int32 if rows.element_size() == 4 else torch.int64)
            odd = 2 * torch.arange(bits.shape[1], device=bits.device, dtype=bits.dtype) * 0x3C6EF372 + 1
            seen = seen * 0x9E3779B1 + (bits * odd).sum(1)
        found.append(torch.stack([seen, norms], dim=1))
    return torch.cat(found)


def agrees_with_vmap(
    model: nn.Module, objective: Objective, *, image_shape: tuple[int, int, int], n_classes: int
) -> bool:
    """Say whether the gradients that are used are those of `by_vmap` but for rounding, on three records.

    It guards against a layer that `layers` takes for another: an axis of the batch's length that is none.
    """
    records = random_records(model, objective, image_shape, n_classes, 3)
    on_gpu = records.images.device.type == "cuda"
    # In TF32 the two differ by more than what would show a wrong layer; what follows does not depend on it.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False) if on_gpu else nullcontext():
        used = per_example_gradients(model, objective, records)
        reference = by_vmap(model, objective, records)
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
