"""How much a private gradient costs, beside a plain one, diffusers' own, and Opacus' hooks.

One example a second is one record through forward and backward pass.  `ours` also clips each record's
gradient, rounds it to the integer grid and adds, in micro-batches as "auto" chooses them; `vmap` does the
same with `vmap(grad)`; `opacus` clips and adds in float.  `plain` is the step of mode `none`, `diffusers`
that of diffusers' example of unconditional training (its scheduler, its loss) with this network's labels.
No optimiser step and no noise is in any of them.  They run in turns in one process, on the same records,
in orders in which each comes as often after every other, since it is slowed by what that left in the caches.
A ratio is the median over the turns of the quotient within a turn, so that a machine that is busy for a while
slows down both sides of it.  One thread is what each worker process of a run computes on.

Memory is the highest sum of what PyTorch has allocated at once, over what stood before; what kernels
allocate by themselves is not in it.

Opacus' figure is its hooks mode, which is fast and WRONG on this network: its middle block hands on
channels_last tensors, `unfold2d` assumes contiguous ones, and some parameters' per-sample gradients come
out about 100 % off.  It is a yardstick of speed, nothing that could be used in our step's place.

Not measured here: GPUs, a noise multiplicity above 1.

    >>> from secure_fed_diffusion.benchmarks import dpsgd
    >>> dpsgd.run()["ratios"]["28x28_178k"]["ours_over_plain"]    # doctest: +SKIP
    0.6
"""

from __future__ import annotations

import itertools
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import DDPMScheduler
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import nn
from torch.profiler import ProfilerActivity, profile

from secure_fed_diffusion.diffusion.objective import Objective, draw, scheduler_config
from secure_fed_diffusion.diffusion.patches import model_shape
from secure_fed_diffusion.diffusion.settings import DiffusionSettings, ModelSettings
from secure_fed_diffusion.diffusion.unet import build_unet
from secure_fed_diffusion.dp.grid import IntegerGrid
from secure_fed_diffusion.errors import ConfigError
from secure_fed_diffusion.training.integer_sums import integer_sum
from secure_fed_diffusion.training.micro_batch import resolve
from secure_fed_diffusion.training.per_example import Records, by_vmap, micro_batches
from secure_fed_diffusion.training.vectors import dimension

MIN_REPETITIONS = 5
_REPETITIONS = 10  # a whole set of orders of five actions
CLIP_NORM = 0.05
N_CLASSES = 10
NOTE = (
    "opacus is GradSampleModule (hooks) with DPOptimizer's clip: its per-sample gradients are wrong on this "
    "U-Net (channels_last tensors out of the middle block), so its speed is a yardstick and no alternative"
)

Action = Callable[[], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A network and the batch that goes through it."""

    image_shape: tuple[int, int, int]
    model: ModelSettings = field(default_factory=ModelSettings)
    batch: int = 64


def _network(*channels: int) -> Case:
    return Case(image_shape=(1, 28, 28), model=ModelSettings(channels=channels, patch=2))


CASES: Mapping[str, Case] = {
    "quickstart": Case(image_shape=(1, 8, 8)),
    "28x28_178k": _network(16, 32),
    "28x28_704k": _network(32, 64),
    "28x28_4.0M": _network(64, 160),
}


def run(
    *, repetitions: int = _REPETITIONS, cases: Mapping[str, Case] = CASES, threads: int = 1
) -> dict[str, Any]:
    """Return {"ratios", "examples_per_second", "memory_bytes", "sizes", "repetitions", "note"}.

    All but the last two are by case.  `ours_over_plain` and the like are shares of the other's examples a
    second: above 1 ours is the faster; `memory_over_plain` is ours over that of the plain step.

    Raises:
        ConfigError: fewer than five repetitions.
    """
    if repetitions < MIN_REPETITIONS:
        raise ConfigError(f"expected repetitions >= {MIN_REPETITIONS}, got {repetitions}", key="repetitions")
    found: dict[str, dict[str, Any]] = {
        name: {} for name in ("ratios", "examples_per_second", "memory_bytes", "sizes")
    }
    with _threads(threads):
        for name, case in cases.items():
            actions, size, length = _actions(case)
            # before the turns, which would leave memory that the next step uses again
            memory = {step: peak_bytes(actions[step]) for step in ("plain", "ours")}
            turns = _in_turns(actions, repetitions)
            found["ratios"][name] = {
                "ours_over_plain": _quotient(turns, "plain", "ours"),
                "ours_over_opacus": _quotient(turns, "opacus", "ours"),
                "ours_over_vmap": _quotient(turns, "vmap", "ours"),
                "plain_over_diffusers": _quotient(turns, "diffusers", "plain"),
                "memory_over_plain": memory["ours"] / memory["plain"],
            }
            found["examples_per_second"][name] = {
                step: case.batch / statistics.median(taken) for step, taken in turns.items()
            }
            found["memory_bytes"][name] = memory
            found["sizes"][name] = (
                f"{length} parameters, batch {case.batch}, ours in micro-batches of {size}, images "
                f"{case.image_shape}, threads: {threads}"
            )
    return {**found, "repetitions": repetitions, "note": NOTE}


def peak_bytes(action: Action) -> int:
    """Return the most memory that PyTorch held at once while `action` ran, over what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        action()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda it: it.start_ns()))
    return max(0, *held)


