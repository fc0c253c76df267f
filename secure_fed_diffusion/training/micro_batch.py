"""How many records' gradients are computed at once, where a run leaves that to the machine.

The largest of `SIZES` that fits into memory and gives a record the same gradient to the bit wherever it
stands.  It fits if per-example gradients of so many take no more than twice what a plain step on `PHYSICAL`
records takes, and no more than a quarter of the memory at hand: several clients may share a machine.

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
from secure_fed_diffusion.training import per_example
from secure_fed_diffusion.training.vectors import dimension

AUTO = "auto"
SIZES = (64, 32, 16, 8)
PHYSICAL = 64  # records in the plain step that memory is compared with
_SHARE = 4  # of the memory at hand a quarter may be used


_chosen: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()  # once a model and process


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
    if configured != AUTO:
        sizes: tuple[int, ...] = (int(configured),)
    elif model in _chosen:
        return _chosen[model]
    else:
        sizes = fitting(model, objective, image_shape, n_classes)
    for size in sizes:
        if per_example.is_position_independent(
            model, objective, image_shape=image_shape, n_classes=n_classes, size=size
        ):
            if not per_example.agrees_with_vmap(
                model, objective, image_shape=image_shape, n_classes=n_classes
            ):
                raise ConfigError("per-example gradients of this model come out wrong on this machine")
            if configured == AUTO:
                _chosen[model] = size
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
    gradient = dimension(model) * next(model.parameters()).element_size()
    plain = PHYSICAL * activations + gradient
    limit = min(2 * plain, memory_at_hand(next(model.parameters()).device) // _SHARE)
    fit = tuple(size for size in SIZES if size * (activations + gradient) + 2 * gradient <= limit)
    return fit or SIZES[-1:]


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

    records = per_example.random_records(model, objective, image_shape, n_classes, 2)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        draws = records.draws
        held = objective.loss_batch(model, records.images, records.labels, draws.timesteps, draws.noise)
    del held
    return sum(kept.values()) // 2


def memory_at_hand(device: torch.device) -> int:
    """Return how many bytes can be had on `device` now: the GPU's, the system's, or the container's."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():  # Linux: what is free or can be freed at once
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free.append(int(fields["MemAvailable"].split()[0]) * 1024)
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # no control group, or one without a limit ("max")
        free.append(int((group / "memory.max").read_text()) - int((group / "memory.current").read_text()))
    return max(0, min(free))
