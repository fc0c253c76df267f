"""How many records' gradients are computed at once, where a run leaves that to the machine.

The largest of `SIZES` that fits into memory and gives a record the same gradient to the bit wherever it
stands.  It fits if per-example gradients of so many take no more than twice what a plain step on as many
records takes (on the processor: on `PHYSICAL`), and no more than a quarter of the machine's memory: several
clients may share it.  Only as many gradients as `per_example.at_once` says are ever written down, so large
networks go in as large micro-batches as small ones.

What is asked is how much memory the machine (or its container) has, never how much of it is free: that
depends on the private data that are loaded, and neighbouring data sets must take the same size.

Sizes change a gradient in its last bits and nothing in the guarantee, but two machines that choose
differently differ in those bits.  Not counted: what kernels allocate by themselves.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from secure_fed_diffusion.diffusion.objective import Objective
from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.training import exactness, per_example
from secure_fed_diffusion.training.vectors import dimension

AUTO = "auto"
SIZES = (64, 32, 16, 8)
GPU_SIZES = (512, 256, 128, *SIZES)  # a GPU is idle in small ones
PHYSICAL = 64  # records in the plain step that memory is compared with
_SHARE = 4  # of the machine's memory a quarter may be used
_KEPT = 1.1  # the gradients of layers' outputs are kept beside what the forward pass keeps


_chosen: WeakKeyDictionary[nn.Module, dict[tuple[object, ...], int]] = WeakKeyDictionary()
"""What "auto" came to, once a process for each model and whatever kernels depend on."""


def resolve(
    configured: int | str,
    model: nn.Module,
    objective: Objective,
    *,
    image_shape: tuple[int, int, int],
    n_classes: int,
) -> int:
    """Return the micro-batch to use: the configured one, or for "auto" the largest that fits.

    Guarantees: at that size this machine gives a record the same gradient, to the bit, wherever it stands,
    and its gradients are those of `vmap(grad)` but for rounding.

    Raises:
        ConfigError: no size does; the caller names the key.
    """
    weight = next(model.parameters())
    multiplicity = objective.settings.noise_multiplicity
    key = (torch.get_num_threads(), weight.device, weight.dtype, multiplicity, image_shape, n_classes)
    known = _chosen.setdefault(model, {})
    if configured != AUTO:
        sizes: tuple[int, ...] = (int(configured),)
    elif key in known:
        return known[key]
    else:
        sizes = fitting(model, objective, image_shape, n_classes)
    for size in sizes:
        if exactness.is_position_independent(
            model, objective, image_shape=image_shape, n_classes=n_classes, size=size
        ):
            if not exactness.agrees_with_vmap(model, objective, image_shape=image_shape, n_classes=n_classes):
                raise ConfigError("per-example gradients of this model come out wrong on this machine")
            if configured == AUTO:
                known[key] = size
            return size
    raise ConfigError(
        f"at {' or '.join(map(str, sizes))} this machine gives a record another gradient at another place of "
        "the batch, so the sensitivity would not hold; multiples of 16 are usually exact"
    )


def fitting(
    model: nn.Module, objective: Objective, image_shape: tuple[int, int, int], n_classes: int
) -> tuple[int, ...]:
    """Return those of `SIZES` that fit into memory, the largest first; at least the smallest."""
    activations = activation_bytes(model, objective, image_shape, n_classes)
    weight = next(model.parameters())
    gradient = dimension(model) * weight.element_size()
    room, on_gpu = memory_of(weight.device) // _SHARE, weight.device.type == "cuda"
    fit = []
    for size in GPU_SIZES if on_gpu else SIZES:
        plain = max(size, PHYSICAL) * activations + gradient
        ours = size * activations * _KEPT + (per_example.at_once(model, size) + 2) * gradient
        if ours <= min(2 * plain, room):
            fit.append(size)
    return tuple(fit) or SIZES[-1:]


def activation_bytes(
    model: nn.Module, objective: Objective, image_shape: tuple[int, int, int], n_classes: int
) -> int:
    """Return how many bytes a forward pass keeps for the backward pass, for one record and its K draws."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    records = exactness.random_records(model, objective, image_shape, n_classes, 2)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        draws = records.draws
        held = objective.loss_batch(model, records.images, records.labels, draws.timesteps, draws.noise)
    del held
    return sum(kept.values()) // 2


def memory_of(device: torch.device) -> int:
    """Return how many bytes `device` has, whoever uses them: the GPU, the machine, or the container."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # control groups, version 2 and 1
        with suppress(OSError, ValueError):  # no control group, or one without a limit ("max")
            limits.append(int((Path("/sys/fs/cgroup") / name).read_text()))
    return min(limits)