def _quotient(turns: Mapping[str, list[float]], slower: str, faster: str) -> float:
    return statistics.median(a / b for a, b in zip(turns[slower], turns[faster], strict=True))


@contextmanager
def _threads(wanted: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def balanced_orders(names: Sequence[str]) -> Iterator[list[str]]:
    """Yield orders without end; in 2n of them each name comes twice after every other (Williams 1949)."""
    n = len(names)
    zigzag = [i // 2 + 1 if i % 2 else -(i // 2) for i in range(n)]  # 0, 1, -1, 2, -2, ...: all steps differ
    rows = [[names[(place + shift) % n] for place in zigzag] for shift in range(n)]
    yield from itertools.cycle([*rows, *(row[::-1] for row in rows)])


def _in_turns(actions: Mapping[str, Action], repetitions: int) -> dict[str, list[float]]:
    """Return each action's seconds, turn by turn; the first turn pays for caches and is not counted."""
    samples: dict[str, list[float]] = {name: [] for name in actions}
    for turn, order in zip(range(repetitions + 1), balanced_orders(list(actions)), strict=False):
        for name in order:
            start = time.perf_counter()
            actions[name]()
            if turn:
                samples[name].append(time.perf_counter() - start)
    return samples


def _actions(case: Case) -> tuple[dict[str, Action], int, int]:
    """Return the gradients of one and the same batch, our micro-batch, and the number of parameters."""
    diffusion = DiffusionSettings()
    objective = Objective(diffusion)
    shape = model_shape(case.image_shape, case.model.patch)
    generator = torch.Generator().manual_seed(0)
    records = Records(
        torch.rand((case.batch, *shape), generator=generator) * 2 - 1,
        torch.randint(N_CLASSES, (case.batch,), generator=generator),
        draw(diffusion, shape, keys=[(record,) for record in range(case.batch)]),
    )
    batch = (records.images, records.labels, records.draws.timesteps, records.draws.noise)
    models = [
        build_unet(
            case.model,
            image_shape=case.image_shape,
            n_classes=N_CLASSES,
            n_timesteps=diffusion.timesteps,
        )
        for _ in range(4)
    ]
    plain_model, our_model, hooked_model, diffusers_model = models
    length = dimension(our_model)
    chosen = resolve("auto", our_model, objective, image_shape=shape, n_classes=N_CLASSES)
    size = min(chosen, case.batch)
    scheduler = DDPMScheduler(**scheduler_config(diffusion))
    grid = IntegerGrid.for_dimension(length, CLIP_NORM)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Opacus on hooks of modules whose inputs need no gradient
        hooked = GradSampleModule(hooked_model)
    optimizer = DPOptimizer(
        torch.optim.SGD(hooked.parameters(), lr=0.0),
        noise_multiplier=0.0,
        max_grad_norm=CLIP_NORM,
        expected_batch_size=case.batch,
    )

    def plain() -> None:
        plain_model.zero_grad()
        objective.loss_batch(plain_model, *batch).backward()

    def example() -> None:
        """Differentiate the loss of diffusers' examples/unconditional_image_generation."""
        diffusers_model.zero_grad()
        noise, timesteps = records.draws.noise[:, 0], records.draws.timesteps[:, 0]
        noisy = scheduler.add_noise(records.images, noise, timesteps)
        output = diffusers_model(noisy, timesteps, class_labels=records.labels).sample
        nn.functional.mse_loss(output.float(), noise.float()).backward()

    def ours() -> None:
        integer_sum(micro_batches(our_model, objective, records, size), grid, length)

    def vmapped() -> None:
        cuts = (records.at(torch.arange(i, i + size)) for i in range(0, case.batch, size))
        integer_sum((by_vmap(our_model, objective, cut) for cut in cuts), grid, length)

    def opacus() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            objective.loss_batch(hooked, *batch).backward()
        optimizer.clip_and_accumulate()
        optimizer.zero_grad()

    actions = {"plain": plain, "diffusers": example, "ours": ours, "vmap": vmapped, "opacus": opacus}
    return actions, size, length
